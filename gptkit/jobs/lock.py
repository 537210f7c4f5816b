"""Who writes an output: one run at a time, told by a lock that its process's end gives up."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from gptkit.errors import ResumeRefused
from gptkit.jobs.files import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a lock, as it stands in the lock's file."""

    pid: int
    host: str
    since: str

    @classmethod
    def me(cls) -> Self:
        """Return this process, and the time."""
        return cls(os.getpid(), socket.gethostname(), datetime.now().isoformat(timespec="seconds"))

    @classmethod
    def read(cls, handle: int) -> Self | None:
        """Return who wrote the file, or None where it says nothing of the kind."""
        try:
            os.lseek(handle, 0, os.SEEK_SET)
            said = json.loads(os.read(handle, 4096))
            pid, host, since = said["pid"], said["host"], said["since"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        is_one = type(pid) is int and isinstance(host, str) and isinstance(since, str)
        return cls(pid, host, since) if is_one else None

    def is_alive(self) -> bool:
        """Return whether it may still run: of another host nobody knows."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            pass
        return True

    def __str__(self) -> str:
        return f"pid {self.pid} since {self._time()} on host {self.host}"

    def _time(self) -> str:
        """Return the time of day, with the date where that is another one."""
        day, _, time = self.since.partition("T")
        today = datetime.now().date().isoformat()
        return time[:5] if day == today else f"{day} {time[:5]}".strip()


@contextmanager
def hold(path: Path) -> Iterator[str | None]:
    """Hold a lock; give a note where there is something to know of it.

    Raise ResumeRefused where another process has it, and OSError where its file can't be written.
    The file of a process that is gone is taken over.
    """
    handle, note = _take(path)
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(asdict(Owner.me())).encode())
        yield note
    finally:
        # While it is held still: who waits for this file sees that it has gone, and makes another.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _take(path: Path) -> tuple[int, str | None]:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            before = Owner.read(handle)
            refused = _lock(handle)
            if refused is not None:
                _check_words(path, before)
                return handle, f"locking is not available here ({refused}): start this job once"
            if _is_there(path, handle):
                note = f"{path.name}: taken over from {before}, which has ended" if before else None
                return handle, note
        except BlockingIOError:
            who = Owner.read(handle)
            os.close(handle)
            raise _refusal(path, who) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> str | None:
    """Lock a file; return why this file system, or system, can't; raise BlockingIOError."""
    try:
        import fcntl
    except ImportError:  # Windows
        return "not on this system"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        return str(error.strerror)
    return None


def _is_there(path: Path, handle: int) -> bool:
    """Return whether the file that is locked still has its name: its last owner removes it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _check_words(path: Path, owner: Owner | None) -> None:
    """Where there are no locks, believe the file."""
    if owner is not None and owner.is_alive():
        raise _refusal(path, owner, f"if that is not so, delete {shown(path)}")


def _refusal(path: Path, owner: Owner | None, hint: str | None = None) -> ResumeRefused:
    who = str(owner) if owner else "another run"
    hint = hint or "wait for it, or give another --output"
    return ResumeRefused(f"{shown(path)} is locked by {who}", hint=hint)
