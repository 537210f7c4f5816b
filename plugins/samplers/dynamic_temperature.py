"""Flatten or sharpen by how sure the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .temperature import cool

if TYPE_CHECKING:
    from torch import Tensor


class DynamicTemperature(Sampler):
    """Choose the temperature between low and high by the entropy (kalomaze 2024, "dynatemp").

    It is low + (high - low) * (H / ln n)**exponent, H the entropy and n the number of the tokens
    that are not forbidden: low where one is certain, high where all are equally likely. A row of
    one token stays as it is. This is what llama.cpp does (pull request 4972).
    """

    name = "dynamic_temperature"
    phase = "scale"
    rank = 40
    low = param(1.0, ge=0, le=100, off=1.0, help="temperature where the model is sure")
    high = param(1.0, ge=0, le=100, off=1.0, help="temperature where it is not")
    exponent = param(1.0, gt=0, le=100, help="above 1 it stays near low for longer")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V], each row divided by a temperature of its own."""
        stats = rows.stats(logits)
        alone = stats.support < 2
        # float64, because a float32 power depends on where in the tensor it stands
        most = stats.support.double().log().masked_fill(alone, 1.0)
        share = (stats.entropy.double() / most).clamp(0, 1)
        t = p.low + (p.high - p.low) * share.pow(p.exponent.double()).float()
        return cool(logits, t.masked_fill(alone, 1.0))
