"""One file or folder of a job's input."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from gptkit.jobs.forms import Form


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows, or a folder of text files where `form` is None.

    `name` is as the user wrote it, so that it is the same wherever a job is run from. `shown` is
    what a message calls it.
    """

    path: Path
    name: str
    shown: str
    form: Form | None


def readable(name: str) -> str:
    """Return a name as text that can be encoded: names on a disk may be any bytes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
