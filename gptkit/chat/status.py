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
    """Return what fits, the least important left out first: the bar, then the last parts."""
    used, size = session.n_used, session.model.config.block_size
    full = min(BAR, -(-used * BAR // size))
    left = f"{size - used:,} left"
    both = f"{used:,} of {size:,}, {left}"
    more = []
    if (last := session.last) is not None:
        more = [f"{last.tok_per_s:,.0f} tokens/s", f"{last.n_reused:,} reused"]
    name, place = safe_line(session.model.name), _place(session.conversation)
    bar = f"context {'▰' * full}{'▱' * (BAR - full)} {both}"
    rest = [*more, *filter(None, [place])]
    tries = [[name, bar, *rest], *([name, both, *rest[:n]] for n in range(len(rest), -1, -1))]
    fitting = (GAP.join(parts) for parts in (*tries, [name, left], [left]))
    return next((said for said in fitting if get_cwidth(said) <= columns), "")


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
