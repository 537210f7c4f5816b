"""The kernels of a step on a CPU, in numba, over weights in panels of 16 output rows.

Keys and values lie in the same layout as weights, so that attention runs on the same loop. A row's
sums are taken in one order whatever the number of rows, the number of threads, and the place where
it stands; so its bits depend on nothing but the row.

Nothing here may raise or allocate: the compiled code knows no Python.

Shapes: N rows of a step, K inputs and O outputs of a matrix, P = O / 16 panels, C model width, I
MLP width, H heads, D head size, T positions of a slot; all widths that vectors read are rounded
up, and what is too much is zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from gptkit.model.cpu.layout import (
    BF16,
    BF16_DOT,
    F32,
    FORMS,
    GROUP,
    INT4_DOT,
    INT8,
    INT8_DOT,
    KIND,
    LANES,
    N_IN,
    N_OUT,
    SCALES,
    SCALES_STRIDE,
    SPAN,
    STEP,
    WEIGHTS,
    WEIGHTS_STRIDE,
    Call,
    Inputs,
    Kept,
    Ranks,
    Room,
    Weights,
    n_words,
)
from gptkit.model.cpu.panel import panel
from gptkit.model.cpu.threads import OPTIONS, barrier, call, look

_INLINE: dict[str, Any] = {**OPTIONS, "inline": "always"}
_I32, _I64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_f = np.float32


class Places(NamedTuple):
    """Where the rows of a step are: position and slot [N]. Those that attend together are blocks
    [B, 5]: first and last in `order`, the slot of a trunk with how many positions it has, and
    whether other blocks see its keys: then they are stored before any attends, for the rows
    `stored`."""

    positions: Any
    slots: Any
    order: Any
    blocks: Any
    stored: Any


class Made(NamedTuple):
    """What a step makes: logits [M, V], and the n best tokens of each row, in order, as ids and
    scores [M, n]; n may be 0."""

    logits: Any
    ids: Any
    scores: Any


class Step(NamedTuple):
    """A step: x [N, C], the embeddings of `tokens` [N] or what is there where they are [0], becomes
    the states before the last norm, or behind it where `is_normed`; of M `rows` of them `made` is
    made. `panels` is the address of that function."""

    panels: int
    is_normed: int
    weights: Weights
    kept: Kept
    room: Room
    ranks: Ranks
    tokens: Any
    places: Places
    x: Any
    rows: Any
    made: Made


def _type(form: str | type) -> Any:
    """Return numba's type of a form: see `layout.FORMS`."""
    if isinstance(form, type):
        return types.NamedTuple([_type(one) for one in FORMS[form]], form)
    kind, _, n_axes = form.partition(":")
    number = from_dtype(np.dtype(kind))
    return types.Array(number, int(n_axes), "C") if n_axes else number


def _array_at(form: str) -> Any:
    """Return a function that takes what lies at an address for an array of a shape."""
    kind = _type(form)

    @intrinsic
    def array(typing: Any, at: Any, shape: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = make_array(kind)(context, builder)
            axes = cgutils.unpack_tuple(builder, args[1], kind.ndim)
            size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
            strides = [ir.Constant(_I64, size)]
            for n in reversed(axes[1:]):
                strides.insert(0, builder.mul(strides[0], n))
            data = builder.inttoptr(args[0], context.get_data_type(kind.dtype).as_pointer())
            populate_array(made, data, axes, strides, strides[-1], meminfo=None)
            return made._getvalue()

        return kind(at, shape), generate

    return array


_numbers_at, _table_at, _row_at, _rows_at = map(_array_at, ("i8:1", "i8:2", "f4:1", "f4:2"))
_halves_at, _bytes_at = map(_array_at, ("i2:1", "u1:1"))


@intrinsic
def _float_of_bits(typing: Any, value: Any) -> Any:
    return types.float32(types.int32), lambda c, b, s, args: b.bitcast(args[0], _FLOAT)


@intrinsic
def _float_of_half(typing: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), _FLOAT)

    return types.float32(types.int16), generate


@intrinsic
def _bits_of_float(typing: Any, value: Any) -> Any:
    return types.int32(types.float32), lambda c, b, s, args: b.bitcast(args[0], _I32)


@njit(**_INLINE)
def _exp(x: Any) -> Any:
    """e^x by a polynomial (Cephes' expf), since libm's is no vector function."""
    x = max(min(x, _f(88)), _f(-87))
    n = np.rint(x * _f(1.44269504))
    r = x - n * _f(0.693359375) + n * _f(2.12194440e-4)
    p = _f(1.9875691500e-4) * r + _f(1.3981999507e-3)
    p = p * r + _f(8.3334519073e-3)
    p = p * r + _f(4.1665795894e-2)
    p = p * r + _f(1.6666665459e-1)
    p = p * r + _f(5.0000001201e-1)
    p = p * r * r + r + _f(1)
    return p * _float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(**OPTIONS)
def _bf16(x: Any) -> Any:
    """Round to the nearest bfloat16, to even."""
    u = _bits_of_float(x)
    odd = (u >> np.int32(16)) & np.int32(1)
    return np.int16((u + np.int32(0x7FFF) + odd) >> np.int32(16))


@njit(**OPTIONS)
def panels(
    kind: int,
    n: int,
    first: int,
    last: int,
    w: int,
    ldw: int,
    scales: int,
    lds: int,
    x: int,
    ldx: int,
    x_scales: int,
    x_sums: int,
    ldg: int,
    k: int,
    y: int,
    ldy: int,
    ahead: int,
) -> None:
    """Panels first .. last - 1 times n rows, in tiles; the rest is as for `panel`."""
    for p in range(first, last):
        m = 0
        while m < n:
            rows = 8 if n - m >= 8 else 4 if n - m >= 4 else 2 if n - m >= 2 else 1
            group = m * ldg * 4
            panel(
                kind,
                rows,
                w + p * ldw,
                scales + p * lds,
                x + m * ldx,
                ldx,
                x_scales + group,
                x_sums + group,
                ldg,
                k,
                y + p * LANES * 4 + m * ldy * 4,
                ldy,
                ahead,
            )
            m += rows


@njit(**OPTIONS)
def _takes_short(kind: int) -> bool:
    """Whether a product takes activations in 16 or 8 bits."""
    return kind == BF16_DOT or kind == INT8_DOT or kind == INT4_DOT


# A loop over part of a row takes a slice: an index that might be below zero is no vector's.


@njit(**_INLINE)
def _fill(row: Any) -> None:
    for i in range(row.shape[0]):
        row[i] = _f(0)


@njit(**OPTIONS)
def _prepare(kind: int, x: Any, gain: Any, shift: Any, eps: float, inputs: Inputs, m: int) -> None:
    """Make row m of the inputs of x [K]: normed by gain and shift [K], or not by [0], in the form
    that a kind of matrix takes, with zeros up to the next whole group."""
    n = x.shape[0]
    floats = inputs.floats[m]
    if gain.shape[0]:
        total = _f(0)
        for k in range(n):
            total += x[k]
        mean = total / _f(n)
        total = _f(0)
        for k in range(n):
            away = x[k] - mean
            total += away * away
        r = _f(1) / np.sqrt(total / _f(n) + _f(eps))
        for k in range(n):
            floats[k] = (x[k] - mean) * r * gain[k] + shift[k]
    else:
        for k in range(n):
            floats[k] = x[k]
    end = (n + GROUP - 1) // GROUP * GROUP
    _fill(floats[n:end])
    if kind == BF16_DOT:
        halves = inputs.halves[m]
        for k in range(end):
            halves[k] = _bf16(floats[k])
    elif kind == INT8_DOT or kind == INT4_DOT:
        bytes_ = inputs.bytes[m]
        zero = np.int32(128) if kind == INT8_DOT else np.int32(8)
        for g in range(end // GROUP):
            first = g * GROUP
            largest = _f(1e-30)
            for k in range(GROUP):
                largest = max(largest, abs(floats[first + k]))
            inverse = _f(127) / largest
            steps = np.int32(0)
            for k in range(GROUP):
                step = np.int32(np.rint(floats[first + k] * inverse))
                bytes_[first + k] = np.int8(step)
                steps += step
            inputs.scales[m, g] = largest / _f(127)
            inputs.sums[m, g] = -zero * steps


@njit(**OPTIONS)
def _multiply(
    code: int, matrix: Any, first: int, last: int, inputs: Inputs, n: int, y: int, ldy: int
) -> None:
    """Panels first .. last - 1 of a matrix times n rows of inputs, to address y."""
    x, ldx = inputs.floats.ctypes.data, inputs.floats.strides[0]
    if _takes_short(matrix[KIND]):
        x, ldx = inputs.bytes.ctypes.data, inputs.bytes.strides[0]
    call(
        code,
        matrix[KIND],
        n,
        first,
        last,
        matrix[WEIGHTS],
        matrix[WEIGHTS_STRIDE],
        matrix[SCALES],
        matrix[SCALES_STRIDE],
        x,
        ldx,
        inputs.scales.ctypes.data,
        inputs.sums.ctypes.data,
        inputs.scales.shape[1],
        matrix[N_IN],
        y,
        ldy,
        matrix[WEIGHTS_STRIDE],
    )


@njit(**OPTIONS)
def _linear(
    code: int, t: int, n_threads: int, matrix: Any, inputs: Inputs, n: int, y: Any
) -> tuple[int, int]:
    """This thread's panels of a matrix times n rows of inputs, into y [N, O]; return the first and
    the last of their outputs."""
    n_out = matrix[N_OUT]
    n_panels = (n_out + LANES - 1) // LANES
    first, last = n_panels * t // n_threads, n_panels * (t + 1) // n_threads
    _multiply(code, matrix, first, last, inputs, n, y.ctypes.data, y.shape[1])
    return first * LANES, min(last * LANES, n_out)


@njit(**_INLINE)
def _add_to(row: Any, more: Any) -> None:
    for i in range(row.shape[0]):
        row[i] += more[i]


@njit(**OPTIONS)
def _gelu(row: Any) -> None:
    """GELU, by tanh, of a row of whole vectors (Hendrycks and Gimpel 2016).

    A loop over all numbers would divide in another way where they make no whole vector.
    """
    for first in range(0, row.shape[0], LANES):
        part = row[first : first + LANES]
        for i in range(LANES):
            v = part[i]
            cubic = v + _f(0.044715) * v * v * v
            part[i] = v / (_f(1) + _exp(_f(-1.5957691216) * cubic))


@njit(**OPTIONS)
def _store(
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
            keys[panel + (d >> 1) * 32 + (at & 15) * 2 + (d & 1)] = _bf16(k[d])
            values[(d >> 4) * rows + (at >> 1) * 32 + (d & 15) * 2 + (at & 1)] = _bf16(v[d])


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


@njit(**_INLINE)
def _top(row: Any, top: Any) -> Any:
    for i in range(row.shape[0]):
        top = max(top, row[i])
    return top


@njit(**_INLINE)
def _exp_below(row: Any, top: Any) -> Any:
    """Make a row e^(row - top); return its sum."""
    total = _f(0)
    for i in range(row.shape[0]):
        e = _exp(row[i] - top)
        row[i] = e
        total += e
    return total


@njit(**_INLINE)
def _scale(row: Any, by: Any) -> None:
    for i in range(row.shape[0]):
        row[i] *= by


@njit(**OPTIONS)
def _softmax(row: Any, shared: int, low: int, high: int, end: int) -> None:
    """Softmax over 0 .. shared - 1 and low .. high - 1 together; zeros elsewhere, up to end."""
    trunk, own = row[:shared], row[low:high]
    top = _top(own, _top(trunk, _f(-1e30)))
    inverse = _f(1) / (_exp_below(trunk, top) + _exp_below(own, top))
    _scale(trunk, inverse)
    _scale(own, inverse)
    _fill(row[shared:low])
    _fill(row[high:end])


@njit(**OPTIONS)
def _attend(
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
    scale = _f(1) / np.sqrt(_f(d_head))
    n_threads = room.queries.shape[0]
    ahead = keys[0, 0].nbytes * n_threads  # to the keys and values of this thread's next head
    if not block[4]:
        for m in range(n):
            _store(weights, kept, places, layer, rows[m], head, room.y)
    for m in range(n):
        query = room.y[rows[m], head * d_head : (head + 1) * d_head]
        for d in range(d_head):
            queries[m, d] = query[d] * scale
        _fill(queries[m, d_head:])
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
            _add_to(mixed[0, m], mixed[1, m])
        out = room.attended[rows[m], head * d_head : (head + 1) * d_head]
        for d in range(d_head):
            out[d] = mixed[0, m, d]


@njit(**OPTIONS)
def _unpack(x: Any, said: Any, m: int) -> None:
    """Make x [C] row m of a packed matrix."""
    kind, lane = said[KIND], m % LANES
    at = said[WEIGHTS] + m // LANES * said[WEIGHTS_STRIDE]
    scales = _halves_at(
        said[SCALES] + m // LANES * said[SCALES_STRIDE], (said[N_IN] // GROUP * LANES,)
    )
    if kind == F32:
        floats = _row_at(at, (said[N_IN] * LANES,))
        for k in range(x.shape[0]):
            x[k] = floats[k * LANES + lane]
    elif kind == BF16 or kind == BF16_DOT:
        halves = _halves_at(at, (said[N_IN] * LANES,))
        for k in range(x.shape[0]):
            bits = halves[2 * (k // 2 * LANES + lane) + k % 2]
            x[k] = _float_of_bits(np.int32(bits) << np.int32(16))
    elif kind == INT8 or kind == INT8_DOT:
        steps = _bytes_at(at, (said[N_IN] * LANES,))
        for k in range(x.shape[0]):
            step = _f(steps[4 * (k // 4 * LANES + lane) + k % 4]) - _f(128)
            x[k] = step * _float_of_half(scales[k // GROUP * LANES + lane])
    else:
        pairs = _bytes_at(at, (said[N_IN] // 2 * LANES,))
        for k in range(x.shape[0]):
            pair = pairs[4 * (k // 8 * LANES + lane) + k % 4]
            step = _f((pair >> (k // 4 % 2 * 4)) & 15) - _f(8)
            x[k] = step * _float_of_half(scales[k // GROUP * LANES + lane])


@njit(**OPTIONS)
def _embed(step: Step, m: int) -> None:
    """Make the state of row m of its token and its position."""
    weights, x = step.weights, step.x[m]
    _unpack(x, weights.wte, step.tokens[m])
    if weights.wpe.shape[0]:
        _add_to(x, weights.wpe[step.places.positions[m]])


@njit(**OPTIONS)
def _run_layers(t: int, n_threads: int, words: int, step: Step) -> None:
    """One thread's part of all layers."""
    code, weights, kept, places, room = step.panels, step.weights, step.kept, step.places, step.room
    x, y, inputs, eps = step.x, room.y, room.inputs, weights.eps
    n, c = x.shape
    n_head = weights.n_head
    inner = weights.vectors.shape[1] - 9 * c
    none = weights.vectors[0, :0]
    for layer in range(weights.matrices.shape[0]):
        matrices, vectors = weights.matrices[layer], weights.vectors[layer]
        for m in range(n):
            if m % n_threads == t:
                gain, shift = vectors[:c], vectors[c : 2 * c]
                _prepare(matrices[0, KIND], x[m], gain, shift, eps, inputs, m)
        barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[0], inputs, n, y)
        for m in range(n):
            _add_to(y[m, first:last], vectors[2 * c + first :])
        barrier(words, n_threads)
        if places.stored.shape[0]:
            n_tasks = places.stored.shape[0] * n_head
            for j in range(n_tasks * t // n_threads, n_tasks * (t + 1) // n_threads):
                _store(weights, kept, places, layer, places.stored[j // n_head], j % n_head, y)
            barrier(words, n_threads)
        for j in range(places.blocks.shape[0] * n_head):
            if j % n_threads == t:  # by turns: the last blocks of a text see the most
                block = places.blocks[j // n_head]
                _attend(code, weights, kept, places, layer, block, j % n_head, room, t)
        barrier(words, n_threads)
        for m in range(n):
            if m % n_threads == t:
                _prepare(matrices[1, KIND], room.attended[m], none, none, eps, inputs, m)
        barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[1], inputs, n, y)
        for m in range(n):
            _add_to(x[m, first:last], y[m, first:])
            _add_to(x[m, first:last], vectors[5 * c + first :])
        barrier(words, n_threads)
        for m in range(n):
            if m % n_threads == t:
                gain, shift = vectors[6 * c : 7 * c], vectors[7 * c : 8 * c]
                _prepare(matrices[2, KIND], x[m], gain, shift, eps, inputs, m)
        barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[2], inputs, n, y)
        for m in range(n):
            _add_to(y[m, first:last], vectors[8 * c + first :])
            _gelu(y[m, first : (last + LANES - 1) // LANES * LANES])
        barrier(words, n_threads)
        for m in range(n):
            if m % n_threads == t:
                _prepare(matrices[3, KIND], y[m, :inner], none, none, eps, inputs, m)
        barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[3], inputs, n, y)
        for m in range(n):
            _add_to(x[m, first:last], y[m, first:])
            _add_to(x[m, first:last], vectors[8 * c + inner + first :])
        barrier(words, n_threads)


@njit(**OPTIONS)
def _norm_states(t: int, n_threads: int, step: Step) -> None:
    """One thread's part of the last norm."""
    weights, inputs, x = step.weights, step.room.inputs, step.x
    for m in range(x.shape[0]):
        if m % n_threads == t:
            _prepare(F32, x[m], weights.norm[0], weights.norm[1], weights.eps, inputs, m)
            for k in range(x.shape[1]):
                x[m, k] = inputs.floats[m, k]


@njit(**_INLINE)
def _key(x: Any) -> Any:
    """An integer in the order of numbers, 0 and -0 the same; NaN is the largest."""
    u = _bits_of_float(x)
    if u & np.int32(0x7FFFFFFF) > np.int32(0x7F800000):
        return np.int32(0x7FFFFFFF)
    if u == np.int32(-0x80000000):
        return np.int32(0)
    return u ^ ((u >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(**OPTIONS)
def _peak(row: Any) -> Any:
    top = np.int32(-0x80000000)
    for i in range(row.shape[0]):
        top = max(top, _key(row[i]))
    return top


@njit(**OPTIONS)
def _put_key(keys: Any, held: int, key: Any) -> Any:
    """Put a key behind those that are not below it, of which there are `held` and room for n.

    Return its place; the others move, the last one out. A key that is too low gets n.
    """
    n = keys.shape[0]
    at = held
    if held == n:
        if key <= keys[n - 1]:
            return n
        at = n - 1
    while at > 0 and keys[at - 1] < key:
        keys[at] = keys[at - 1]
        at -= 1
    keys[at] = key
    return at


@njit(**OPTIONS)
def _put_token(keys: Any, tokens: Any, held: int, key: Any, token: int) -> Any:
    """Put a token among the best, of equals behind the others; return how many there are."""
    n = keys.shape[0]
    at = _put_key(keys, held, key)
    if at == n:
        return n
    held = min(held + 1, n)
    for i in range(held - 1, at, -1):
        tokens[i] = tokens[i - 1]
    tokens[at] = token
    return held


@njit(**OPTIONS)
def _rank(row: Any, first: int, keys: Any, tokens: Any, peaks: Any, tops: Any) -> int:
    """Find the best of a part of a row, which begins at token `first`; return how many there are.

    As many spans as there are best ones have one each that is not below the least of their peaks:
    the others need no second look.
    """
    n, n_tokens = keys.shape[0], row.shape[0]
    n_spans = (n_tokens + SPAN - 1) // SPAN
    held = 0
    for s in range(n_spans):
        peaks[s] = _peak(row[s * SPAN : min(n_tokens, (s + 1) * SPAN)])
        if _put_key(tops, held, peaks[s]) < n and held < n:
            held += 1
    least = tops[n - 1] if held == n else np.int32(-0x80000000)
    held = 0
    for s in range(n_spans):
        if peaks[s] >= least:
            for i in range(s * SPAN, min(n_tokens, (s + 1) * SPAN)):
                key = _key(row[i])
                if key >= least:
                    held = _put_token(keys, tokens, held, key, first + i)
    return held


@njit(**OPTIONS)
def _merge(step: Step, m: int, n_threads: int) -> None:
    """Make the best of a row of those of its parts."""
    ranks, row = step.ranks, step.made.logits[m]
    n, held = step.made.ids.shape[1], ranks.held[0, m]
    keys, tokens = ranks.keys[0, m, :n], ranks.tokens[0, m, :n]
    for t in range(1, n_threads):
        for i in range(ranks.held[t, m]):
            held = _put_token(keys, tokens, held, ranks.keys[t, m, i], ranks.tokens[t, m, i])
    for i in range(held):
        step.made.ids[m, i] = tokens[i]
        step.made.scores[m, i] = row[tokens[i]]


@njit(**OPTIONS)
def _run_head(t: int, n_threads: int, words: int, step: Step) -> None:
    """One thread's part of the logits."""
    weights, rows, inputs, logits = step.weights, step.rows, step.room.inputs, step.made.logits
    matrix, gain, shift = weights.head, weights.norm[0], weights.norm[1]
    n, n_out = rows.shape[0], matrix[N_OUT]
    for m in range(n):
        if m % n_threads == t:
            _prepare(matrix[KIND], step.x[rows[m]], gain, shift, weights.eps, inputs, m)
    barrier(words, n_threads)
    whole = n_out // LANES
    first, last = whole * t // n_threads, whole * (t + 1) // n_threads
    _multiply(step.panels, matrix, first, last, inputs, n, logits.ctypes.data, n_out)
    if t == n_threads - 1 and whole * LANES < n_out:
        edge = step.room.edge
        to = edge.ctypes.data - whole * LANES * 4
        _multiply(step.panels, matrix, whole, whole + 1, inputs, n, to, LANES)
        for m in range(n):
            for o in range(whole * LANES, n_out):
                logits[m, o] = edge[m, o - whole * LANES]
    ranks, n_best = step.ranks, step.made.ids.shape[1]
    if n_best:  # while a thread's part is in its cache
        begin, end = first * LANES, n_out if t == n_threads - 1 else last * LANES
        tops = ranks.tops[t, :n_best]
        for m in range(n):
            keys, tokens = ranks.keys[t, m, :n_best], ranks.tokens[t, m, :n_best]
            row = logits[m, begin:end]
            ranks.held[t, m] = _rank(row, begin, keys, tokens, ranks.peaks[t], tops)
        barrier(words, n_threads)
        for m in range(n):
            if m % n_threads == t:
                _merge(step, m, n_threads)


# From the outside ---------------------------------------------------------------------------------


def _reader(form: type) -> Any:
    """Return a function that reads what lies at an address."""
    kind = _type(form)

    @intrinsic
    def read(typing: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            its = context.get_value_type(kind)
            assert context.get_abi_sizeof(its) == 8 * n_words(form)
            value = builder.load(builder.inttoptr(args[0], its.as_pointer()))
            return impl_ret_borrowed(context, builder, kind, value)

        return kind(types.int64), generate

    return read


_call_at, _weights_at, _kept_at, _room_at, _ranks_at = map(
    _reader, (Call, Weights, Kept, Room, Ranks)
)
_BEHIND = 8 * n_words(Call)


@njit(**OPTIONS)
def _opened(at: int) -> Step:
    """Return the step that a call asks for."""
    call = _call_at(at)
    weights, room = _weights_at(call.weights), _room_at(call.room)
    x = call.x if call.x else np.int64(room.x.ctypes.data)
    n, n_wanted, n_best = call.n_tokens, call.n_wanted, call.n_best
    n_all = 4 * n + 5 * call.n_blocks + call.n_stored + n_wanted
    numbers = _numbers_at(at + _BEHIND, (n_all,))
    blocks, stored = 4 * n, 4 * n + 5 * call.n_blocks
    wanted = stored + call.n_stored
    places = Places(
        numbers[n : 2 * n],
        numbers[2 * n : 3 * n],
        numbers[3 * n : 4 * n],
        _table_at(at + _BEHIND + 8 * blocks, (call.n_blocks, 5)),
        numbers[stored:wanted],
    )
    made = Made(
        _rows_at(call.logits, (n_wanted, weights.head[N_OUT])),
        _table_at(call.ids, (n_wanted, n_best)),
        _rows_at(call.scores, (n_wanted, n_best)),
    )
    return Step(
        call.panels,
        call.is_normed,
        weights,
        _kept_at(call.kept),
        room,
        _ranks_at(call.ranks),
        numbers[:n],
        places,
        _rows_at(x, (call.n_rows, weights.n_head * weights.head_size)),
        numbers[wanted:],
        made,
    )


@njit(**OPTIONS)
def _compute(t: int, n_threads: int, words: int) -> None:
    """One thread's part of the step."""
    step = _opened(look(words + 8 * STEP))
    if step.tokens.shape[0]:
        for m in range(step.tokens.shape[0]):
            if m % n_threads == t:
                _embed(step, m)
        barrier(words, n_threads)
    if step.weights.matrices.shape[0]:
        _run_layers(t, n_threads, words, step)
    if step.is_normed:
        _norm_states(t, n_threads, step)
    if step.rows.shape[0]:
        _run_head(t, n_threads, words, step)


@njit(**OPTIONS)
def part(t: int, n_threads: int, words: int) -> None:
    """One thread's part of the step; when it returns, all have done theirs."""
    _compute(t, n_threads, words)  # apart: nobody may hold the step when the leader leaves it
    barrier(words, n_threads)
