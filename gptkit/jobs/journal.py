"""The journal of a job: a header, then a line for each row that has ended, on disk as it ends.

A line is the CRC-32 of its JSON in eight hex digits, a blank, the JSON and a newline. It is written
by one call and synced, so that whatever happens only the last one can be torn.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from gptkit.errors import ResourceError, ResumeRefused
from gptkit.jobs.files import shown, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

FORMAT = 1
"""The number of this form, which the header gives; a reader that knows another one must refuse."""
_FORMAT_KEY = "gptkit_journal"


def line_of(record: Mapping[str, Any]) -> bytes:
    """Return the line of a record."""
    data = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def is_whole(line: bytes) -> bool:
    """Return whether a line is what was written, by its checksum."""
    if line[8:9] != b" " or line[-1:] != b"\n":
        return False
    return line[:8] == b"%08x" % zlib.crc32(line[9:-1])


def record_of(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None where the line is not what was written."""
    if not is_whole(line):
        return None
    try:
        record = json.loads(line[9:-1])
    except ValueError:  # garbage whose checksum is right by chance
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True, slots=True)
class Damage:
    """What a journal has lost: bytes cut off its end, and lines before that are not readable."""

    n_cut_bytes: int = 0
    n_lines: int = 0


class Journal:
    """A journal that is open to add to; what it holds is read by place.

    A place is the offset of a line, which `add` returns and `places` yields.
    """

    def __init__(self, path: Path, handle: int, end: int) -> None:
        self.path = path
        self._handle = handle
        self._end = end
        self._reader = path.open("rb")

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> Self:
        """Begin a journal; a file that is there holds no rows, and is replaced."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        try:
            journal = cls(path, handle, 0)
        except BaseException:
            os.close(handle)
            raise
        try:
            journal.add({_FORMAT_KEY: FORMAT, **header})
            sync_folder(path.parent)
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a journal that is there, to read it and to add to it."""
        handle = os.open(path, os.O_RDWR | os.O_APPEND)
        try:
            return cls(path, handle, os.fstat(handle).st_size)
        except BaseException:
            os.close(handle)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self._end

    def close(self) -> None:
        """Close the file; all that was added is on the disk already."""
        self._reader.close()
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)

    def header(self) -> dict[str, Any] | None:
        """Return the header, or None where there is none; raise ResumeRefused for another format.

        It is the first line, unless that was moved.
        """
        for _, _, line in self._lines():
            record = record_of(line) if _FORMAT_KEY.encode() in line else None
            if record is not None and _FORMAT_KEY in record:
                if record[_FORMAT_KEY] != FORMAT:
                    raise ResumeRefused(
                        f"{shown(self.path)} was written by another version of gptkit",
                        hint="go on with that one, or begin anew with --restart",
                    )
                return record
        return None

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield place and record of each row that is readable, in the order they were written."""
        for place, _, line in self._lines():
            record = record_of(line)
            if record is not None and "row" in record:
                yield place, record

    def is_ours(self) -> bool:
        """Return whether this is a journal, be it one whose first line was never finished.

        A power cut may leave zeros in the place of what was written last.
        """
        self._reader.seek(0)
        start = self._reader.read(64).split(b"\0")[0]
        mark = b' {"%s": ' % _FORMAT_KEY.encode()
        begins = start[8:].startswith(mark) or mark.startswith(start[8:])
        is_header = begins and not start[:8].strip(b"0123456789abcdef")
        return is_header or any(is_whole(line) for _, _, line in self._lines())

    def repair(self) -> Damage:
        """Cut off what stands after the last readable line, and say what is lost."""
        good, n_bad, n_lines = 0, 0, 0
        for _, end, line in self._lines():
            if is_whole(line):
                n_lines += n_bad
                n_bad, good = 0, end
            else:
                n_bad += 1
        n_cut = self._end - good
        if n_cut:
            os.ftruncate(self._handle, good)
            os.fsync(self._handle)
            self._end = good
            self._reader.close()  # it may have read what is no longer there
            self._reader = self.path.open("rb")
        return Damage(n_cut, n_lines)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield where each line begins and ends, and the line."""
        place = 0
        while place < self._end:
            self._reader.seek(place)
            line = self._reader.readline()
            end = place + len(line)
            yield place, end, line
            place = end

    def add(self, record: Mapping[str, Any]) -> int:
        """Write a line and bring it to the disk; return its place.

        Raise OSError where that fails. The line is then gone, and what was there before is safe.
        """
        line, place = line_of(record), self._end
        try:
            n = os.write(self._handle, line)
            while n < len(line):  # only a disk that is nearly full takes a part
                n += os.write(self._handle, line[n:])
            os.fsync(self._handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, place)
            raise
        self._end = place + len(line)
        return place

    def read(self, place: int) -> dict[str, Any]:
        """Return the record at a place; raise ResourceError where it is not what was written."""
        self._reader.seek(place)
        record = record_of(self._reader.readline())
        if record is None:
            raise ResourceError(
                f"{shown(self.path)} was changed while it was in use",
                hint="run the same command: what can't be read is computed again",
            )
        return record
