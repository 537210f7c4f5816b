"""Cut where the curve of the probabilities gets flat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .ranking import NO, keep_first

if TYPE_CHECKING:
    from torch import Tensor

    from .ranking import Floats, Ints

UNIT = 2.0**52  # integers of this unit add up to the same sum in any order


class TailFree(Sampler):
    """Drop the tail, from where the sorted probabilities fall evenly (Bricken 2019).

    The absolute second differences of the sorted probabilities are divided by their sum and summed
    up; the best token stays, and each next one while that sum is at most z. The last of all tokens
    goes, unless the probabilities lie on a straight line, where nothing does.
    """

    name = "tail_free"
    rank = 90
    z = param(1.0, ge=0, le=1, off=1.0, help="share of the bend to keep; 0.95 is usual")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V], all but the head of each row at -inf."""
        import numpy as np

        n_tokens = logits.shape[-1]
        if n_tokens < 3:  # there is no second difference
            return logits
        goals = p.z.double().cpu().numpy()

        def count(rows: Ints, ids: Ints, scores: Floats) -> Ints:
            if scores.shape[-1] < 3:  # where a stage before has left one or two
                scores = np.pad(scores, ((0, 0), (0, 3)), constant_values=NO)
            d = scores.astype(np.float64) - scores[:, :1]  # [r, W]
            probs = np.rint(np.exp(d) * UNIT).astype(np.int64)  # but for a factor
            bend = np.abs(np.diff(probs, n=2)).cumsum(-1)  # [r, W - 2]
            least = most = bend[:, -1:]  # bounds of the sum over all of V
            if ids.shape[-1] < n_tokens:  # the rest falls to 0, at worst in steps
                most = least + probs[:, -2:].sum(-1, keepdims=True)
            z = goals[rows]
            n: Ints = 1 + (bend <= z * least).sum(-1)
            n_most = 1 + (bend <= z * most).sum(-1)
            n = np.where(n < n_most, n_tokens + 2, n)  # these alone don't tell
            return np.where(most[:, 0] == 0, n_tokens, n)

        return keep_first(logits, count)
