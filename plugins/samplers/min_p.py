"""Keep what is not much less likely than the best."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, Shortlist, param

from .ranking import keep_above

if TYPE_CHECKING:
    from torch import Tensor


class MinP(Sampler):
    """Keep tokens at least m times as likely as the best (Nguyen et al. 2024, arXiv:2407.01082)."""

    name = "min_p"
    rank = 40
    m = param(0.0, ge=0, le=1, off=0.0, help="share of the best token's probability; 1 is the best")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V]; what is more than -ln m below the best is at -inf."""
        below = logits - logits.amax(-1, keepdim=True)
        return keep_above(logits, below, p.m.double().log().float())

    def shorten(self, short: Shortlist, p: Params) -> list[float]:
        """Return what is not below."""
        first, least = short.logits[0], math.log(p.m) if p.m else -math.inf
        *figures, least = array("f", [*(logit - first for logit in short.logits), least])
        n = sum(figure >= least for figure in figures)
        return short.logits[:n]
