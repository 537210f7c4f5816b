"""Matrices packed for few rows: oneDNN's blocked layout, float32 on a CPU.

torch's own product of 4 rows and an unpacked matrix takes three times as long. A packed product
gives a row the same bits among 2 rows or 512 (measured). The operators are those that torch's own
compiler uses for frozen weights; where a build has none, nothing is packed.

Shapes: N rows, I in, O out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gptkit.model.forward import ROWS

if TYPE_CHECKING:
    from torch import Tensor


def is_available() -> bool:
    """Whether this build of torch, on this processor, can pack."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def pack(weight: Tensor) -> Tensor:
    """Return a packed copy of a matrix [O, I], for `linear` alone."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    return packed


def linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight.T + bias [N, O] for x [N, I] and a packed matrix [O, I]."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out
