"""What is typed while no prompt is there: it waits unseen for the next one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DUMB = ("dumb", "unknown")


class Keyboard:
    """The modes of the terminal as a shell had them, and ours.

    prompt_toolkit sets what it needs over ours for each prompt, and then returns to it.
    """

    def __init__(self) -> None:
        self.on_return: Callable[[], None] = lambda: None
        """Called when a shell that had the screen after Ctrl-Z gives it back."""
        self._before: list[Any] | None = None
        self._lent = False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Keep what is typed for the next prompt, and out of the answer on the screen."""
        try:
            import termios
        except ImportError:  # not on this system: then what is typed is shown at once
            yield
            return
        if os.environ.get("TERM", "").lower() in DUMB:  # no prompt of ours would show it later
            yield
            return
        self._before = termios.tcgetattr(sys.stdin.fileno())
        quiet = list(self._before)
        quiet[0] &= ~termios.ICRNL  # as at a prompt, or Alt-Enter would be another key
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        quiet[3] |= termios.NOFLSH  # or Ctrl-C would throw away what was typed
        self._set(quiet)
        may_stop = signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
        if may_stop:
            signal.signal(signal.SIGTSTP, self._suspend)
        try:
            yield
        finally:
            if may_stop:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            self._set(self._before)

    def _suspend(self, signum: int, frame: object) -> None:
        """Stop on Ctrl-Z, with the shell's modes meanwhile; an editor sees to its own."""
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        with contextlib.nullcontext() if self._lent else self.as_usual():
            os.kill(os.getpid(), signal.SIGTSTP)  # it returns when the shell lets us go on
        signal.signal(signal.SIGTSTP, self._suspend)
        self.on_return()

    @contextlib.contextmanager
    def as_usual(self) -> Iterator[None]:
        """Give the terminal to another program, such as an editor."""
        if self._before is None:
            yield
            return
        import termios

        ours = termios.tcgetattr(sys.stdin.fileno())
        self._set(self._before)
        self._lent = True
        try:
            yield
        finally:
            self._lent = False
            self._set(ours)

    def _set(self, modes: list[Any]) -> None:
        import termios

        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, modes)
