"""The product of a tile, in LLVM IR: one panel, or two, times a few rows of inputs.

A panel is 16 output rows of a matrix, K-major: one lane of a 16-lane vector is one output row, the
activations are broadcast, a thread reads one sequential stream of weights, and no sum goes across
lanes. LLVM splits these vectors where a processor has shorter ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Tile(NamedTuple):
    """How many rows of inputs and panels are multiplied at once, and how often the next panel is
    halved to give the part of it that is prefetched meanwhile."""

    which: int
    rows: int
    panels: int
    halvings: int


ONE, TWO, FOUR, EIGHT = (Tile(i, 1 << i, 1, 0) for i in range(4))
EIGHT_OF_MORE = Tile(4, 8, 1, 1)
PAIR = Tile(5, 4, 2, 2)
"""For many rows: a broadcast serves two panels."""
TILES = (ONE, TWO, FOUR, EIGHT, EIGHT_OF_MORE, PAIR)
DEQUANTISED = (INT8, INT4)
"""Kinds whose weights are made floats first: once for eight rows, so that there are no pairs."""

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
    """Writes one loop over K: y[m, 0:16 P] = panels times x[m], for the M rows of a tile."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def load(self, at: Any, kind: Any, align: int = 4) -> Any:
        value = self.b.load(self.b.inttoptr(at, kind.as_pointer()))
        value.align = align
        return value

    def prefetch(self, at: Any, n_lines: int) -> None:
        """Have lines of the cache come from memory while others are used."""
        pointer = _I8.as_pointer()
        kinds = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        name, module = "llvm.prefetch.p0", self.b.module
        prefetch = module.globals.get(name) or ir.Function(module, kinds, name)
        read, second_level, data = (ir.Constant(_I32, n) for n in (0, 2, 1))
        for line in range(n_lines):
            there = self.b.inttoptr(self.at(at, 64 * line), pointer)
            self.b.call(prefetch, [there, read, second_level, data])

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

    def tile(self, kind: int, tile: Tile, args: Any) -> None:
        """Write the loop for one kind of weights and a tile."""
        w, ldw, scales, lds, x, ldx, x_scales, x_sums, ldg, n_inputs, y, ldy, next_at = args
        b, n = self.b, tile.rows
        dots = kind in (INT8_DOT, INT4_DOT)
        n_sums = 1 if dots else 2  # for each row: two chains hide the latency of an fma
        step = {F32: 4, BF16: 8, BF16_DOT: 8}.get(kind, GROUP)
        n_lines = {INT8: 8, INT8_DOT: 8}.get(kind, 4)  # of 64 bytes, of a panel
        x_bytes = step * {BF16_DOT: 2, INT8_DOT: 1, INT4_DOT: 1}.get(kind, 4)
        x_rows = self.rows(x, ldx, n)
        groups = b.mul(ldg, ir.Constant(_I64, 4))
        scale_rows, sum_rows = self.rows(x_scales, groups, n), self.rows(x_sums, groups, n)
        w_panels, scale_panels = self.rows(w, ldw, tile.panels), self.rows(scales, lds, tile.panels)
        before = b.block
        loop, done = (b.function.append_basic_block() for _ in range(2))
        n_steps = b.udiv(n_inputs, ir.Constant(_I64, step))
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(_I64)
        i.add_incoming(ir.Constant(_I64, 0), before)
        sums = [b.phi(_VF) for _ in range(tile.panels * n * n_sums)]
        for one in sums:
            one.add_incoming(ir.Constant(_VF, [0.0] * LANES), before)
        acc = list(sums)
        n_early = n_lines >> tile.halvings
        self.prefetch(b.add(next_at, b.mul(i, ir.Constant(_I64, 64 * n_early))), n_early)
        w_offset = b.mul(i, ir.Constant(_I64, 64 * n_lines))
        offset = b.mul(i, ir.Constant(_I64, x_bytes))
        wp = [b.add(panel, w_offset) for panel in w_panels]
        xp = [b.add(row, offset) for row in x_rows]
        if kind in (F32, BF16, BF16_DOT):
            self._floats(kind, wp, xp, acc)
        else:
            group = b.mul(i, ir.Constant(_I64, 4))
            at = b.mul(i, ir.Constant(_I64, 2 * LANES))
            halves = [self.load(b.add(panel, at), _VHALF, 2) for panel in scale_panels]
            by = [b.fpext(half, _VF) for half in halves]
            if dots:
                starts = [self.splat(b.add(row, group), _I32, _VI) for row in sum_rows]
                totals = starts * tile.panels
                self._dots(kind, wp, xp, totals)
                for m in range(n):
                    mine = self.splat(b.add(scale_rows[m], group), _FLOAT, _VF)
                    for p, scale in enumerate(by):
                        j = p * n + m
                        acc[j] = self.fma(b.sitofp(totals[j], _VF), b.fmul(scale, mine), acc[j])
            else:
                self._dequantised(kind, wp[0], xp, by[0], acc)
        following = b.add(i, ir.Constant(_I64, 1))
        i.add_incoming(following, loop)
        for one, value in zip(sums, acc, strict=True):
            one.add_incoming(value, loop)
        b.cbranch(b.icmp_unsigned("<", following, n_steps), loop, done)
        b.position_at_end(done)
        for j in range(tile.panels * n):
            total = acc[j * n_sums]
            for part in acc[j * n_sums + 1 : (j + 1) * n_sums]:
                total = b.fadd(total, part)
            p, m = divmod(j, n)
            out = self.at(b.add(y, b.mul(ldy, ir.Constant(_I64, 4 * m))), 4 * LANES * p)
            b.store(total, b.inttoptr(out, _VF.as_pointer())).align = 4

    def _floats(self, kind: int, wp: list[Any], xp: list[Any], acc: list[Any]) -> None:
        """Add up a few inputs: sum j of row m and panel p is at 2 (p M + m) + j."""
        b, n = self.b, len(xp)
        for u in range(4):
            lines = [self.load(self.at(w, 64 * u), _VF if kind == F32 else _VI) for w in wp]
            for m, row in enumerate(xp):
                if kind == F32:
                    inputs = [self.splat(self.at(row, 4 * u), _FLOAT, _VF)]
                elif kind == BF16:
                    inputs = [self.splat(self.at(row, 8 * u + 4 * i), _FLOAT, _VF) for i in (0, 1)]
                else:
                    inputs = [self.splat(self.at(row, 4 * u), _I32, _VBF)]
                for p, words in enumerate(lines):
                    one = 2 * (p * n + m)
                    j = one + u % 2
                    if kind == F32:
                        acc[j] = self.fma(words, inputs[0], acc[j])
                    elif kind == BF16:  # a pair in 32 bits: the low one and the high one
                        low = b.bitcast(b.shl(words, self.ints(16)), _VF)
                        high = b.bitcast(b.and_(words, self.ints(0xFFFF0000)), _VF)
                        acc[one] = self.fma(low, inputs[0], acc[one])
                        acc[one + 1] = self.fma(high, inputs[1], acc[one + 1])
                    else:
                        acc[j] = self.call(
                            "llvm.x86.avx512bf16.dpbf16ps.512",
                            _VF,
                            acc[j],
                            b.bitcast(words, _VBF),
                            inputs[0],
                        )

    def _dots(self, kind: int, wp: list[Any], xp: list[Any], sums: list[Any]) -> None:
        """Add up a group in whole numbers. The weights are unsigned; the sums start from what
        that adds too much."""

        def dot(lines: list[Any], offset: int) -> None:
            for m, row in enumerate(xp):
                four = self.splat(self.at(row, offset), _I32, _VBYTES)
                for p, words in enumerate(lines):
                    j = p * len(xp) + m
                    sums[j] = self.call(
                        "llvm.x86.avx512.vpdpbusd.512",
                        _VI,
                        sums[j],
                        self.b.bitcast(words, _VBYTES),
                        four,
                    )

        for u in range(8 if kind == INT8_DOT else 4):
            lines = [self.load(self.at(w, 64 * u), _VI) for w in wp]
            if kind == INT8_DOT:
                dot(lines, 4 * u)
            else:
                mask = self.ints(0x0F0F0F0F)
                dot([self.b.and_(words, mask) for words in lines], 8 * u)
                highs = [self.b.lshr(words, self.ints(4)) for words in lines]
                dot([self.b.and_(high, mask) for high in highs], 8 * u + 4)

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
            words = self.load(self.at(wp, 64 * u), _VI)
            four(words, 4 * u if kind == INT8 else 8 * u)
            if kind == INT4:
                four(b.lshr(words, self.ints(bits)), 8 * u + 4)


@intrinsic
def tile(
    typing: Any,
    kind: Any,
    which: Any,
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
    next_at: Any,
) -> Any:
    """Multiply a tile, `which` of TILES. All are int64: addresses; strides in bytes from one panel
    to the next (ldw, lds) and one row to the next (ldx), in numbers ldg (scales and sums) and ldy;
    k inputs; and the address of what is prefetched."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")  # the loops are compiled once
        emit = _Emit(builder)
        for one in KINDS:
            with builder.if_then(builder.icmp_signed("==", args[0], ir.Constant(_I64, one))):
                for its in TILES[:-1] if one in DEQUANTISED else TILES:
                    is_it = builder.icmp_signed("==", args[1], ir.Constant(_I64, its.which))
                    with builder.if_then(is_it):
                        emit.tile(one, its, args[2:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 15), generate
