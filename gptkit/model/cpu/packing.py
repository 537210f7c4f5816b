"""Matrices in the layout of the kernels: panels of 16 output rows, K-major, with scales by groups.

Shapes: a matrix [O, K] has P = O / 16 panels, rounded up; K is rounded up to whole groups of 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gptkit.model.cpu import layout
from gptkit.model.forward import round_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALED = (layout.INT8, layout.INT8_DOT, layout.INT4, layout.INT4_DOT)
ALIGNED = 64
"""Bytes: vectors that cross a cache line cost time."""
APART = 1024
"""Bytes. LLVM runs a loop without vectors, with other last bits, where what it reads begins less
than some vectors before what it writes, be it another array."""


class Packed(NamedTuple):
    """A matrix of `n_out` rows and `n_in` columns: bytes of weights in panels, then of scales."""

    kind: int
    n_out: int
    n_in: int
    data: NDArray[np.uint8]

    @property
    def weights(self) -> NDArray[Any]:
        """The panels: float32 [P, K, 16], or bfloat16 bits [P, K/2, 16, 2], or bytes of four
        inputs in 8 bits [P, K/4, 16, 4] or of eight in 4 bits [P, K/8, 16, 4]."""
        dtype, shape = _panels(self.kind, self.n_out, self.n_in)
        return _part(self.data, 0, dtype, shape)

    @property
    def scales(self) -> NDArray[np.float16]:
        """A scale for each row and group, [P, K/32, 16]; none for floats."""
        n_panels, n_groups = _n_panels(self.n_out), -(-self.n_in // layout.GROUP)
        shape = (n_panels if self.kind in SCALED else 0, n_groups, layout.LANES)
        return _part(self.data, self.weights.nbytes, np.float16, shape)

    def row(self) -> NDArray[np.int64]:
        """Return what the kernels know of it: see `layout.WEIGHTS` and those after it."""
        weights, scales = self.weights, self.scales
        return np.array(
            [
                weights.ctypes.data,
                weights.nbytes // len(weights),
                scales.ctypes.data if len(scales) else 0,
                scales.nbytes // len(scales) if len(scales) else 0,
                self.kind,
                round_up(self.n_in, layout.GROUP),
                self.n_out,
            ],
            np.int64,
        )


def n_bytes(kind: int, n_out: int, n_in: int) -> int:
    """Return how many bytes a matrix takes: whole cache lines, so that the next one begins well."""
    dtype, shape = _panels(kind, n_out, n_in)
    weights = int(np.prod(shape)) * np.dtype(dtype).itemsize
    scales = _n_panels(n_out) * -(-n_in // layout.GROUP) * layout.LANES * 2
    return round_up(weights + (scales if kind in SCALED else 0), ALIGNED)


def _n_panels(n_out: int) -> int:
    return -(-n_out // layout.LANES)


def _panels(kind: int, n_out: int, n_in: int) -> tuple[type[np.generic], tuple[int, ...]]:
    n_panels, k = _n_panels(n_out), round_up(n_in, layout.GROUP)
    if kind == layout.F32:
        return np.float32, (n_panels, k, layout.LANES)
    if kind in (layout.BF16, layout.BF16_DOT):
        return np.uint16, (n_panels, k // 2, layout.LANES, 2)
    a_word = 4 if kind in (layout.INT8, layout.INT8_DOT) else 8
    return np.uint8, (n_panels, k // a_word, layout.LANES, 4)


def _part(
    data: NDArray[np.uint8], start: int, dtype: type[np.generic], shape: tuple[int, ...]
) -> NDArray[Any]:
    end = start + int(np.prod(shape)) * np.dtype(dtype).itemsize
    return data[start:end].view(dtype).reshape(shape)


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return zeros that begin at a cache line, with nobody else's memory near."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + 2 * APART + ALIGNED, np.uint8)
    start = APART + -raw.ctypes.data % ALIGNED
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
    made = Packed(kind, n_out, n_in, aligned((n_bytes(kind, n_out, n_in),), np.uint8))
    n_panels, k = _n_panels(n_out), round_up(n_in, layout.GROUP)
    if matrix.shape != (n_panels * layout.LANES, k):
        whole = np.zeros((n_panels * layout.LANES, k), np.float32)
        whole[:n_out, :n_in] = matrix
        matrix = whole
    panels = matrix.reshape(n_panels, layout.LANES, k)
    if kind == layout.F32:
        made.weights[...] = panels.transpose(0, 2, 1)
    elif kind in (layout.BF16, layout.BF16_DOT):
        pairs = bf16_bits(np.ascontiguousarray(panels)).reshape(n_panels, layout.LANES, k // 2, 2)
        made.weights[...] = pairs.transpose(0, 2, 1, 3)
    else:
        scales, fours = _quantised(
            panels.reshape(n_panels, layout.LANES, k // layout.GROUP, layout.GROUP),
            eight=kind in (layout.INT8, layout.INT8_DOT),
        )
        made.weights[...] = fours.transpose(0, 2, 1, 3)
        made.scales[...] = scales.transpose(0, 2, 1)
    return made


def _quantised(
    groups: NDArray[np.float32], *, eight: bool
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return scales [P, 16, G] and steps, in bytes of a word [P, 16, -, 4], of [P, 16, G, 32]."""
    if eight:
        scales = (np.abs(groups).max(-1) / 127).astype(np.float16)
    else:
        largest = np.abs(groups).argmax(-1)[..., None]
        scales = (np.take_along_axis(groups, largest, -1)[..., 0] / -8).astype(np.float16)
    divisor = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    low, high, zero = (-127, 127, 128) if eight else (-8, 7, 8)
    steps = (np.clip(np.rint(groups / divisor), low, high) + zero).astype(np.uint8)
    fours = steps.reshape(*groups.shape[:2], -1, 4)
    return scales, fours if eight else fours[:, :, 0::2] | (fours[:, :, 1::2] << 4)
