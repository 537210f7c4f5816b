"""What a session shows besides answers, as lines of plain text: for pipes and simple terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.chat.events import Heading, Prompted, Table, Tree

if TYPE_CHECKING:
    from gptkit.chat.conversation import Turn

FIRST_CHARS = 60


def lines(shown: Table | Tree | Prompted | Heading) -> list[str]:
    """Return the lines of what is shown; columns are as wide as their widest cells."""
    match shown:
        case Table():
            return columns(shown.rows)
        case Tree():
            return [f"{lead}{summary(turn, here=turn is shown.here)}" for lead, turn in shown.rows]
        case Heading():
            return [f"--- {shown.text}"]
        case Prompted():
            return ["".join(text for text, _ in shown.pieces), counted(shown)]


def columns(rows: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return rows as lines."""
    n = max(map(len, rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(n)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def summary(turn: Turn, *, here: bool) -> str:
    """Say in a line what a turn is: its number, whose it is, how it begins."""
    who = "you" if turn.role == "user" else "model"
    marks = [
        *(["edited"] if turn.edited else []),
        *([str(turn.finish_reason)] if turn.may_go_on else []),
        *(["you are here"] if here else []),
    ]
    return f"{turn.number} {who}{''.join(f' [{mark}]' for mark in marks)}: {shortened(turn.text)}"


def shortened(text: str) -> str:
    """Return how a text begins, as one line."""
    line = " ".join(text.split())
    return f"{line[:FIRST_CHARS]}{'…' * (len(line) > FIRST_CHARS)}"


def counted(shown: Prompted) -> str:
    """Say how long a prompt is, and what was left out of it."""
    dropped = f", {shown.n_dropped:,} turns left out" if shown.n_dropped else ""
    return f"({shown.n_tokens:,} token{'s' * (shown.n_tokens != 1)}{dropped})"
