"""Keep what stands out from the noise of the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .ranking import keep_above

if TYPE_CHECKING:
    from torch import Tensor


class TopNSigma(Sampler):
    """Keep logits within n standard deviations of the best (Tang et al. 2024, arXiv:2411.07641).

    The deviation is that of the population of tokens that are not forbidden. The temperature, if
    it comes before, changes nothing of what is kept.
    """

    name = "top_n_sigma"
    rank = 10
    n = param(0.0, ge=0, off=0.0, help="standard deviations below the best logit; 1 is usual")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V]; what is below max - n * sigma is at -inf."""
        stats = rows.stats(logits)
        return keep_above(logits, logits - stats.max, -p.n * stats.std)
