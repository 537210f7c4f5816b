"""The line below the prompt: model, context, speed, and where in the conversation this is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prompt_toolkit.utils import get_cwidth

from gptkit.text.safe import safe_line

if TYPE_CHECKING:
    from gptkit.chat.conversation import Conversation
    from gptkit.chat.session import Session

BAR = 8
GAP = " · "


def line(session: Session, columns: int) -> str:
    """Return what fits, the least important left out first: the last part of it."""
    used, size = session.n_used, session.model.config.block_size
    full = min(BAR, -(-used * BAR // size))
    left = f"{used:,} of {size:,}, {size - used:,} left"
    parts = [session.model.name, f"context {'▰' * full}{'▱' * (BAR - full)} {left}"]
    if (last := session.last) is not None:
        parts += [f"{last.tok_per_s:,.0f} tokens/s", f"{last.n_reused:,} reused"]
    if place := _place(session.conversation):
        parts.append(place)
    shown = [safe_line(part) for part in parts]
    while len(shown) > 1 and get_cwidth(GAP.join(shown)) > columns:
        shown.pop()
    return GAP.join(shown)


def _place(talk: Conversation) -> str:
    """Say at which turn the talk is, and on which branch of its last fork."""
    if talk.cursor is None:
        return ""
    ways: dict[int, list[int]] = {}
    for turn in talk.turns:
        ways.setdefault(turn.parent.number if turn.parent else 0, []).append(turn.number)
    for turn in reversed(talk.path()):
        among = ways[turn.parent.number if turn.parent else 0]
        if len(among) > 1:
            nth = among.index(turn.number) + 1
            return f"turn {talk.cursor.number}, branch {nth} of {len(among)}"
    return f"turn {talk.cursor.number}"
