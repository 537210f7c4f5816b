"""The files of one output: itself, its journal, its lock and its manifest, side by side."""

from __future__ import annotations

import errno
import glob
import os
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Self

from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Files:
    """Where the files of an output are. They stand beside what a link leads to, not beside it."""

    output: Path
    journal: Path
    lock: Path
    manifest: Path

    @classmethod
    def of(cls, output: Path) -> Self:
        """Return the files of an output, which need not be there."""
        real = output.resolve()
        suffixes = ("", ".journal", ".lock", ".manifest.json")
        return cls(*(real.with_name(real.name + suffix) for suffix in suffixes))

    def check_reads(self, reads: Iterable[Path]) -> None:
        """Refuse to write over a file that the job reads; raise ConfigError."""
        for ours in (self.output, self.journal, self.lock, self.manifest):
            for read in reads:
                if ours.exists() and read.exists() and ours.samefile(read):
                    raise ConfigError(
                        f"outputs: the job would write {shown(ours)}, which it reads: {read}",
                        hint="give another path",
                    )

    def sweep(self) -> None:
        """Remove what a killed run had begun to write; only for who has the lock."""
        for path in (self.output, self.manifest):
            for partial in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                partial.unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Give manifest and journal names that end in a free number; return the last one.

        The manifest goes first: without it the output is not taken for a finished one.
        """
        kept = (self.manifest, self.journal)
        number = next(n for n in count(1) if not any(_aside(path, n).exists() for path in kept))
        aside = None
        for path in kept:
            if path.exists():
                aside = _aside(path, number)
                os.replace(path, aside)
        sync_folder(self.output.parent)
        return aside


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def shown(path: Path) -> str:
    """Return a path as users know it: from the working directory, where it is in there."""
    try:
        return str(path.relative_to(os.getcwd()))
    except (OSError, ValueError):
        return str(path)


def sync_folder(folder: Path) -> None:
    """Make a new name last through a power cut, where folders can be opened and synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANT_SYNC:
            raise
    finally:
        os.close(handle)


_CANT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
"""What file systems answer that sync no folders: some of networks do."""
