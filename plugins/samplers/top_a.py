"""Keep what is likely, the fewer the surer the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from .ranking import keep_above

if TYPE_CHECKING:
    from torch import Tensor


class TopA(Sampler):
    """Keep tokens with a probability of at least a * max(p)**2 (BlinkDL 2021, RWKV-LM)."""

    name = "top_a"
    rank = 50
    a = param(0.0, ge=0, le=1, off=0.0, help="threshold factor")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V]; the best token stays, as a * max(p) is at most 1."""
        probs = logits.softmax(-1)
        return keep_above(logits, probs, p.a * probs.amax(-1, keepdim=True).square())
