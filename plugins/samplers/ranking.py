"""Keep the best n tokens of each row, exactly n: by logit, descending, then by id, ascending.

Shapes: R rows, V vocabulary, W the tokens looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def keep_best(logits: Tensor, n: Tensor, least: Tensor) -> Tensor:
    """Return logits [R, V], all but the best n [R, 1] at -inf; `least` [R, 1] is the n-th value.

    Every token above `least` stays; of those tied with it the lowest ids fill what is left.
    """
    keep = logits >= least
    spare = keep.sum(-1, keepdim=True) - n  # tied tokens too many
    if bool((spare > 0).any()):
        tied = logits == least
        room = tied.sum(-1, keepdim=True) - spare
        keep = keep & (~tied | (tied.cumsum(-1) <= room))
    return logits.masked_fill(~keep, float("-inf"))
