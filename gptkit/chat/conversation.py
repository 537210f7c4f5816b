"""What was said: a tree of turns, and the place in it where the talk goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["user", "assistant"]

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One thing said, after `parent`. An answer has the reason why it ended, and its seed."""

    role: Role
    text: str
    parent: Turn | None = None
    finish_reason: str | None = None
    seed: int | None = None

    @property
    def is_partial(self) -> bool:
        """Whether this is a half-answer: it was stopped, or failed on the way."""
        return self.finish_reason in (CANCELLED, "error")


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
    ) -> Turn:
        """Say something after the cursor, and move the cursor to it."""
        turn = Turn(role, text, self.cursor, finish_reason, seed)
        self.turns.append(turn)
        self.cursor = turn
        return turn

    def go_to(self, turn: Turn | None) -> None:
        """Move the cursor; None is the place before the first turn. Nothing is lost."""
        self.cursor = turn

    def path(self) -> tuple[Turn, ...]:
        """Return the turns from the first to the cursor."""
        turns = []
        turn = self.cursor
        while turn is not None:
            turns.append(turn)
            turn = turn.parent
        return tuple(reversed(turns))
