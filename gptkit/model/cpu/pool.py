"""Threads that compute a step together; they wait without turning while there is nothing to do."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Part = Callable[..., None]
    """Computes one thread's part: called with its number, how many there are, a counter's address,
    and the arguments. It returns when all parts are done."""


class Pool:
    """The caller's thread and `n - 1` more. A part lets go of Python's lock, so all run at once."""

    def __init__(self, n: int) -> None:
        self.n = n
        # A cache line of its own: the threads meet at it.
        self._counter = np.zeros(16, np.int64)
        self._work: list[queue.SimpleQueue[tuple[Part, tuple[Any, ...]] | None]] = []
        for t in range(1, n):
            work: queue.SimpleQueue[tuple[Part, tuple[Any, ...]] | None] = queue.SimpleQueue()
            self._work.append(work)
            thread = threading.Thread(target=self._serve, args=(t, work), daemon=True)
            thread.start()

    def run(self, part: Part, *args: Any) -> None:
        """Compute all parts."""
        for work in self._work:
            work.put((part, args))
        part(0, self.n, self._counter.ctypes.data, *args)

    def close(self) -> None:
        """Let the threads end."""
        for work in self._work:
            work.put(None)

    def _serve(self, t: int, work: queue.SimpleQueue[tuple[Part, tuple[Any, ...]] | None]) -> None:
        while (given := work.get()) is not None:
            part, args = given
            part(t, self.n, self._counter.ctypes.data, *args)
