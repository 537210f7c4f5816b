"""Stop in a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import Stop, StoppingCriterion, param

if TYPE_CHECKING:
    from gptkit.plugin_api import RequestView


class Repeat(StoppingCriterion):
    """End when the last tokens are the same block again and again; the text stays as it is."""

    name = "repeat"
    rank = 40
    count = param(4, ge=2, le=1000, help="how many times the block stands in a row")
    period = param(64, ge=1, le=1024, help="tokens that a block has at most")
    tokens = param(48, ge=0, le=65_536, help="tokens that all copies have together at least")

    def init_state(self, request: RequestView) -> Any:
        """Return how long the text has had each period, the last tokens, and what is needed."""
        count, period, tokens = (request.params[key] for key in ("count", "period", "tokens"))
        needed = tuple(max((count - 1) * p, tokens - p) for p in range(1, period + 1))
        return (0,) * period, (-1,) * period, needed

    def push(self, state: Any, token_id: int, data: bytes, n_out: int) -> tuple[Any, Stop | None]:
        """Stop at the last token of the last copy.

        runs[p - 1] counts the tokens in a row that equal the one p places earlier: c copies of a
        block of p tokens have (c - 1) * p of them. O(period), exact, and nothing is read again.
        """
        runs, recent, needed = state
        runs = tuple(
            run + 1 if token == token_id else 0 for run, token in zip(runs, recent, strict=True)
        )
        looped = any(run >= least for run, least in zip(runs, needed, strict=True))
        return (runs, (token_id, *recent[:-1]), needed), Stop("repeat") if looped else None
