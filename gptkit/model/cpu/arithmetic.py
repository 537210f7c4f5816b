"""Numbers and rows of them, as the kernels reckon, in numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from gptkit.model.cpu.threads import OPTIONS

INLINE: dict[str, Any] = {**OPTIONS, "inline": "always"}
_I32, _FLOAT = ir.IntType(32), ir.FloatType()
_f = np.float32


@intrinsic
def float_of_bits(typing: Any, value: Any) -> Any:
    """Take an int32 for the float32 of the same bits."""
    return types.float32(types.int32), lambda c, b, s, args: b.bitcast(args[0], _FLOAT)


@intrinsic
def float_of_half(typing: Any, value: Any) -> Any:
    """Return the float32 equal to the float16 whose bits an int16 has."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), _FLOAT)

    return types.float32(types.int16), generate


@intrinsic
def bits_of_float(typing: Any, value: Any) -> Any:
    """Take a float32 for the int32 of the same bits."""
    return types.int32(types.float32), lambda c, b, s, args: b.bitcast(args[0], _I32)


@njit(**INLINE)
def exp(x: Any) -> Any:
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
    return p * float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(**OPTIONS)
def bf16(x: Any) -> Any:
    """Round to the nearest bfloat16, to even."""
    u = bits_of_float(x)
    odd = (u >> np.int32(16)) & np.int32(1)
    return np.int16((u + np.int32(0x7FFF) + odd) >> np.int32(16))


# A loop over part of a row takes a slice: an index that might be below zero is no vector's.


@njit(**INLINE)
def fill(row: Any) -> None:
    """Make a row zeros."""
    for i in range(row.shape[0]):
        row[i] = _f(0)


@njit(**INLINE)
def add_to(row: Any, more: Any) -> None:
    """Add a row, or the beginning of a longer one, to a row."""
    for i in range(row.shape[0]):
        row[i] += more[i]


@njit(**INLINE)
def scale(row: Any, by: Any) -> None:
    """Multiply a row by a number."""
    for i in range(row.shape[0]):
        row[i] *= by
