"""Keys and values of sequences, in the layout of the kernels.

Shapes: S slots, T positions of a slot and W the head size, both rounded up to 16. Keys are panels
of 16 positions, [T/16, W, 16]; values panels of 16 channels, [W/16, T, 16]. In bfloat16 pairs
along the second axis stand together, [T/16, W/2, 16, 2] and [W/16, T/2, 16, 2].
"""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING

import numpy as np

from gptkit.model.cpu import layout
from gptkit.model.forward import round_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gptkit.model.config import GPTConfig


class PanelCache:
    """`keys` and `values` [layer, slot, H, -] int16; memory is taken as it fills."""

    def __init__(self, config: GPTConfig, n_slots: int, kind: int) -> None:
        self.kind = kind
        self.n_positions = round_up(config.block_size, layout.LANES)
        self.width = round_up(config.head_size, layout.LANES)
        halves = 2 if kind == layout.F32 else 1
        shape = (config.n_layer, n_slots, config.n_head, self.n_positions * self.width * halves)
        self.keys, self.values = _zeros(shape), _zeros(shape)
        one = (kind, self.n_positions, self.width)
        wide = (self.keys.view(np.float32), self.values.view(np.float32))
        self.kept = layout.Laid(layout.Kept(self.keys, self.values, *wide, *one))

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values may take."""
        return self.keys.nbytes + self.values.nbytes

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Give one slot the positions start .. end - 1 of another."""
        if start >= end:
            return
        n_layer, n_slots, n_head, _ = self.keys.shape
        lanes, pairs = layout.LANES, 1 if self.kind == layout.F32 else 2
        number = np.float32 if pairs == 1 else np.int16
        panels = (n_layer, n_slots, n_head, self.n_positions // lanes)
        keys = self.keys.view(number).reshape(*panels, self.width // pairs, lanes, pairs)
        for panel, inside in _panels(start, end):
            keys[:, target, :, panel, :, inside] = keys[:, source, :, panel, :, inside]
        shape = (n_layer, n_slots, n_head, self.width // lanes, self.n_positions // pairs)
        values = self.values.view(number).reshape(*shape, lanes, pairs)
        whole = slice(-(-start // pairs), end // pairs)
        values[:, target, :, :, whole] = values[:, source, :, :, whole]
        if pairs == 2 and start % 2:
            at = start // 2
            values[:, target, :, :, at, :, 1] = values[:, source, :, :, at, :, 1]
        if pairs == 2 and end % 2:
            at = end // 2
            values[:, target, :, :, at, :, 0] = values[:, source, :, :, at, :, 0]

    def clear(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.keys[:, slot] = 0
        self.values[:, slot] = 0


def _zeros(shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Return memory that the system gives page by page; malloc may have some, and clear it all."""
    n_bytes = 2 * math.prod(shape)
    if not n_bytes or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(shape, np.int16)
    pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, np.int16).reshape(shape)


def _panels(start: int, end: int) -> Iterator[tuple[slice, slice]]:
    """Yield panels and the positions in them: an opened one, the whole ones, another opened one."""
    lanes = layout.LANES
    first, last = start // lanes, end // lanes
    if first == last:
        yield slice(first, first + 1), slice(start % lanes, end % lanes)
        return
    if start % lanes:
        yield slice(first, first + 1), slice(start % lanes, lanes)
        first += 1
    yield slice(first, last), slice(0, lanes)
    if end % lanes:
        yield slice(last, last + 1), slice(0, end % lanes)
