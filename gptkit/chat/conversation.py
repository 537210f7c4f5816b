"""What was said: a tree of turns, and the place in it where the talk goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Role = Literal["user", "assistant"]

CANCELLED = "cancelled"
PARTIAL = "partial"
"""The reason of an answer that is being written, or was when the program died."""


@dataclass(frozen=True, slots=True)
class Made:
    """How an answer came about: by which model and chain, of what, and how fast."""

    model: str
    chain: tuple[str, ...]
    token_ids: tuple[int, ...]
    n_prompt: int
    n_reused: int
    first_s: float
    total_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One thing said, after `parent`. An answer has the reason why it ended, and its seed.

    Its number is its place in the order of saying, from 1; users name turns by it.
    """

    number: int
    role: Role
    text: str
    parent: Turn | None = None
    finish_reason: str | None = None
    seed: int | None = None
    made: Made | None = None
    edited: bool = False

    @property
    def is_partial(self) -> bool:
        """Whether this is a half-answer: it was stopped, or failed on the way."""
        return self.finish_reason in (CANCELLED, PARTIAL, "error")

    @property
    def may_go_on(self) -> bool:
        """Whether an answer was ended from outside, so that it can be continued."""
        return self.is_partial or self.finish_reason in ("length", "time")


class Conversation:
    """A tree of turns that only grows; the cursor is the turn that the next one follows."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.cursor: Turn | None = None

    def add(
        self,
        role: Role,
        text: str,
        *,
        finish_reason: str | None = None,
        seed: int | None = None,
        made: Made | None = None,
        edited: bool = False,
    ) -> Turn:
        """Say something after the cursor, and move the cursor to it."""
        number = self.turns[-1].number + 1 if self.turns else 1
        turn = Turn(number, role, text, self.cursor, finish_reason, seed, made, edited)
        self.turns.append(turn)
        self.cursor = turn
        return turn

    def take_back(self, turn: Turn) -> None:
        """Remove a turn that nothing follows, as if it never was; the cursor goes before it."""
        self.turns.remove(turn)
        self.cursor = turn.parent

    def go_to(self, turn: Turn | None) -> None:
        """Move the cursor; None is the place before the first turn. Nothing is lost."""
        self.cursor = turn

    def find(self, number: int) -> Turn | None:
        """Return the turn of a number."""
        return next((turn for turn in self.turns if turn.number == number), None)

    def path(self) -> tuple[Turn, ...]:
        """Return the turns from the first to the cursor."""
        return path_to(self.cursor)

    def children(self, turn: Turn | None) -> list[Turn]:
        """Return what was said next to a turn, in order; of None, how the talk began."""
        return [other for other in self.turns if other.parent is turn]

    def tip(self, turn: Turn) -> Turn:
        """Return where the talk that goes through a turn was last."""
        while children := self.children(turn):
            turn = children[-1]
        return turn

    def ways(self) -> list[Turn]:
        """Return the turns of the last fork: behind the cursor, else on the way to it."""
        for turn in (self.cursor, *(turn.parent for turn in reversed(self.path()))):
            if len(ways := self.children(turn)) > 1:
                return ways
        return []

    def before(self, n: int) -> Turn | None:
        """Return the turn that the last n exchanges of the path follow."""
        asked = [turn for turn in self.path() if turn.role == "user"]
        return asked[-n].parent if n <= len(asked) else None


def path_to(turn: Turn | None) -> tuple[Turn, ...]:
    """Return the turns from the first to this one."""
    turns = []
    while turn is not None:
        turns.append(turn)
        turn = turn.parent
    return tuple(reversed(turns))


def drawn(conversation: Conversation) -> Iterator[tuple[str, Turn]]:
    """Yield each turn with the lines of the tree that lead to it, top to bottom.

    A talk without branches is a straight line; where it forks, each branch but the last hangs on
    a line of its own.
    """

    def below(turn: Turn | None, lead: str) -> Iterator[tuple[str, Turn]]:
        children = conversation.children(turn)
        while len(children) == 1:  # no recursion on a line: talks may be long
            yield lead, children[0]
            children = conversation.children(children[0])
        for i, child in enumerate(children):
            last = i == len(children) - 1
            yield lead + ("└─ " if last else "├─ "), child
            yield from below(child, lead + ("   " if last else "│  "))

    yield from below(None, "")
