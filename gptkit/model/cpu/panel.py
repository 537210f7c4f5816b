"""The product of a panel, in LLVM IR: 16 output rows of a matrix times a few rows of inputs.

A panel is K-major: one lane of a 16-lane vector is one output row, the activations are broadcast,
a thread reads one sequential stream of weights, and no sum goes across lanes. LLVM splits these
vectors where a processor has shorter ones.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gptkit.model.cpu.layout import (
    BF16,
    BF16_DOT,
    F32,
    GROUP,
    INT4,
    INT4_DOT,
    INT8,
    INT8_DOT,
    LANES,
)
from gptkit.model.cpu.processor import HAS_BF16_DOT, HAS_INT8_DOT

_TILES = (8, 4, 2, 1)  # rows of activations that one pass over a panel serves
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_VF, _VI, _VBYTES, _VHALF = (
    ir.VectorType(kind, n) for kind, n in ((_FLOAT, 16), (_I32, 16), (_I8, 64), (ir.HalfType(), 16))
)

KINDS = (
    *(F32, BF16, INT8, INT4),
    *([BF16_DOT] if HAS_BF16_DOT else []),
    *([INT8_DOT, INT4_DOT] if HAS_INT8_DOT else []),
)
"""The kinds that this processor can multiply."""


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
def panel(
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
