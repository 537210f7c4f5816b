"""The tokens of an answer as they can be looked at: how likely each was, and what else there was.

It knows no terminal: `probs_view.py` draws it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptkit.errors import GptkitError
from gptkit.text.safe import safe

if TYPE_CHECKING:
    from gptkit.chat.conversation import Turn
    from gptkit.chat.session import Session
    from gptkit.decoding.request import StageTrace
    from gptkit.plugin_api import Tokenizer

LEVELS = (0.9, 0.5, 0.2, 0.05, 0.01)
"""A token at or above the first is of level 0, one below the last of level 5."""
UNLIKELY = 0.2


@dataclass(frozen=True, slots=True)
class Option:
    """A token that might have been, or was, and its probability before the chain."""

    token_id: int
    text: str
    p: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One token of the answer. Its probability is None where it was there before."""

    token_id: int
    text: str
    p: float | None
    options: tuple[Option, ...]

    @property
    def level(self) -> int | None:
        """How unlikely it was, from 0 to 5."""
        if self.p is None:
            return None
        return sum(self.p < bound for bound in LEVELS)


class Probs:
    """An answer's tokens, the one that is looked at, and the option that is pointed to."""

    def __init__(self, session: Session, turn: Turn) -> None:
        self.session = session
        self.turn = turn
        tokenizer = session.model.tokenizer
        self.cells = [
            Cell(
                look.token_id,
                shown(tokenizer, look.token_id),
                None if look.logprob is None else math.exp(look.logprob),
                tuple(
                    Option(one.token_id, shown(tokenizer, one.token_id), math.exp(one.logprob))
                    for one in look.alternatives
                ),
            )
            for look in session.looks[turn.number]
        ]
        self.at = 0
        self.pointed = self._chosen()
        self._traces: dict[int, tuple[StageTrace, ...] | str] = {}

    @property
    def cell(self) -> Cell:
        """The token that is looked at."""
        return self.cells[self.at]

    @property
    def option(self) -> Option | None:
        """The option that is pointed to."""
        return self.cell.options[self.pointed] if self.cell.options else None

    def move(self, n: int) -> None:
        """Look at the token n places on; beyond the ends at the last or the first."""
        self.at = min(max(self.at + n, 0), len(self.cells) - 1)
        self.pointed = self._chosen()

    def point(self, n: int) -> None:
        """Point to the option n places down."""
        self.pointed = min(max(self.pointed + n, 0), max(len(self.cell.options) - 1, 0))

    def move_to_unlikely(self) -> None:
        """Look at the next token that was unlikely, behind the last at the first again."""
        order = [*range(self.at + 1, len(self.cells)), *range(self.at + 1)]
        for i in order:
            p = self.cells[i].p
            if p is not None and p < UNLIKELY:
                self.move(i - self.at)
                return

    def trace(self) -> tuple[StageTrace, ...] | str:
        """Return what each stage did to the token, or why that can't be said."""
        if self.at not in self._traces:
            try:
                self._traces[self.at] = self.session.inspect(self.turn, self.at)
            except GptkitError as error:
                self._traces[self.at] = str(error)
        return self._traces[self.at]

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Return the tokens as a table, for where there is no screen."""
        out: list[tuple[str, ...]] = [("token", "p", "else")]
        for cell in self.cells:
            others = [f"{o.text!r} {o.p:.2f}" for o in cell.options if o.token_id != cell.token_id]
            p = "-" if cell.p is None else f"{cell.p:.3f}"
            out.append((repr(cell.text), p, "  ".join(others[:3])))
        return tuple(out)

    def _chosen(self) -> int:
        """Return the place of the token itself among its options, 0 where it is not there."""
        ids = [option.token_id for option in self.cell.options]
        return ids.index(self.cell.token_id) if self.cell.token_id in ids else 0


def shown(tokenizer: Tokenizer, token_id: int) -> str:
    """Return a token as one line: blanks stay, a line's end is ⏎, what is no text is \\xNN."""
    names = {number: name for name, number in tokenizer.special.items()}
    if token_id in names:
        return safe(names[token_id])
    data = tokenizer.token_bytes(token_id)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}" for b in data)
    return safe(text.replace("\t", "⇥")).replace("\n", "⏎")
