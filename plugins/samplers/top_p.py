"""Keep a fixed probability mass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .ranking import keep_best

if TYPE_CHECKING:
    from torch import Tensor

FIRST_LOOK = 64
UNIT = 2.0**40  # integers of this unit add up to the same sum in any order


class TopP(Sampler):
    """Keep the best tokens until their mass is p (Holtzman et al. 2019, arXiv:1904.09751)."""

    name = "top_p"
    rank = 30
    p = param(1.0, ge=0, le=1, off=1.0, help="probability mass to keep; 0 keeps one token")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V]; a token stays while the mass strictly before it is below p.

        A full sort costs far more than the forward pass of a small model, so it looks at the best
        64, 256, ... tokens, and sorts the whole row only where their mass never reaches p.
        """
        probs = logits.softmax(-1)
        goal = (p.p.double() * UNIT).round().long()  # [R, 1]
        width = min(FIRST_LOOK, rows.V)
        while True:
            best = probs.topk(width, dim=-1).values  # [R, W], descending
            mass = (best.double() * UNIT).round().long()
            upto = mass.cumsum(-1)
            if width == rows.V or bool((upto[:, -1:] >= goal).all()):
                break
            width = min(4 * width, rows.V)
        n = ((upto - mass) < goal).sum(-1, keepdim=True).clamp_min(1)
        least = logits.topk(width, dim=-1).values.gather(-1, n - 1)
        return keep_best(logits, n, least)
