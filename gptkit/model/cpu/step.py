"""A step as the kernels have it, and how it is read from a row of numbers: see `layout.Call`.

Shapes: N rows of a step, C model width, V vocabulary.
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

from gptkit.model.cpu.layout import FORMS, N_OUT, Call, Kept, Ranks, Room, Weights, n_words
from gptkit.model.cpu.threads import OPTIONS

_I64 = ir.IntType(64)


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


_numbers_at, _table_at, row_at, _rows_at = map(_array_at, ("i8:1", "i8:2", "f4:1", "f4:2"))
halves_at, bytes_at = map(_array_at, ("i2:1", "u1:1"))


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
def opened(at: int) -> Step:
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
