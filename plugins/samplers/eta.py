"""Keep what is not unlikely, and more where the model is unsure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .ranking import keep_above

if TYPE_CHECKING:
    from torch import Tensor


class Eta(Sampler):
    """Keep what is likely, by a bound that falls with the entropy (Hewitt et al. 2022).

    The bound is min(eps, sqrt(eps) * exp(-H)), arXiv:2210.15191; the best token stays in any case.
    """

    name = "eta"
    rank = 80
    eps = param(0.0, ge=0, lt=1, off=0.0, help="least probability; 0.0003 to 0.002 are usual")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V]; what is below the bound is at -inf."""
        eps, entropy = p.eps.double(), rows.stats(logits).entropy.double()
        bound = (eps.sqrt() * (-entropy).exp()).minimum(eps)
        return keep_above(logits, logits.softmax(-1), bound.float())
