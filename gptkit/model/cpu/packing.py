"""Matrices in the layout of the kernels: panels of 16 output rows, K-major, with scales by groups.

Shapes: a matrix [O, K] has P = O / 16 panels, rounded up; K is rounded up to whole groups of 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gptkit.model.cpu import kernels
from gptkit.model.forward import round_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNED = 64
"""Bytes: vectors that cross a cache line cost time."""


class Packed(NamedTuple):
    """A matrix of `n_out` rows and `n_in` columns, in panels; `scales` is empty for floats."""

    kind: int
    n_out: int
    n_in: int
    weights: NDArray[Any]
    scales: NDArray[np.float16]

    @property
    def nbytes(self) -> int:
        """Bytes of weights and scales."""
        return self.weights.nbytes + self.scales.nbytes

    def row(self) -> NDArray[np.int64]:
        """Return what the kernels know of it: addresses, strides, kind, K rounded up, O."""
        n_panels = len(self.weights)
        scaled = self.scales.size > 0
        return np.array(
            [
                self.weights.ctypes.data,
                self.weights.nbytes // n_panels,
                self.scales.ctypes.data if scaled else 0,
                self.scales.nbytes // n_panels if scaled else 0,
                self.kind,
                round_up(self.n_in, kernels.GROUP),
                self.n_out,
            ],
            np.int64,
        )


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return zeros that begin at a cache line."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + ALIGNED, np.uint8)
    start = -raw.ctypes.data % ALIGNED
    made: NDArray[Any] = raw[start : start + n_bytes].view(dtype).reshape(shape)
    return made


def bf16_bits(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of the nearest bfloat16, to even."""
    u = x.view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def pack(matrix: NDArray[np.float32], kind: int) -> Packed:
    """Return a matrix [O, K] in panels, each group of 32 inputs with a scale of its own in 8 bits
    and 4: the largest weight is 127 or -8 steps."""
    n_out, n_in = matrix.shape
    n_panels, k = -(-n_out // kernels.LANES), round_up(n_in, kernels.GROUP)
    if matrix.shape != (n_panels * kernels.LANES, k):
        whole = np.zeros((n_panels * kernels.LANES, k), np.float32)
        whole[:n_out, :n_in] = matrix
        matrix = whole
    panels = matrix.reshape(n_panels, kernels.LANES, k)
    none = np.zeros(0, np.float16)
    weights: NDArray[Any]
    if kind == kernels.F32:
        return Packed(kind, n_out, n_in, _laid(panels.transpose(0, 2, 1)), none)
    if kind in (kernels.BF16, kernels.BF16_DOT):
        pairs = bf16_bits(np.ascontiguousarray(panels)).reshape(n_panels, kernels.LANES, k // 2, 2)
        return Packed(kind, n_out, n_in, _laid(pairs.transpose(0, 2, 1, 3)), none)
    groups = panels.reshape(n_panels, kernels.LANES, k // kernels.GROUP, kernels.GROUP)
    eight = kind in (kernels.INT8, kernels.INT8_DOT)
    if eight:
        scales = np.abs(groups).max(-1) / 127
    else:
        largest = np.abs(groups).argmax(-1)[..., None]
        scales = np.take_along_axis(groups, largest, -1)[..., 0] / -8
    scales = scales.astype(np.float16)
    divisor = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    low, high, zero = (-127, 127, 128) if eight else (-8, 7, 8)
    steps = np.clip(np.rint(groups / divisor), low, high) + zero
    fours = steps.astype(np.uint8).reshape(n_panels, kernels.LANES, -1, 4)
    weights = fours if eight else fours[:, :, 0::2] | (fours[:, :, 1::2] << 4)
    return Packed(
        kind, n_out, n_in, _laid(weights.transpose(0, 2, 1, 3)), _laid(scales.transpose(0, 2, 1))
    )


def _laid(array: NDArray[Any]) -> NDArray[Any]:
    out = aligned(array.shape, array.dtype.type)
    out[...] = array
    return out
