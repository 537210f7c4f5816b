"""Keep what is not unlikely."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .ranking import keep_above

if TYPE_CHECKING:
    from torch import Tensor


class Epsilon(Sampler):
    """Keep tokens with a probability of at least eps (Hewitt et al. 2022, arXiv:2210.15191)."""

    name = "epsilon"
    rank = 70
    eps = param(0.0, ge=0, lt=1, off=0.0, help="least probability; 0.0003 to 0.0009 are usual")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V]; the best token stays in any case."""
        return keep_above(logits, logits.softmax(-1), p.eps)
