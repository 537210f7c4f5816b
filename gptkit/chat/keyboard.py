"""What is typed while no prompt is there: it waits unseen for the next one."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Keyboard:
    """The modes of the terminal as a shell had them, and ours.

    prompt_toolkit sets what it needs over ours for each prompt, and then returns to it.
    """

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Keep what is typed for the next prompt, and out of the answer on the screen."""
        try:
            import termios
        except ImportError:  # not on this system: then what is typed is shown at once
            yield
            return
        self._before = termios.tcgetattr(sys.stdin.fileno())
        quiet = list(self._before)
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        quiet[3] |= termios.NOFLSH  # or Ctrl-C would throw away what was typed
        self._set(quiet)
        try:
            yield
        finally:
            self._set(self._before)

    @contextlib.contextmanager
    def as_usual(self) -> Iterator[None]:
        """Give the terminal to another program, such as an editor."""
        if self._before is None:
            yield
            return
        import termios

        ours = termios.tcgetattr(sys.stdin.fileno())
        self._set(self._before)
        try:
            yield
        finally:
            self._set(ours)

    def _set(self, modes: list[Any]) -> None:
        import termios

        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, modes)
