"""Keep a fixed probability mass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .ranking import keep_first, reach_by_logit

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
