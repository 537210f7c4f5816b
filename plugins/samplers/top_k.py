"""Keep a fixed number of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, Shortlist, param

from .ranking import keep_best

if TYPE_CHECKING:
    from torch import Tensor


class TopK(Sampler):
    """Keep the k most likely tokens, exactly k: ties go to the lower id (Fan et al. 2018)."""

    name = "top_k"
    rank = 20
    k = param(0, ge=0, off=0, help="how many tokens stay")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] with all but k of each row at -inf; more than V is all."""
        return keep_best(logits, p.k.clamp_min(1))  # rows that are off are restored by the engine

    def most_left(self, p: Params) -> int | None:
        """Return k, unless it is off."""
        return int(p.k) or None

    def shorten(self, short: Shortlist, p: Params) -> list[float]:
        """Return the first k."""
        return short.logits[: p.k]
