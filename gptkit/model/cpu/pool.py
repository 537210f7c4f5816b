"""Threads that compute a step together; they sleep while there is nothing to do."""

from __future__ import annotations

import os
import threading
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from gptkit.model.cpu import layout
from gptkit.model.cpu.library import library
from gptkit.model.cpu.packing import aligned
from gptkit.model.cpu.processor import FUTEX

if TYPE_CHECKING:
    from array import array


@cache
def pool(n: int) -> Pool:
    """Return the pool of n threads, which all models share."""
    return Pool(n)


class Pool:
    """The caller's thread and n - 1 that follow it, which are in the kernels for good.

    So none of them waits for Python's lock, and Ctrl-C comes before a step or after it. Where the
    kernels have no way to sleep, who follows sleeps in a queue.
    """

    def __init__(self, n: int) -> None:
        self.n, self.library = n, library()
        self._words = aligned((layout.WORDS,), np.int64)
        self._at = self._words.ctypes.data
        self._start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start)  # a child has no threads but its own

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._words[:] = 0
        self._asked: list[SimpleQueue[int]] = [SimpleQueue() for _ in range(1, self.n)]
        for t, asked in enumerate(self._asked, start=1):
            threading.Thread(target=self._follow, args=(t, asked), daemon=True).start()

    def wake(self) -> None:
        """Wake the threads that sleep in the kernels: a step is near."""
        self.library.wake(self._at, self.n)

    def run(self, step: array[int]) -> None:
        """Compute a step, a `layout.Call` with what lies behind it; several are served in turn."""
        with self._lock:
            if not FUTEX:
                number = 1 + int(self._words[layout.STEPS])
                for asked in self._asked:
                    asked.put(number)
            self.library.lead(self.library.part, self.n, self._at, step.buffer_info()[0])

    def _follow(self, t: int, asked: SimpleQueue[int]) -> None:
        done = 0
        while True:
            # A number may be there twice, where Ctrl-C came between it and its step.
            if FUTEX or asked.get() > done:
                done = self.library.follow(self.library.part, t, self.n, self._at, done)
