"""What the user typed, for the arrow keys of the next start: one JSON text a line, mode 0600."""

from __future__ import annotations

import json
import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_ENTRIES = 5_000
"""How many are read; older ones stay in the file."""


class InputHistory:
    """A file that only grows, or none. A chat never ends because of it: a failure is said once.

    JSON keeps control characters and line ends out of the file.
    """

    def __init__(self, path: Path | None, say: Callable[[str], None]) -> None:
        self.path = path
        self.say = say
        self._failed = False

    def entries(self) -> list[str]:
        """Return the entries, the newest first; a line that is no JSON text is skipped."""
        if self.path is None:
            return []
        try:
            with self.path.open(encoding="ascii", errors="replace") as file:
                lines = deque(file, MAX_ENTRIES)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._fail(error)
            return []
        found = map(_entry, reversed(lines))
        return [entry for entry in found if entry is not None]

    def append(self, entry: str) -> None:
        """Store an entry."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(fd, "w", encoding="ascii") as file:
                self.path.chmod(0o600)  # also one that was there with another mode
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self.say(f"input history is not kept: {self.path}: {error.strerror}")
        self._failed = True


def _entry(line: str) -> str | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, str) else None
