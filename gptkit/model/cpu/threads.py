"""How the threads of a step meet: counters that they share, in numba.

They turn for a moment, and sleep where the system lets them: see futex(2).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from gptkit.model.cpu.layout import ARRIVED, ASLEEP, BELL, SLEEPERS, STEP, STEPS
from gptkit.model.cpu.processor import FUTEX, IS_X86, YIELD

OPTIONS: dict[str, Any] = {
    "fastmath": True,
    "error_model": "numpy",  # a check for zero would keep loops from being vectors
    "nogil": True,
    "_nrt": False,  # nobody counts who holds an array
}
"""How all of the kernels are compiled."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_ARRIVED, _SLEEPERS, _STEPS, _BELL, _ASLEEP, _STEP = (
    8 * word for word in (ARRIVED, SLEEPERS, STEPS, BELL, ASLEEP, STEP)
)
_TURNS = 4000  # some 100 microseconds: parts of a step are as long
_WAIT, _WAKE = 128, 129  # of threads of one process (linux/futex.h)


@intrinsic
def _add(typing: Any, at: Any, n: Any) -> Any:
    """Add to a counter, atomically; return what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counter = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", counter, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def look(typing: Any, at: Any) -> Any:
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


@intrinsic
def _put(typing: Any, at: Any, value: Any) -> Any:
    """Write a number to an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _I64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@njit(**OPTIONS)
def barrier(words: int, n_threads: int) -> None:
    """Return when all threads have come; the counter only grows.

    Who waits turns for a moment, and then sleeps: where the processors have other work too, turning
    would only keep the others from coming.
    """
    counter, sleepers = words + _ARRIVED, words + _SLEEPERS
    arrived = _add(counter, 1) + 1
    end = (arrived + n_threads - 1) // n_threads * n_threads
    if arrived == end:
        if look(sleepers):
            _futex(counter, _WAKE, n_threads)
        return
    for _ in range(_TURNS):
        if look(counter) >= end:
            return
    _add(sleepers, 1)
    now = look(counter)
    while now < end:
        _futex(counter, _WAIT, now & 0xFFFFFFFF)
        now = look(counter)
    _add(sleepers, -1)


@intrinsic
def call(typing: Any, at: Any, *numbers: Any) -> Any:
    """Call the function at an address, which numba would compile again for each caller."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(ir.VoidType(), [_I64] * len(given))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, len(numbers))), generate


@njit(**OPTIONS)
def wake(words: int, n_threads: int) -> None:
    """Wake the threads that sleep in `follow`: a step is near."""
    _add(words + _BELL, 1)
    if look(words + _ASLEEP):
        _futex(words + _BELL, _WAKE, n_threads)


@njit(**OPTIONS)
def lead(part: int, n_threads: int, words: int, step: int) -> None:
    """Compute the step at an address together with those who follow."""
    _put(words + _STEP, step)
    _add(words + _STEPS, 1)
    wake(words, n_threads)
    call(part, 0, n_threads, words)


@njit(**OPTIONS)
def _turn(steps: int, done: int) -> None:
    """Wait for a moment, half a millisecond on recent x86, or until there are more steps."""
    for _ in range(5 * _TURNS):
        if look(steps) != done:
            return


@njit(**OPTIONS)
def follow(part: int, t: int, n_threads: int, words: int, done: int) -> int:
    """Take part in the steps after the first `done`: in all, or in one where nobody can sleep here.

    Who was woken, or has done a step, turns for a moment, for the next one may be near.
    """
    steps, bell, asleep = words + _STEPS, words + _BELL, words + _ASLEEP
    while True:
        _turn(steps, done)  # for longer than Python takes between two steps
        called = look(bell)
        if look(steps) == done:
            _add(asleep, 1)
            _futex(bell, _WAIT, called & 0xFFFFFFFF)
            _add(asleep, -1)
            _turn(steps, done)
        else:
            call(part, t, n_threads, words)
            done += 1
            if not FUTEX:
                return done
