"""Attention of the rows of a step, on a CPU, in numba.

Keys and values lie in the same layout as weights, so that the loop is the same.

Shapes: N rows of a step, C model width, H heads, D head size, T positions of a slot; all widths
that vectors read are rounded up, and what is too much is zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from gptkit.model.cpu.arithmetic import INLINE, add_to, bf16, exp, fill, scale
from gptkit.model.cpu.layout import F32, LANES
from gptkit.model.cpu.threads import OPTIONS, call

if TYPE_CHECKING:
    from gptkit.model.cpu.layout import Kept, Room, Weights
    from gptkit.model.cpu.step import Places

_f = np.float32


@njit(**OPTIONS)
def store(
    weights: Weights, kept: Kept, places: Places, layer: int, m: int, head: int, y: Any
) -> None:
    """Put key and value of one head of row m of y [N, >= 3 C] at its position of its slot."""
    slot, at, d_head = places.slots[m], places.positions[m], weights.head_size
    c = weights.n_head * d_head
    k = y[m, c + head * d_head : c + (head + 1) * d_head]
    v = y[m, 2 * c + head * d_head : 2 * c + (head + 1) * d_head]
    rows = kept.n_positions * LANES  # numbers of 16 channels of the values
    panel = (at >> 4) * kept.width * LANES
    if kept.kind == F32:
        wide_keys = kept.wide_keys[layer, slot, head]
        wide_values = kept.wide_values[layer, slot, head]
        for d in range(d_head):
            wide_keys[panel + d * LANES + (at & 15)] = k[d]
            wide_values[(d >> 4) * rows + at * LANES + (d & 15)] = v[d]
    else:
        keys, values = kept.keys[layer, slot, head], kept.values[layer, slot, head]
        for d in range(d_head):
            keys[panel + (d >> 1) * 32 + (at & 15) * 2 + (d & 1)] = bf16(k[d])
            values[(d >> 4) * rows + (at >> 1) * 32 + (d & 15) * 2 + (at & 1)] = bf16(v[d])


@njit(**OPTIONS)
def _score(
    code: int,
    kept: Kept,
    keys: Any,
    first: int,
    last: int,
    queries: Any,
    scores: int,
    ld: int,
    ahead: int,
) -> None:
    """Products of queries [n, D] with the keys of panels first .. last - 1, which go to the address
    that panel 0 would have."""
    stride = kept.width * LANES * (4 if kept.kind == F32 else 2)
    data, step = queries.ctypes.data, queries.strides[0]
    n, k = queries.shape[0], kept.width
    call(
        code, kept.kind, n, first, last, keys.ctypes.data, stride, 0, 0, data, step, 0, 0, 0, k,
        scores, ld, ahead,
    )  # fmt: skip


@njit(**OPTIONS)
def _mix(
    code: int,
    kept: Kept,
    values: Any,
    first: int,
    n_positions: int,
    weights: int,
    ld: int,
    out: Any,
    ahead: int,
) -> None:
    """Mixes [n, D] of the values of n_positions from panel `first` on, whose weights are at an
    address, ld numbers from row to row."""
    wide = 4 if kept.kind == F32 else 2
    stride = kept.n_positions * LANES * wide
    data = values.ctypes.data + first * LANES * LANES * wide
    n, n_panels = out.shape[0], kept.width // LANES
    call(
        code, kept.kind, n, 0, n_panels, data, stride, 0, 0, weights, ld * 4, 0, 0, 0, n_positions,
        out.ctypes.data, kept.width, ahead,
    )  # fmt: skip


@njit(**INLINE)
def _top(row: Any, top: Any) -> Any:
    for i in range(row.shape[0]):
        top = max(top, row[i])
    return top


@njit(**INLINE)
def _exp_below(row: Any, top: Any) -> Any:
    """Make a row e^(row - top); return its sum."""
    total = _f(0)
    for i in range(row.shape[0]):
        e = exp(row[i] - top)
        row[i] = e
        total += e
    return total


@njit(**OPTIONS)
def _softmax(row: Any, shared: int, low: int, high: int, end: int) -> None:
    """Softmax over 0 .. shared - 1 and low .. high - 1 together; zeros elsewhere, up to end."""
    trunk, own = row[:shared], row[low:high]
    top = _top(own, _top(trunk, _f(-1e30)))
    inverse = _f(1) / (_exp_below(trunk, top) + _exp_below(own, top))
    scale(trunk, inverse)
    scale(own, inverse)
    fill(row[shared:low])
    fill(row[high:end])


@njit(**OPTIONS)
def attend(
    code: int,
    weights: Weights,
    kept: Kept,
    places: Places,
    layer: int,
    block: Any,
    head: int,
    room: Room,
    t: int,
) -> None:
    """One head of a block, from y [N, >= 3 C], which has queries first, to room.attended; its keys
    and values are stored before, where that has not been done.

    One softmax is taken over the positions of the trunk and those behind them in a row's own slot.
    """
    rows = places.order[block[0] : block[1]]
    trunk, shared = block[2], block[3]
    n, d_head = rows.shape[0], weights.head_size
    keys, values = kept.keys[layer], kept.values[layer]
    queries, scores, mixed = room.queries[t, :n], room.scores[t], room.mixed[t]
    ld = scores.shape[1]
    inverse = _f(1) / np.sqrt(_f(d_head))
    n_threads = room.queries.shape[0]
    ahead = keys[0, 0].nbytes * n_threads  # to the keys and values of this thread's next head
    if not block[4]:
        for m in range(n):
            store(weights, kept, places, layer, rows[m], head, room.y)
    for m in range(n):
        query = room.y[rows[m], head * d_head : (head + 1) * d_head]
        for d in range(d_head):
            queries[m, d] = query[d] * inverse
        fill(queries[m, d_head:])
    panel = shared >> 4  # of the slot, where the row's own positions begin
    own = (shared + 15) >> 4 << 4  # where the scores of that panel begin
    if shared:
        _score(code, kept, keys[trunk, head], 0, own >> 4, queries, scores.ctypes.data, ld, ahead)
    m = 0
    while m < n:
        slot = places.slots[rows[m]]
        end = m + 1
        while end < n and places.slots[rows[end]] == slot:
            end += 1
        last = (places.positions[rows[end - 1]] >> 4) + 1
        at = scores.ctypes.data + (m * ld + own) * 4
        to = at - panel * LANES * 4
        _score(code, kept, keys[slot, head], panel, last, queries[m:end], to, ld, ahead)
        n_own = (last - panel) * LANES
        for r in range(m, end):
            low, high = shared - panel * LANES, places.positions[rows[r]] + 1 - panel * LANES
            _softmax(scores[r], shared, own + low, own + high, own + n_own)
        _mix(code, kept, values[slot, head], panel, n_own, at, ld, mixed[0, m:end], ahead)
        m = end
    if shared:
        _mix(code, kept, values[trunk, head], 0, own, scores.ctypes.data, ld, mixed[1, :n], ahead)
    for m in range(n):
        if shared:
            add_to(mixed[0, m], mixed[1, m])
        out = room.attended[rows[m], head * d_head : (head + 1) * d_head]
        for d in range(d_head):
            out[d] = mixed[0, m, d]
