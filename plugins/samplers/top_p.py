"""Keep a fixed probability mass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, Shortlist, param

from .ranking import FIRST_LOOK, keep_first, n_that_reach, reach_by_logit

if TYPE_CHECKING:
    from torch import Tensor


class TopP(Sampler):
    """Keep the best tokens until their mass is p (Holtzman et al. 2019, arXiv:1904.09751)."""

    name = "top_p"
    rank = 30
    p = param(1.0, ge=0, le=1, off=1.0, help="probability mass to keep; 0 keeps one token")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V]; a token stays while the mass strictly before it is below p."""
        return keep_first(logits, reach_by_logit(logits, p.p))

    def shorten(self, short: Shortlist, p: Params) -> list[float] | None:
        """Return the first of few tokens; None where the mass of more counts."""
        if not short.is_all or len(short.logits) >= FIRST_LOOK:
            return None
        return short.logits[: n_that_reach(short.logits, p.p)]
