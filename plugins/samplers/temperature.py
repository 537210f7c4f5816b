"""Flatten or sharpen."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, Shortlist, param

from .ranking import best_ids

if TYPE_CHECKING:
    from torch import Tensor

# Below it a quotient of float32 logits could overflow, and nothing else would change.
COLDEST = array("f", [1e-4])[0]


class Temperature(Sampler):
    """Divide the logits by t; 0 keeps only the best token (Ackley, Hinton and Sejnowski 1985)."""

    name = "temperature"
    phase = "scale"
    rank = 50
    t = param(1.0, ge=0, le=100, off=1.0, help="below 1 sharper, above 1 flatter, 0 is greedy")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits / t [R, V]."""
        return cool(logits, p.t)

    def shorten(self, short: Shortlist, p: Params) -> list[float]:
        """Return the quotients, or the first at 0."""
        if p.t == 0:
            return short.logits[:1]
        t = max(p.t, COLDEST)
        return array("f", [logit / t for logit in short.logits]).tolist()


def cool(logits: Tensor, t: Tensor) -> Tensor:
    """Return logits [R, V] at temperatures t [R, 1]; at 0 all but the best token are at -inf."""
    scaled: Tensor = logits / t.clamp_min(COLDEST)
    if 0.0 not in t[:, 0].tolist():
        return scaled
    best = best_ids(logits)[:, None]
    value = logits.gather(-1, best)
    only = logits.new_full(logits.shape, float("-inf")).scatter(-1, best, value)
    return only.where(t == 0, scaled)
