"""What a session yields besides the engine's own events: notes, tables, ends of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptkit.chat.conversation import CANCELLED
from gptkit.decoding.request import Event

if TYPE_CHECKING:
    from gptkit.chat.conversation import Turn
    from gptkit.decoding.request import Alternative, StageTrace
    from gptkit.errors import GptkitError


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the user should know and that is no error."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """What a command shows: rows of cells."""

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """What the next answer is, where there are several."""

    text: str


@dataclass(frozen=True, slots=True)
class Tree:
    """The conversation as a tree: lines that lead to a turn, and the turn; `here` is the cursor."""

    rows: tuple[tuple[str, Turn], ...]
    here: Turn | None


@dataclass(frozen=True, slots=True)
class Prompted:
    """The exact prompt: pieces of text, each with whether it is a control token."""

    pieces: tuple[tuple[str, bool], ...]
    n_tokens: int
    n_dropped: int


@dataclass(frozen=True, slots=True)
class Look:
    """A token of an answer as it was chosen: its log-probability, what else might have been.

    One that was not chosen here, but was there before, has the token alone.
    """

    token_id: int
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    trace: tuple[StageTrace, ...] = ()


@dataclass(frozen=True, slots=True)
class Probed:
    """The user wants to look at the tokens of an answer."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class EditWanted:
    """The user wants to write a turn anew; whoever shows this calls `session.edit`."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class LinesWanted:
    """The user wants to write several lines."""


@dataclass(frozen=True, slots=True)
class MarkdownWanted:
    """Finished answers are to be shown as Markdown, or not; None asks which it is."""

    on: bool | None


@dataclass(frozen=True, slots=True)
class Copied:
    """A text for the clipboard."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A line could not be served; the session goes on."""

    error: GptkitError


@dataclass(frozen=True, slots=True)
class Left:
    """The user wants to leave."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The end of an answer: the turn, tokens of the prompt, how many came from the cache, times."""

    turn: Turn
    n_prompt: int
    n_reused: int
    n_new: int
    first_s: float
    total_s: float

    @property
    def tok_per_s(self) -> float:
        """Tokens per second after the first, whose time is that of reading the prompt."""
        seconds = self.total_s - self.first_s
        return (self.n_new - 1) / seconds if self.n_new > 1 and seconds > 0 else 0.0

    @property
    def mark(self) -> str:
        """Say why the answer is not a whole one; empty where the model ended it itself."""
        reason = self.turn.finish_reason or ""
        marks = {
            CANCELLED: "stopped",
            "length": f"cut at {self.n_new:,} tokens",
            "context": "cut: the context is full",
            "time": "cut: time is up",
            "repeat": "cut: it repeats itself",
            "error": "failed",
        }
        return marks.get(reason, "" if self.turn.text else "no answer")


SessionEvent = (
    Event
    | Note
    | Table
    | Heading
    | Tree
    | Prompted
    | Probed
    | EditWanted
    | LinesWanted
    | MarkdownWanted
    | Copied
    | Failed
    | Left
    | Answered
)
