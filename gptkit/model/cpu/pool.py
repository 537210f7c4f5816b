"""Threads that compute a step together; they wait without turning while there is nothing to do."""

from __future__ import annotations

import threading
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from gptkit.model.cpu.kernels import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Callable

    Part = Callable[..., None]
    """Computes one thread's part: called with its number, how many there are, a counter's address,
    and the arguments. It returns when all parts are done."""
    Work = tuple[Part, tuple[Any, ...]]


@cache
def pool(n: int) -> Pool:
    """Return the pool of n threads, which all models share."""
    return Pool(n)


class Pool:
    """Threads of their own, for Ctrl-C may stop the caller's at any line, and all must take part.

    A part lets go of Python's lock, so all run at once. Calls are served in turn.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._counter = np.zeros(COUNTERS, np.int64)
        self._asked: SimpleQueue[tuple[Work, SimpleQueue[BaseException | None]]] = SimpleQueue()
        self._others: list[SimpleQueue[Work]] = [SimpleQueue() for _ in range(1, n)]
        threading.Thread(target=self._lead, daemon=True).start()
        for t, work in enumerate(self._others, start=1):
            threading.Thread(target=self._follow, args=(t, work), daemon=True).start()

    def run(self, part: Part, *args: Any) -> None:
        """Compute all parts."""
        ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._asked.put(((part, args), ended))
        if (error := ended.get()) is not None:
            raise error

    def _lead(self) -> None:
        while True:
            work, ended = self._asked.get()
            for other in self._others:
                other.put(work)
            ended.put(self._compute(0, work))

    def _follow(self, t: int, asked: SimpleQueue[Work]) -> None:
        while True:
            self._compute(t, asked.get())  # what is wrong here is wrong for who leads

    def _compute(self, t: int, work: Work) -> BaseException | None:
        part, args = work
        try:
            part(t, self.n, self._counter.ctypes.data, *args)
        except BaseException as error:
            return error
        return None
