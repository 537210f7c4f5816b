"""Draw a token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, Shortlist, best

from .ranking import FIRST_LOOK, NO, survivors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .ranking import Floats, Ints


class Sample(Sampler):
    """Draw from what the chain left, by the Gumbel-max trick over keyed noise (Gumbel 1954)."""

    name = "sample"
    phase = "pick"

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return token ids [R], distributed as softmax(logits [R, V])."""
        import numpy as np
        import torch

        found = survivors(logits) or _few(logits)
        if found is None:
            noise = rows.noise().cpu().numpy()
            picks = (logits.cpu().numpy() + _gumbel(noise)).argmax(-1)
        else:
            ids, scores = found
            noise = rows.noise(torch.from_numpy(ids)).cpu().numpy()
            perturbed = scores + _gumbel(noise)
            is_best = perturbed == perturbed.max(-1, keepdims=True)
            picks = np.where(is_best, ids, rows.V).min(-1)  # the lowest id, as in the full row
        return torch.from_numpy(picks).to(logits.device)

    def shorten(self, short: Shortlist, p: Params) -> int | None:
        """Return which is drawn, unless there are more.

        Logarithms may differ from NumPy's in the last bit of float64, which decides nothing: the
        noise is made of 32 bits.
        """
        if not short.is_all:
            return None
        pairs = zip(short.logits, short.noise, strict=True)
        perturbed = [logit - math.log(-math.log1p(-u)) for logit, u in pairs]
        return perturbed.index(max(perturbed))


def _few(logits: Tensor) -> tuple[Ints, Floats] | None:
    """Return ids and logits [R, W] of all tokens left of logits [R, V]; None if many are."""
    n_tokens = logits.shape[-1]
    found = best(logits, min(FIRST_LOOK, n_tokens))
    if (found[1][:, -1] > NO).any():  # a row may have more
        n = int((logits > NO).sum(-1).max())
        if n > n_tokens // 4:
            return None
        found = best(logits, n)
    return found


def _gumbel(u: Floats) -> NDArray[np.float64]:
    """Return Gumbel noise; large values, which win, come from u near 0, where floats are dense."""
    import numpy as np

    # float64, because the float32 logarithm of an array may depend on where in it a value stands
    noise: NDArray[np.float64] = -np.log(-np.log1p(-u.astype(np.float64)))
    return noise
