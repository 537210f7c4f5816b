"""Keep what says about as much as was to be expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .ranking import keep_first, reach

if TYPE_CHECKING:
    from torch import Tensor

LOWEST = -1e3  # exp of it is 0 in float64, and 0 times it is no NaN


class Typical(Sampler):
    """Keep a mass tau of the least remarkable tokens (Meister et al. 2022, arXiv:2202.00666).

    In the order of how far the surprise -ln p is from its mean, the entropy, a token stays while
    the mass strictly before it is below tau. The best token need not be among them.
    """

    name = "typical"
    rank = 60
    tau = param(1.0, gt=0, le=1, off=1.0, help="probability mass to keep")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V]; of tokens equally far from the mean the lower ids stay."""
        d = logits.double() - logits.amax(-1, keepdim=True).double()  # ln p, but for a constant
        weights = d.exp()
        probs = weights / weights.sum(-1, keepdim=True)
        mean = (probs * d.clamp_min(LOWEST)).sum(-1, keepdim=True)
        return keep_first(logits, reach(probs, p.tau), score=-(d - mean).abs())
