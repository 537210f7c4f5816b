"""Bring the good tokens closer together and the bad ones further down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

if TYPE_CHECKING:
    from torch import Tensor

FARTHEST = -1e9  # its cube is finite in float32; such a token has no probability either way


class Smoothing(Sampler):
    """Make the logits a parabola or cubic of themselves (kalomaze 2024, "quadratic sampling").

    With d = logit - max it is max - factor * (k d**2 - s d**3), k = (3 - curve) / 2 and
    s = (curve - 1) / 2. A factor that goes to 0 would make all tokens equally likely.
    """

    name = "smoothing"
    phase = "scale"
    rank = 60
    factor = param(0.0, ge=0, le=100, off=0.0, help="how steep it falls; 0 is off, not flat")
    curve = param(1.0, ge=1, le=3, help="1 is a parabola, 3 a cubic")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] of the same order and maximum."""
        best = logits.amax(-1, keepdim=True)
        d = (logits - best).clamp_min(FARTHEST)
        bent: Tensor = best - p.factor * d.square() * ((3 - p.curve) / 2 - (p.curve - 1) / 2 * d)
        return bent.masked_fill(logits == float("-inf"), float("-inf"))
