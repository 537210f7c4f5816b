"""Take the best token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, Shortlist

from .ranking import best_ids

if TYPE_CHECKING:
    from torch import Tensor


class Greedy(Sampler):
    """Take the most likely token; of equals the lowest id."""

    name = "greedy"
    phase = "pick"

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return token ids [R] of the maxima."""
        return best_ids(logits)

    def most_left(self, p: Params) -> int:
        """Return 1."""
        return 1

    def shorten(self, short: Shortlist, p: Params) -> int:
        """Return the first."""
        return 0
