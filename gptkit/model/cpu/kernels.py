"""The kernels of a step on a CPU, in numba, over weights in panels of 16 output rows.

A row's sums are taken in one order whatever the number of rows, the number of threads, and the
place where it stands; so its bits depend on nothing but the row.

Nothing here may raise or allocate: the compiled code knows no Python.

Shapes: N rows of a step, K inputs and O outputs of a matrix, C model width, I MLP width; all widths
that vectors read are rounded up, and what is too much is zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from gptkit.model.cpu.arithmetic import add_to, bf16, exp, fill, float_of_bits, float_of_half
from gptkit.model.cpu.attention import attend, store
from gptkit.model.cpu.best import merge, rank
from gptkit.model.cpu.layout import (
    BF16,
    BF16_DOT,
    F32,
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
    STEP,
    WEIGHTS,
    WEIGHTS_STRIDE,
)
from gptkit.model.cpu.panel import (
    DEQUANTISED,
    EIGHT,
    EIGHT_OF_MORE,
    FOUR,
    ONE,
    PAIR,
    TWO,
    tile,
)
from gptkit.model.cpu.step import bytes_at, halves_at, opened, row_at
from gptkit.model.cpu.threads import OPTIONS, barrier, call, look

if TYPE_CHECKING:
    from gptkit.model.cpu.layout import Inputs
    from gptkit.model.cpu.step import Step

_f = np.float32
_MANY = 32  # rows: eight tiles prefetch a quarter of two panels each
_ROWS = 64  # whose inputs stay in the second level of the cache


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
    """Panels first .. last - 1 times n rows, in tiles; the rest is as for `tile`. What is read
    after a panel is `ahead` bytes further, or, where that is 0, the next one."""
    size = ldw  # bytes of a panel that are read
    if kind == F32:
        size = k * LANES * 4
    elif kind == BF16 or kind == BF16_DOT:
        size = k * LANES * 2
    for start in range(0, n, _ROWS):
        end = min(n, start + _ROWS)
        in_pairs = end - start >= _MANY and kind not in DEQUANTISED
        p = first
        while p < last:
            n_panels = 2 if in_pairs and p + 1 < last else 1
            next_at = w + p * ldw + (ahead if ahead else n_panels * ldw)
            m, q, done = start, p, 0  # done is prefetched
            while m < end:
                left = end - m
                if n_panels == 2 and left >= 4:
                    its = PAIR
                elif left >= 8:
                    its = EIGHT_OF_MORE if end - start >= 16 else EIGHT
                else:
                    its = FOUR if left >= 4 else TWO if left >= 2 else ONE
                tile(
                    kind,
                    its.which,
                    w + q * ldw,
                    ldw,
                    scales + q * lds,
                    lds,
                    x + m * ldx,
                    ldx,
                    x_scales + m * ldg * 4,
                    x_sums + m * ldg * 4,
                    ldg,
                    k,
                    y + q * LANES * 4 + m * ldy * 4,
                    ldy,
                    next_at + done + (ldw - size if done >= size else 0),
                )
                part = size >> its.halvings
                done = min(done + part, n_panels * size - part)
                if its.panels < n_panels and q == p:
                    q += 1  # the last rows, by one panel at a time
                else:
                    m, q = m + its.rows, p
            p += n_panels


@njit(**OPTIONS)
def _takes_short(kind: int) -> bool:
    """Whether a product takes activations in 16 or 8 bits."""
    return kind == BF16_DOT or kind == INT8_DOT or kind == INT4_DOT


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
    fill(floats[n:end])
    if kind == BF16_DOT:
        halves = inputs.halves[m]
        for k in range(end):
            halves[k] = bf16(floats[k])
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
        0,
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
            part[i] = v / (_f(1) + exp(_f(-1.5957691216) * cubic))


@njit(**OPTIONS)
def _unpack(x: Any, matrix: Any, m: int) -> None:
    """Make x [C] row m of a matrix, dequantised."""
    kind, lane = matrix[KIND], m % LANES
    at = matrix[WEIGHTS] + m // LANES * matrix[WEIGHTS_STRIDE]
    scales = halves_at(
        matrix[SCALES] + m // LANES * matrix[SCALES_STRIDE], (matrix[N_IN] // GROUP * LANES,)
    )
    if kind == F32:
        floats = row_at(at, (matrix[N_IN] * LANES,))
        for k in range(x.shape[0]):
            x[k] = floats[k * LANES + lane]
    elif kind == BF16 or kind == BF16_DOT:
        halves = halves_at(at, (matrix[N_IN] * LANES,))
        for k in range(x.shape[0]):
            bits = halves[2 * (k // 2 * LANES + lane) + k % 2]
            x[k] = float_of_bits(np.int32(bits) << np.int32(16))
    elif kind == INT8 or kind == INT8_DOT:
        steps = bytes_at(at, (matrix[N_IN] * LANES,))
        for k in range(x.shape[0]):
            step = _f(steps[4 * (k // 4 * LANES + lane) + k % 4]) - _f(128)
            x[k] = step * float_of_half(scales[k // GROUP * LANES + lane])
    else:
        pairs = bytes_at(at, (matrix[N_IN] // 2 * LANES,))
        for k in range(x.shape[0]):
            pair = pairs[4 * (k // 8 * LANES + lane) + k % 4]
            step = _f((pair >> (k // 4 % 2 * 4)) & 15) - _f(8)
            x[k] = step * float_of_half(scales[k // GROUP * LANES + lane])


@njit(**OPTIONS)
def _embed(step: Step, m: int) -> None:
    """Make the state of row m of its token and its position."""
    weights, x = step.weights, step.x[m]
    _unpack(x, weights.wte, step.tokens[m])
    if weights.wpe.shape[0]:
        add_to(x, weights.wpe[step.places.positions[m]])


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
            add_to(y[m, first:last], vectors[2 * c + first :])
        barrier(words, n_threads)
        if places.stored.shape[0]:
            n_tasks = places.stored.shape[0] * n_head
            for j in range(n_tasks * t // n_threads, n_tasks * (t + 1) // n_threads):
                store(weights, kept, places, layer, places.stored[j // n_head], j % n_head, y)
            barrier(words, n_threads)
        for j in range(places.blocks.shape[0] * n_head):
            if j % n_threads == t:  # by turns: the last blocks of a text see the most
                block = places.blocks[j // n_head]
                attend(code, weights, kept, places, layer, block, j % n_head, room, t)
        barrier(words, n_threads)
        for m in range(n):
            if m % n_threads == t:
                _prepare(matrices[1, KIND], room.attended[m], none, none, eps, inputs, m)
        barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[1], inputs, n, y)
        for m in range(n):
            add_to(x[m, first:last], y[m, first:])
            add_to(x[m, first:last], vectors[5 * c + first :])
        barrier(words, n_threads)
        for m in range(n):
            if m % n_threads == t:
                gain, shift = vectors[6 * c : 7 * c], vectors[7 * c : 8 * c]
                _prepare(matrices[2, KIND], x[m], gain, shift, eps, inputs, m)
        barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[2], inputs, n, y)
        for m in range(n):
            add_to(y[m, first:last], vectors[8 * c + first :])
            _gelu(y[m, first : (last + LANES - 1) // LANES * LANES])
        barrier(words, n_threads)
        for m in range(n):
            if m % n_threads == t:
                _prepare(matrices[3, KIND], y[m, :inner], none, none, eps, inputs, m)
        barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[3], inputs, n, y)
        for m in range(n):
            add_to(x[m, first:last], y[m, first:])
            add_to(x[m, first:last], vectors[8 * c + inner + first :])
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
            ranks.held[t, m] = rank(row, begin, keys, tokens, ranks.peaks[t], tops)
        barrier(words, n_threads)
        for m in range(n):
            if m % n_threads == t:
                merge(step, m, n_threads)


@njit(**OPTIONS)
def _compute(t: int, n_threads: int, words: int) -> None:
    """One thread's part of the step."""
    step = opened(look(words + 8 * STEP))
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
