"""Threads that compute a step together; they sleep while there is nothing to do."""

from __future__ import annotations

import threading
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from gptkit.model.cpu import kernels
from gptkit.model.cpu.processor import FUTEX

if TYPE_CHECKING:
    from gptkit.model.cpu.kernels import Step


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
        self.n = n
        self._lock = threading.Lock()
        room = np.zeros(kernels.WORDS + 8, np.int64)
        self._room = room[-room.ctypes.data // 8 % 8 :]  # from a cache line on
        self._words = self._room.ctypes.data
        self._asked: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(1, n)]
        for t, asked in enumerate(self._asked, start=1):
            threading.Thread(target=self._follow, args=(t, asked), daemon=True).start()

    def call(self) -> None:
        """Wake the threads: a step is near."""
        kernels.call(self._words, self.n)

    def run(self, step: Step) -> None:
        """Compute a step; several are served in turn."""
        with self._lock:
            if not FUTEX:
                for asked in self._asked:
                    asked.put(None)
            kernels.lead(kernels.PART, self.n, self._words, step)

    def _follow(self, t: int, asked: SimpleQueue[None]) -> None:
        done = 0
        while True:
            if not FUTEX:
                asked.get()
            done = kernels.follow(kernels.PART, t, self.n, self._words, done)
