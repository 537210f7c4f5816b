"""Ctrl-C, SIGTERM and SIGHUP in a long computation: once to stop in order, twice to stop at once.

A thread reads the signals too, because Python hands them to the main thread only between two of
its steps, and one step may be long.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gptkit.errors import Terminated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

PATIENCE_S = 8.0
"""For stopping in order; after that the process ends as it stands."""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if hasattr(signal, "SIGHUP"):
    CODES[signal.SIGHUP] = 143
_SHOW_CURSOR = b"\x1b[?25h\n"


class Stop:
    """Whether a signal has come, and with which code the process ends for it."""

    def __init__(self) -> None:
        self.code: int | None = None

    def check(self) -> None:
        """Raise KeyboardInterrupt, in case the one that was raised got lost in a library."""
        if self.code is not None:
            raise KeyboardInterrupt

    def _come(self, signum: int, frame: FrameType | None) -> None:
        if self.code is None:
            self.code = CODES[signal.Signals(signum)]
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            raise Terminated


@contextmanager
def orderly() -> Iterator[Stop]:
    """Raise KeyboardInterrupt or Terminated at the first signal; end the process at the second.

    Only for what may end at any moment and lose nothing. Signals that are ignored, as SIGHUP under
    nohup, stay so.
    """
    stop = Stop()
    watched = [number for number in CODES if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop._come) for number in watched}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        watcher.join()
        os.close(reader)
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(reader: int) -> None:
    """Read the numbers of signals; end the process at the second one, or when it does not end."""
    first: int | None = None
    while True:
        ready, _, _ = select.select([reader], [], [], None if first is None else PATIENCE_S)
        if first is not None and not ready:
            _end(first)
        came = os.read(reader, 64)
        if not came:  # the computation is over
            return
        for number in came:
            if number not in CODES:
                continue
            if first is not None:
                _end(number)
            first = number


def _end(number: int) -> None:
    if sys.stderr.isatty():  # a bar may have hidden it
        os.write(sys.stderr.fileno(), _SHOW_CURSOR)
    os._exit(CODES[signal.Signals(number)])
