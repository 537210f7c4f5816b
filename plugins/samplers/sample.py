"""Draw a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler

from .ranking import FIRST_LOOK, NO, survivors, top_ids

if TYPE_CHECKING:
    from torch import Tensor


class Sample(Sampler):
    """Draw from what the chain left, by the Gumbel-max trick over keyed noise (Gumbel 1954)."""

    name = "sample"
    phase = "pick"

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return token ids [R], distributed as softmax(logits [R, V])."""
        ids = survivors(logits)
        if ids is None:
            ids = top_ids(logits, min(FIRST_LOOK, rows.V))
            if bool((logits.gather(-1, ids).amin(-1) > NO).any()):  # a row may have more
                n = int((logits > NO).sum(-1).max())
                if n > rows.V // 4:
                    return (logits + _gumbel(rows.noise())).argmax(-1)
                ids = top_ids(logits, n)
        ids = ids.sort(-1).values  # by id, as in the full row
        best = (logits.gather(-1, ids) + _gumbel(rows.noise(ids))).argmax(-1, keepdim=True)
        return ids.gather(-1, best)[:, 0]


def _gumbel(u: Tensor) -> Tensor:
    """Return Gumbel noise; large values, which win, come from u near 0, where floats are dense."""
    # float64, because the float32 logarithm of a tensor depends on where in it a value stands
    return -(-(-u.double()).log1p()).log()
