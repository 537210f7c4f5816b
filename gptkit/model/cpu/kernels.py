"""The kernels of a step on a CPU: numba, compiled once, over weights in panels of 16 output rows.

A panel is K-major: one lane of a 16-lane vector is one output row, the activations are broadcast,
a thread reads one sequential stream of weights, and no sum goes across lanes. Keys and values lie
in the same layout, so that attention runs on the same loop. That loop is written as LLVM IR, whose
vectors LLVM splits where a processor has shorter ones.

A row's sums are taken in one order whatever the number of rows, the number of threads, and the
place where it stands; so its bits depend on nothing but the row.

Everything is in this file since numba's cache on disk looks at a function's own file alone.

Shapes: N rows of a step, K inputs and O outputs of a matrix, P = O / 16 panels, C model width, I
MLP width, H heads, D head size, T positions of a slot; all widths that vectors read are rounded
up, and what is too much is zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from gptkit.model.cpu.processor import FUTEX, HAS_BF16_DOT, HAS_INT8_DOT, IS_X86, YIELD

F32, BF16, BF16_DOT, INT8, INT4, INT8_DOT, INT4_DOT = range(7)
"""How a matrix is stored and multiplied. `_DOT` takes activations in 16 or 8 bits too, and needs
AVX-512 BF16 or VNNI; without it they stay float32, which any processor can do."""

LANES = 16
GROUP = 32
"""Weights that share a scale, along K; and what K is rounded up to."""
BLOCK = 32
"""Rows that attend together."""
SPAN = 64
"""Tokens whose best logit decides whether any of them is looked at again."""

WORDS = 64
"""Numbers in int64 that the threads of a pool share."""
_ARRIVED, _SLEEPERS, _STEPS, _BELL, _ASLEEP, _STEP = (64 * i for i in range(6))
"""Where they are, in bytes, a cache line for each: how many have come to the barrier, and how many
sleep there; how many steps there were; how often somebody was called, and how many sleep until
then; and where the step lies."""
STEPS = _STEPS // 8
"""Where the number of steps is among them."""
_TURNS = 4000  # some 100 microseconds: parts of a step are as long
_WAIT, _WAKE = 128, 129  # of threads of one process (linux/futex.h)

_TILES = (8, 4, 2, 1)  # rows of activations that one pass over a panel serves
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_VF, _VI, _VBYTES, _VHALF = (
    ir.VectorType(kind, n) for kind, n in ((_FLOAT, 16), (_I32, 16), (_I8, 64), (ir.HalfType(), 16))
)


KINDS = (
    F32,
    BF16,
    INT8,
    INT4,
    *([BF16_DOT] if HAS_BF16_DOT else []),
    *([INT8_DOT, INT4_DOT] if HAS_INT8_DOT else []),
)
"""The kinds that this processor can multiply."""


# The loop over K, in LLVM IR ------------------------------------------------------------------


class _BFloat(ir.Type):  # type: ignore[misc]
    """bfloat, which llvmlite has no name for."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return 7


_VBF = ir.VectorType(_BFloat(), 32)


class _Emit:
    """Writes one loop over K: y[m, 0:16] = panel times x[m], for the M rows of a tile."""

    def __init__(self, builder: Any, ahead: Any) -> None:
        self.b, self.ahead = builder, ahead

    def load(self, at: Any, kind: Any, align: int = 4) -> Any:
        value = self.b.load(self.b.inttoptr(at, kind.as_pointer()))
        value.align = align
        return value

    def weights(self, at: Any, kind: Any) -> Any:
        """Load weights; what comes next comes from memory while these are used."""
        pointer = _I8.as_pointer()
        kinds = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        name, module = "llvm.prefetch.p0", self.b.module
        prefetch = module.globals.get(name) or ir.Function(module, kinds, name)
        there = self.b.inttoptr(self.b.add(at, self.ahead), pointer)
        read, second_level, data = (ir.Constant(_I32, n) for n in (0, 2, 1))
        self.b.call(prefetch, [there, read, second_level, data])
        return self.load(at, kind)

    def splat(self, at: Any, kind: Any, as_kind: Any) -> Any:
        """Load one number of 32 bits into all lanes."""
        none = ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)
        one = self.b.insert_element(none, self.load(at, kind), ir.Constant(_I32, 0))
        all_lanes = self.b.shuffle_vector(one, none, ir.Constant(_VI, [0] * LANES))
        return self.b.bitcast(all_lanes, as_kind)

    def call(self, name: str, returns: Any, *values: Any) -> Any:
        module = self.b.module
        kind = ir.FunctionType(returns, [value.type for value in values])
        return self.b.call(module.globals.get(name) or ir.Function(module, kind, name), values)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.call("llvm.fma.v16f32", _VF, a, b, c)

    def at(self, base: Any, offset: int) -> Any:
        return self.b.add(base, ir.Constant(_I64, offset)) if offset else base

    def rows(self, base: Any, stride: Any, n: int) -> list[Any]:
        step = [self.b.mul(stride, ir.Constant(_I64, m)) for m in range(1, n)]
        return [base, *(self.b.add(base, one) for one in step)]

    def ints(self, value: int) -> Any:
        return ir.Constant(_VI, [value] * LANES)

    def panel(self, kind: int, n: int, args: Any) -> None:
        """Write the loop for one kind of weights and a tile of n rows."""
        w, scales, x, ldx, x_scales, x_sums, ldg, n_inputs, y, ldy = args
        b = self.b
        dots = kind in (INT8_DOT, INT4_DOT)
        n_sums = 1 if dots else 2  # for each row: two chains hide the latency of an fma
        step = {F32: 4, BF16: 8, BF16_DOT: 8}.get(kind, GROUP)
        w_bytes = {INT8: 512, INT8_DOT: 512}.get(kind, 256)
        x_bytes = step * {BF16_DOT: 2, INT8_DOT: 1, INT4_DOT: 1}.get(kind, 4)
        x_rows = self.rows(x, ldx, n)
        groups = b.mul(ldg, ir.Constant(_I64, 4))
        scale_rows, sum_rows = self.rows(x_scales, groups, n), self.rows(x_sums, groups, n)
        before = b.block
        loop, done = (b.function.append_basic_block() for _ in range(2))
        n_steps = b.udiv(n_inputs, ir.Constant(_I64, step))
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(_I64)
        i.add_incoming(ir.Constant(_I64, 0), before)
        sums = [b.phi(_VF) for _ in range(n * n_sums)]
        for one in sums:
            one.add_incoming(ir.Constant(_VF, [0.0] * LANES), before)
        acc = list(sums)
        wp = b.add(w, b.mul(i, ir.Constant(_I64, w_bytes)))
        offset = b.mul(i, ir.Constant(_I64, x_bytes))
        xp = [b.add(row, offset) for row in x_rows]
        if kind in (F32, BF16, BF16_DOT):
            self._floats(kind, wp, xp, acc)
        else:
            group = b.mul(i, ir.Constant(_I64, 4))
            half = self.load(b.add(scales, b.mul(i, ir.Constant(_I64, 2 * LANES))), _VHALF, 2)
            scale = b.fpext(half, _VF)
            if dots:
                starts = [self.splat(b.add(row, group), _I32, _VI) for row in sum_rows]
                self._dots(kind, wp, xp, starts)
                for m in range(n):
                    both = b.fmul(scale, self.splat(b.add(scale_rows[m], group), _FLOAT, _VF))
                    acc[m] = self.fma(b.sitofp(starts[m], _VF), both, acc[m])
            else:
                self._dequantised(kind, wp, xp, scale, acc)
        following = b.add(i, ir.Constant(_I64, 1))
        i.add_incoming(following, loop)
        for one, value in zip(sums, acc, strict=True):
            one.add_incoming(value, loop)
        b.cbranch(b.icmp_unsigned("<", following, n_steps), loop, done)
        b.position_at_end(done)
        for m in range(n):
            total = acc[m * n_sums]
            for part in acc[m * n_sums + 1 : (m + 1) * n_sums]:
                total = b.fadd(total, part)
            out = b.add(y, b.mul(ldy, ir.Constant(_I64, 4 * m)))
            b.store(total, b.inttoptr(out, _VF.as_pointer())).align = 4

    def _floats(self, kind: int, wp: Any, xp: list[Any], acc: list[Any]) -> None:
        b = self.b
        for u in range(4):
            words = self.weights(self.at(wp, 64 * u), _VF if kind == F32 else _VI)
            if kind == BF16:  # a pair in 32 bits: the low one and the high one
                low = b.bitcast(b.shl(words, self.ints(16)), _VF)
                high = b.bitcast(b.and_(words, self.ints(0xFFFF0000)), _VF)
            for m, row in enumerate(xp):
                one, two = 2 * m, 2 * m + 1
                if kind == F32:
                    j = one + u % 2
                    acc[j] = self.fma(words, self.splat(self.at(row, 4 * u), _FLOAT, _VF), acc[j])
                elif kind == BF16:
                    first = self.splat(self.at(row, 8 * u), _FLOAT, _VF)
                    second = self.splat(self.at(row, 8 * u + 4), _FLOAT, _VF)
                    acc[one] = self.fma(low, first, acc[one])
                    acc[two] = self.fma(high, second, acc[two])
                else:
                    j = one + u % 2
                    pair = self.splat(self.at(row, 4 * u), _I32, _VBF)
                    acc[j] = self.call(
                        "llvm.x86.avx512bf16.dpbf16ps.512",
                        _VF,
                        acc[j],
                        b.bitcast(words, _VBF),
                        pair,
                    )

    def _dots(self, kind: int, wp: Any, xp: list[Any], sums: list[Any]) -> None:
        """Add up a group in whole numbers. The weights are unsigned; the sums start from what
        that adds too much."""

        def dot(words: Any, offset: int) -> None:
            for m, row in enumerate(xp):
                four = self.splat(self.at(row, offset), _I32, _VBYTES)
                sums[m] = self.call(
                    "llvm.x86.avx512.vpdpbusd.512",
                    _VI,
                    sums[m],
                    self.b.bitcast(words, _VBYTES),
                    four,
                )

        for u in range(8 if kind == INT8_DOT else 4):
            words = self.weights(self.at(wp, 64 * u), _VI)
            if kind == INT8_DOT:
                dot(words, 4 * u)
            else:
                dot(self.b.and_(words, self.ints(0x0F0F0F0F)), 8 * u)
                high = self.b.lshr(words, self.ints(4))
                dot(self.b.and_(high, self.ints(0x0F0F0F0F)), 8 * u + 4)

    def _dequantised(self, kind: int, wp: Any, xp: list[Any], scale: Any, acc: list[Any]) -> None:
        b = self.b
        zero, bits, mask = (128, 8, 0xFF) if kind == INT8 else (8, 4, 0x0F)

        def four(words: Any, first: int) -> None:
            for j in range(4):
                value = b.and_(b.lshr(words, self.ints(8 * j)), self.ints(mask))
                number = b.sitofp(b.sub(value, self.ints(zero)), _VF)
                weight = b.fmul(number, scale)
                for m, row in enumerate(xp):
                    x = self.splat(self.at(row, 4 * (first + j)), _FLOAT, _VF)
                    k = 2 * m + j % 2
                    acc[k] = self.fma(weight, x, acc[k])

        for u in range(8 if kind == INT8 else 4):
            words = self.weights(self.at(wp, 64 * u), _VI)
            four(words, 4 * u if kind == INT8 else 8 * u)
            if kind == INT4:
                four(b.lshr(words, self.ints(bits)), 8 * u + 4)


@intrinsic
def _panel(
    typing: Any,
    kind: Any,
    n: Any,
    w: Any,
    scales: Any,
    x: Any,
    ldx: Any,
    x_scales: Any,
    x_sums: Any,
    ldg: Any,
    k: Any,
    y: Any,
    ldy: Any,
    ahead: Any,
) -> Any:
    """One panel times n rows, n of _TILES. All are int64: addresses; strides from one row to the
    next, ldx in bytes, ldg (scales and sums) and ldy in numbers; k inputs; and the bytes from this
    panel to what will be read next."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")  # the loops are compiled once
        emit = _Emit(builder, args[12])
        for one in KINDS:
            with builder.if_then(builder.icmp_signed("==", args[0], ir.Constant(_I64, one))):
                for rows in _TILES:
                    is_it = builder.icmp_signed("==", args[1], ir.Constant(_I64, rows))
                    with builder.if_then(is_it):
                        emit.panel(one, rows, args[2:12])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 13), generate


@intrinsic
def _float_of_bits(typing: Any, value: Any) -> Any:
    return types.float32(types.int32), lambda c, b, s, args: b.bitcast(args[0], _FLOAT)


@intrinsic
def _bits_of_float(typing: Any, value: Any) -> Any:
    return types.int32(types.float32), lambda c, b, s, args: b.bitcast(args[0], _I32)


@intrinsic
def _add(typing: Any, at: Any, n: Any) -> Any:
    """Add to a counter, atomically; return what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counter = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", counter, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _look(typing: Any, at: Any) -> Any:
    """Read a counter, atomically, after a pause."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if IS_X86:
            name = "llvm.x86.sse2.pause"
            nothing = ir.FunctionType(ir.VoidType(), [])
            known = builder.module.globals.get(name)
            builder.call(known or ir.Function(builder.module, nothing, name), [])
        return builder.load_atomic(builder.inttoptr(args[0], _I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), generate


@intrinsic
def _futex(typing: Any, at: Any, operation: Any, value: Any) -> Any:
    """Linux' futex(2): wait while a counter's lower half is a value, or wake so many who wait.

    Where there is none: let others have the processor."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if FUTEX:
            name, kind = "syscall", ir.FunctionType(_I64, [_I64], var_arg=True)
            known = builder.module.globals.get(name)
            code, nothing = ir.Constant(_I64, FUTEX), ir.Constant(_I64, 0)
            given = [code, *args, nothing, nothing, nothing]
            builder.call(known or ir.Function(builder.module, kind, name), given)
        else:
            kind = ir.FunctionType(_I32, [])
            known = builder.module.globals.get(YIELD)
            builder.call(known or ir.Function(builder.module, kind, YIELD), [])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


# Parts of a step ------------------------------------------------------------------------------


def _can_cache() -> bool:
    """Whether numba has a folder to keep compiled code in."""
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


_f = np.float32
_OPTIONS: dict[str, Any] = {
    "fastmath": True,
    "error_model": "numpy",  # a check for zero would keep loops from being vectors
    "cache": _can_cache(),
    "nogil": True,
}

_INLINE: dict[str, Any] = {**_OPTIONS, "cache": False, "inline": "always"}

WEIGHTS, WEIGHTS_STRIDE, SCALES, SCALES_STRIDE, KIND, N_IN, N_OUT = range(7)
"""What is said of a matrix, in int64: the address of its first panel and the bytes to the next,
the same of its scales, its kind, K rounded up to groups, and O."""


class Inputs(NamedTuple):
    """Rows as a product reads them: float32 [N, K], or bfloat16 or int8 in `short` [N, 2 K], whose
    groups have scales and sums [N, K / 32]."""

    floats: Any
    short: Any
    scales: Any
    sums: Any


class Layers(NamedTuple):
    """The weights of all layers: matrices [layer, 4, 7] (c_attn, c_proj, c_fc, c_proj), norms and
    biases [layer, 9 C + I]."""

    matrices: Any
    vectors: Any
    n_head: int
    head_size: int
    eps: Any


class Kept(NamedTuple):
    """Keys and values [layer, slot, H, -] int16; their kind, F32 or BF16; T and D, rounded up."""

    keys: Any
    values: Any
    kind: int
    n_positions: int
    width: int


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


class Room(NamedTuple):
    """Working space: y [N, 3 C or I], mixes [N, C]; and for each thread queries [BLOCK, D], scores
    [BLOCK, T], and mixes of a block's own positions and of a trunk's [2, BLOCK, D]."""

    y: Any
    attended: Any
    queries: Any
    scores: Any
    mixed: Any


class Best(NamedTuple):
    """The n best tokens of rows of logits: ids and logits [M, n], in order; n may be 0.

    For each thread: the best of its part [T, >= M, >= n] as keys and tokens, and how many of them
    there are [T, >= M]; and working space, peaks [T, V / SPAN] and keys [T, >= n].
    """

    ids: Any
    logits: Any
    keys: Any
    tokens: Any
    held: Any
    peaks: Any
    tops: Any


class Step(NamedTuple):
    """A step: x [N, C] becomes the states before the last norm, and logits [M, V] are those of M
    `rows` of them, normed by norm [2, C] before, where it is no [2, 0].

    `code` is PANELS, `head` what is said of a matrix. The last panel of logits goes to edge [M, 16]
    first, since V need not be a multiple of 16.
    """

    code: int
    layers: Layers
    kept: Kept
    places: Places
    x: Any
    inputs: Inputs
    room: Room
    head: Any
    norm: Any
    rows: Any
    logits: Any
    edge: Any
    best: Best


@njit(**_OPTIONS)
def _barrier(words: int, n_threads: int) -> None:
    """Return when all threads have come; the counter only grows.

    Who waits turns for a moment, and then sleeps: where the processors have other work too, turning
    would only keep the others from coming.
    """
    counter, sleepers = words + _ARRIVED, words + _SLEEPERS
    arrived = _add(counter, 1) + 1
    end = (arrived + n_threads - 1) // n_threads * n_threads
    if arrived == end:
        if _look(sleepers):
            _futex(counter, _WAKE, n_threads)
        return
    for _ in range(_TURNS):
        if _look(counter) >= end:
            return
    _add(sleepers, 1)
    now = _look(counter)
    while now < end:
        _futex(counter, _WAIT, now & 0xFFFFFFFF)
        now = _look(counter)
    _add(sleepers, -1)


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


@njit(**_OPTIONS)
def _bf16(x: Any) -> Any:
    """Round to the nearest bfloat16, to even."""
    u = _bits_of_float(x)
    odd = (u >> np.int32(16)) & np.int32(1)
    return np.int16((u + np.int32(0x7FFF) + odd) >> np.int32(16))


@cfunc(types.void(*[types.int64] * 17), **_OPTIONS)
def _panels_code(
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
    """Panels first .. last - 1 times n rows, in tiles; the rest is as for `_panel`."""
    for p in range(first, last):
        m = 0
        while m < n:
            rows = 8 if n - m >= 8 else 4 if n - m >= 4 else 2 if n - m >= 2 else 1
            group = m * ldg * 4
            _panel(
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


PANELS: int = _panels_code.address
"""Where `_panels_code` lies. It is called by address, or numba would compile its many loops again
for each function that calls it."""


@intrinsic
def _panels(
    typing: Any,
    code: Any,
    kind: Any,
    n: Any,
    first: Any,
    last: Any,
    w: Any,
    ldw: Any,
    scales: Any,
    lds: Any,
    x: Any,
    ldx: Any,
    x_scales: Any,
    x_sums: Any,
    ldg: Any,
    k: Any,
    y: Any,
    ldy: Any,
    ahead: Any,
) -> Any:
    """Call `_panels_code`, which is at `code`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64] * 17)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 18), generate


@njit(**_OPTIONS)
def _takes_short(kind: int) -> bool:
    """Whether a product takes activations in 16 or 8 bits."""
    return kind == BF16_DOT or kind == INT8_DOT or kind == INT4_DOT


# A loop over part of a row takes a slice: an index that might be below zero is no vector's.


@njit(**_INLINE)
def _fill(row: Any) -> None:
    for i in range(row.shape[0]):
        row[i] = _f(0)


@njit(**_OPTIONS)
def _prepare(kind: int, x: Any, norm: Any, eps: Any, inputs: Inputs, m: int) -> None:
    """Make row m of the inputs of x [K]: normed where norm is [2, K], in the form that a kind of
    matrix takes, with zeros up to the next whole group."""
    n = x.shape[0]
    floats = inputs.floats[m]
    if norm.shape[1]:
        total = _f(0)
        for k in range(n):
            total += x[k]
        mean = total / _f(n)
        total = _f(0)
        for k in range(n):
            away = x[k] - mean
            total += away * away
        r = _f(1) / np.sqrt(total / _f(n) + eps)
        for k in range(n):
            floats[k] = (x[k] - mean) * r * norm[0, k] + norm[1, k]
    else:
        for k in range(n):
            floats[k] = x[k]
    end = (n + GROUP - 1) // GROUP * GROUP
    _fill(floats[n:end])
    if kind == BF16_DOT:
        halves = inputs.short[m].view(np.int16)
        for k in range(end):
            halves[k] = _bf16(floats[k])
    elif kind == INT8_DOT or kind == INT4_DOT:
        bytes_ = inputs.short[m]
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


@njit(**_OPTIONS)
def _multiply(
    code: int, matrix: Any, first: int, last: int, inputs: Inputs, n: int, y: int, ldy: int
) -> None:
    """Panels first .. last - 1 of a matrix times n rows of inputs, to address y."""
    x, ldx = inputs.floats.ctypes.data, inputs.floats.strides[0]
    if _takes_short(matrix[KIND]):
        x, ldx = inputs.short.ctypes.data, inputs.short.strides[0]
    _panels(
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


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def _store(
    layers: Layers, kept: Kept, places: Places, layer: int, m: int, head: int, y: Any
) -> None:
    """Put key and value of one head of row m of y [N, >= 3 C] at its position of its slot."""
    slot, at, d_head = places.slots[m], places.positions[m], layers.head_size
    c = layers.n_head * d_head
    k = y[m, c + head * d_head : c + (head + 1) * d_head]
    v = y[m, 2 * c + head * d_head : 2 * c + (head + 1) * d_head]
    keys, values = kept.keys[layer, slot, head], kept.values[layer, slot, head]
    rows = kept.n_positions * LANES  # numbers of 16 channels of the values
    panel = (at >> 4) * kept.width * LANES
    if kept.kind == F32:
        keys_f, values_f = keys.view(np.float32), values.view(np.float32)
        for d in range(d_head):
            keys_f[panel + d * LANES + (at & 15)] = k[d]
            values_f[(d >> 4) * rows + at * LANES + (d & 15)] = v[d]
    else:
        for d in range(d_head):
            keys[panel + (d >> 1) * 32 + (at & 15) * 2 + (d & 1)] = _bf16(k[d])
            values[(d >> 4) * rows + (at >> 1) * 32 + (d & 15) * 2 + (at & 1)] = _bf16(v[d])


@njit(**_OPTIONS)
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
    _panels(
        code, kept.kind, n, first, last, keys.ctypes.data, stride, 0, 0, data, step, 0, 0, 0, k,
        scores, ld, ahead,
    )  # fmt: skip


@njit(**_OPTIONS)
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
    _panels(
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


@njit(**_OPTIONS)
def _softmax(row: Any, shared: int, low: int, high: int, end: int) -> None:
    """Softmax over 0 .. shared - 1 and low .. high - 1 together; zeros elsewhere, up to end."""
    trunk, own = row[:shared], row[low:high]
    top = _top(own, _top(trunk, _f(-1e30)))
    inverse = _f(1) / (_exp_below(trunk, top) + _exp_below(own, top))
    _scale(trunk, inverse)
    _scale(own, inverse)
    _fill(row[shared:low])
    _fill(row[high:end])


@njit(**_OPTIONS)
def _attend(
    code: int,
    layers: Layers,
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
    n, d_head = rows.shape[0], layers.head_size
    keys, values = kept.keys[layer], kept.values[layer]
    queries, scores, mixed = room.queries[t, :n], room.scores[t], room.mixed[t]
    ld = scores.shape[1]
    scale = _f(1) / np.sqrt(_f(d_head))
    n_threads = room.queries.shape[0]
    ahead = keys[0, 0].nbytes * n_threads  # to the keys and values of this thread's next head
    if not block[4]:
        for m in range(n):
            _store(layers, kept, places, layer, rows[m], head, room.y)
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


@njit(**_OPTIONS)
def _run_layers(t: int, n_threads: int, words: int, step: Step) -> None:
    """One thread's part of all layers."""
    code, layers, kept, places = step.code, step.layers, step.kept, step.places
    x, inputs, room = step.x, step.inputs, step.room
    n, c = x.shape
    n_head, y = layers.n_head, room.y
    inner = layers.vectors.shape[1] - 9 * c
    no_norm = layers.vectors[0, :0].reshape(2, 0)
    for layer in range(layers.matrices.shape[0]):
        matrices, vectors = layers.matrices[layer], layers.vectors[layer]
        norm_1, norm_2 = vectors[: 2 * c].reshape(2, c), vectors[6 * c : 8 * c].reshape(2, c)
        for m in range(t, n, n_threads):
            _prepare(matrices[0, KIND], x[m], norm_1, layers.eps, inputs, m)
        _barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[0], inputs, n, y)
        for m in range(n):
            _add_to(y[m, first:last], vectors[2 * c + first :])
        _barrier(words, n_threads)
        if places.stored.shape[0]:
            n_tasks = places.stored.shape[0] * n_head
            for j in range(n_tasks * t // n_threads, n_tasks * (t + 1) // n_threads):
                _store(layers, kept, places, layer, places.stored[j // n_head], j % n_head, y)
            _barrier(words, n_threads)
        n_tasks = places.blocks.shape[0] * n_head
        for j in range(t, n_tasks, n_threads):  # by turns: the last blocks of a text see the most
            block = places.blocks[j // n_head]
            _attend(code, layers, kept, places, layer, block, j % n_head, room, t)
        _barrier(words, n_threads)
        for m in range(t, n, n_threads):
            _prepare(matrices[1, KIND], room.attended[m], no_norm, layers.eps, inputs, m)
        _barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[1], inputs, n, y)
        for m in range(n):
            _add_to(x[m, first:last], y[m, first:])
            _add_to(x[m, first:last], vectors[5 * c + first :])
        _barrier(words, n_threads)
        for m in range(t, n, n_threads):
            _prepare(matrices[2, KIND], x[m], norm_2, layers.eps, inputs, m)
        _barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[2], inputs, n, y)
        for m in range(n):
            _add_to(y[m, first:last], vectors[8 * c + first :])
            _gelu(y[m, first : (last + LANES - 1) // LANES * LANES])
        _barrier(words, n_threads)
        for m in range(t, n, n_threads):
            _prepare(matrices[3, KIND], y[m, :inner], no_norm, layers.eps, inputs, m)
        _barrier(words, n_threads)
        first, last = _linear(code, t, n_threads, matrices[3], inputs, n, y)
        for m in range(n):
            _add_to(x[m, first:last], y[m, first:])
            _add_to(x[m, first:last], vectors[8 * c + inner + first :])
        _barrier(words, n_threads)


@njit(**_OPTIONS)
def run_norm(x: Any, norm: Any, eps: Any, inputs: Inputs) -> None:
    """Norm the rows of x [N, C] by norm [2, C]; an empty one leaves them as they are."""
    for m in range(x.shape[0]):
        _prepare(F32, x[m], norm, eps, inputs, m)
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


@njit(**_OPTIONS)
def _peak(row: Any) -> Any:
    top = np.int32(-0x80000000)
    for i in range(row.shape[0]):
        top = max(top, _key(row[i]))
    return top


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def _merge(best: Best, m: int, n_threads: int, row: Any) -> None:
    """Make the best of a row of those of its parts."""
    n, held = best.ids.shape[1], best.held[0, m]
    keys, tokens = best.keys[0, m, :n], best.tokens[0, m, :n]
    for t in range(1, n_threads):
        for i in range(best.held[t, m]):
            held = _put_token(keys, tokens, held, best.keys[t, m, i], best.tokens[t, m, i])
    for i in range(held):
        best.ids[m, i] = tokens[i]
        best.logits[m, i] = row[tokens[i]]


@njit(**_OPTIONS)
def _run_head(t: int, n_threads: int, words: int, step: Step) -> None:
    """One thread's part of the logits."""
    matrix, rows, inputs, logits = step.head, step.rows, step.inputs, step.logits
    n, n_out = rows.shape[0], matrix[N_OUT]
    for m in range(t, n, n_threads):
        _prepare(matrix[KIND], step.x[rows[m]], step.norm, step.layers.eps, inputs, m)
    _barrier(words, n_threads)
    whole = n_out // LANES
    first, last = whole * t // n_threads, whole * (t + 1) // n_threads
    _multiply(step.code, matrix, first, last, inputs, n, logits.ctypes.data, n_out)
    if t == n_threads - 1 and whole * LANES < n_out:
        to = step.edge.ctypes.data - whole * LANES * 4
        _multiply(step.code, matrix, whole, whole + 1, inputs, n, to, LANES)
        for m in range(n):
            for o in range(whole * LANES, n_out):
                logits[m, o] = step.edge[m, o - whole * LANES]
    best = step.best
    n_best = best.ids.shape[1]
    if n_best:  # while a thread's part is in its cache
        begin, end = first * LANES, n_out if t == n_threads - 1 else last * LANES
        tops = best.tops[t, :n_best]
        for m in range(n):
            keys, tokens = best.keys[t, m, :n_best], best.tokens[t, m, :n_best]
            row = logits[m, begin:end]
            best.held[t, m] = _rank(row, begin, keys, tokens, best.peaks[t], tops)
        _barrier(words, n_threads)
        for m in range(t, n, n_threads):
            _merge(best, m, n_threads, logits[m])


# Threads --------------------------------------------------------------------------------------


def _array(kind: Any, n: int) -> Any:
    return types.Array(kind, n, "C")


def _tuple(kind: type[NamedTuple], *members: Any) -> Any:
    return types.NamedTuple(members, kind)


_i, _f32 = types.int64, types.float32
_STEP_TYPE = _tuple(
    Step,
    _i,
    _tuple(Layers, _array(_i, 3), _array(_f32, 2), _i, _i, _f32),
    _tuple(Kept, _array(types.int16, 4), _array(types.int16, 4), _i, _i, _i),
    _tuple(Places, *(_array(_i, n) for n in (1, 1, 1, 2, 1))),
    _array(_f32, 2),
    _tuple(Inputs, *(_array(kind, 2) for kind in (_f32, types.int8, _f32, types.int32))),
    _tuple(Room, *(_array(_f32, n) for n in (2, 2, 3, 3, 4))),
    _array(_i, 1),
    _array(_f32, 2),
    _array(_i, 1),
    _array(_f32, 2),
    _array(_f32, 2),
    _tuple(
        Best,
        *(_array(*one) for one in ((_i, 2), (_f32, 2), (types.int32, 3), (_i, 3), (_i, 2))),
        *(_array(types.int32, 2) for _ in range(2)),
    ),
)


@intrinsic
def _address(typing: Any, step: Any) -> Any:
    """Return where a step lies, on the caller's stack."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(cgutils.alloca_once_value(builder, args[0]), _I64)

    return types.int64(step), generate


@intrinsic
def _step_at(typing: Any, at: Any) -> Any:
    """Return the step that lies at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(_STEP_TYPE)
        step = builder.load(builder.inttoptr(args[0], kind.as_pointer()))
        return impl_ret_borrowed(context, builder, _STEP_TYPE, step)

    return _STEP_TYPE(types.int64), generate


@intrinsic
def _put(typing: Any, at: Any, value: Any) -> Any:
    """Write a number to an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _I64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@njit(types.void(_i, _i, _i), **_OPTIONS)
def _compute(t: int, n_threads: int, words: int) -> None:
    """One thread's part of the step."""
    step = _step_at(_look(words + _STEP))
    if step.layers.matrices.shape[0]:
        _run_layers(t, n_threads, words, step)
    if step.rows.shape[0]:
        _run_head(t, n_threads, words, step)


@cfunc(types.void(*[types.int64] * 3), **_OPTIONS)
def _part_code(t: int, n_threads: int, words: int) -> None:
    """One thread's part of the step; when it returns, all have done theirs."""
    _compute(t, n_threads, words)  # apart: nobody may hold the step when the leader leaves it
    _barrier(words, n_threads)


PART: int = _part_code.address
"""Where `_part_code` lies: called by address, as `_panels_code` is, and for the same reason."""


@intrinsic
def _part(typing: Any, part: Any, t: Any, n_threads: Any, words: Any) -> Any:
    """Call `_part_code`, which is at `part`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@njit(types.void(_i, _i), **_OPTIONS)
def wake(words: int, n_threads: int) -> None:
    """Wake the threads that sleep in `follow`: a step is near."""
    _add(words + _BELL, 1)
    if _look(words + _ASLEEP):
        _futex(words + _BELL, _WAKE, n_threads)


@njit(types.void(_i, _i, _i, _STEP_TYPE), **_OPTIONS)
def lead(part: int, n_threads: int, words: int, step: Step) -> None:
    """Compute a step together with those who follow."""
    _put(words + _STEP, _address(step))
    _add(words + _STEPS, 1)
    wake(words, n_threads)
    _part(part, 0, n_threads, words)


@njit(types.int64(_i, _i, _i, _i, _i), **_OPTIONS)
def follow(part: int, t: int, n_threads: int, words: int, done: int) -> int:
    """Take part in the steps after the first `done`: in all, or in one where nobody can sleep here.

    Who was woken turns for a moment, for the step is near; after a step it sleeps at once.
    """
    steps, bell, asleep = words + _STEPS, words + _BELL, words + _ASLEEP
    while True:
        called = _look(bell)
        if _look(steps) == done:
            _add(asleep, 1)
            _futex(bell, _WAIT, called & 0xFFFFFFFF)
            _add(asleep, -1)
            turns = 0  # for longer than Python takes to prepare a step
            while turns < 5 * _TURNS and _look(steps) == done:
                turns += 1
        else:
            _part(part, t, n_threads, words)
            done += 1
            if not FUTEX:
                return done
