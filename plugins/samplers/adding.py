"""Change the logits of a few tokens of each row.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

BAN = float("-inf")


def add(logits: Tensor, amounts: Sequence[Mapping[int, float]]) -> Tensor:
    """Return logits [R, V] with `amounts[row][token]` added to them; BAN forbids the token."""
    if not any(amounts):
        return logits
    import torch

    at = [[r for r, one in enumerate(amounts) for _ in one], [t for one in amounts for t in one]]
    row, token = torch.tensor(at, device=logits.device)
    out = logits.clone()
    out[row, token] += logits.new_tensor([amount for one in amounts for amount in one.values()])
    return out
