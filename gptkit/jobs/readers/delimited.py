"""CSV and TSV with a header: fields in quotes may hold anything, and a quote must be closed."""

from __future__ import annotations

import csv
import re
from typing import IO, TYPE_CHECKING

from gptkit.errors import ConfigError
from gptkit.jobs.forms import DELIMITERS
from gptkit.jobs.readers.record import Record, digest_of_fields
from gptkit.jobs.readers.stream import decode, line_encoding, open_stream, too_long
from gptkit.jobs.rows import MAX_ROW_BYTES, Fault, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gptkit.jobs.readers.source import Source

SHOWN = 10
"""Columns that a message lists."""
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
ENCODING_HINT = "`encoding: latin-1`, or whatever the file is written in"


def read(source: Source, encoding: str) -> Iterator[Record]:
    """Yield a record for each row after the header; raise ConfigError for a quote left open.

    A row without any field, or of blanks alone where there are several columns, is none.
    """
    delimiter = DELIMITERS[source.form.kind] if source.form else ","
    # The module's own limit is the process's; a row's is ours.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    with open_stream(source, encoding) as stream:
        lines = _Lines(stream, line_encoding(encoding), delimiter, source.shown)
        header = None
        for cells, fault in _rows(lines):
            if header is None:
                header = _header(cells, fault, f"{source.shown}:{lines.first}")
            elif fault is not None:
                yield Record(lines.first, digest_of(b"".join(lines.raw)), fault=fault)
            elif len(cells) == len(header):
                fields = dict(zip(header, cells, strict=True))
                row_id = fields.get("id") or None
                yield Record(lines.first, digest_of_fields(fields), fields, id=row_id)
            elif len(cells) > 1 or cells[0].strip():
                said = f"expected {len(header)} columns ({listed(header)}), found {len(cells)}"
                fault = Fault("wrong_columns", said)
                yield Record(lines.first, digest_of_fields(cells), fault=fault)


def check_names(names: Sequence[str], where: str) -> None:
    """Raise ConfigError for columns that can't be told apart, or have no name."""
    seen = set()
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise ConfigError(
                f"{where}: column {number} has no name; there are: {listed(names)}",
                hint="name it or leave it out; pandas writes its index without index=False",
            )
        if name in seen:
            raise ConfigError(
                f"{where}: two columns are named {name!r}; there are: {listed(names)}",
                hint="give each column a name of its own",
            )
        seen.add(name)


def listed(names: Sequence[str]) -> str:
    """Return the first of some names for a message."""
    more = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _header(cells: list[str], fault: Fault | None, where: str) -> list[str]:
    if fault is not None:
        hint = ENCODING_HINT if fault.type == "invalid_encoding" else None
        raise ConfigError(f"{where}: {fault.message}", hint=hint)
    check_names(cells, where)
    return cells


def _rows(lines: _Lines) -> Iterator[tuple[list[str], Fault | None]]:
    """Yield the cells of each row that is not blank, and what is wrong with it."""
    reader = csv.reader(lines, delimiter=lines.delimiter, strict=True)
    while True:
        lines.begin()
        cells: list[str] = []
        fault = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLong:
            lines.skip()
            fault = too_long()
        except csv.Error as error:
            if lines.at_end:
                lines.refuse_open_quote()
            fault = Fault("invalid_csv", f"not valid CSV ({error})")
        fault = lines.fault or fault
        if cells or fault:
            yield cells, fault


class _TooLong(Exception):
    """The row is over the limit, and so is one whose quote is not closed in time."""


class _Lines:
    """Hands lines to the csv module, and keeps those of the row that is being read."""

    def __init__(self, stream: IO[bytes], encoding: str, delimiter: str, shown: str) -> None:
        self.encoding, self.delimiter, self.shown = encoding, delimiter, shown
        self._lines = _physical_lines(stream)
        self.line = 0
        self.at_end = False
        self._is_inside = False
        self.begin()

    def begin(self) -> None:
        """Forget the row that was read."""
        self.first, self.raw, self._size = self.line + 1, list[bytes](), 0
        self.fault: Fault | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        data = self._piece()
        if not data:
            raise StopIteration
        before, self._size = self._size, self._size + len(data)
        self.raw.append(data)
        if self._size > MAX_ROW_BYTES:
            raise _TooLong
        text, fault = decode(data, self.encoding)
        if fault is None and "\0" in text:
            fault = Fault("invalid_csv", f"NUL character at byte {before + data.index(0):,}")
        if fault is not None:
            self.fault = self.fault or fault
            return data.decode(self.encoding, "surrogateescape")
        return text

    def _piece(self) -> bytes:
        """Return a line, or a part of a very long one; nothing at the end."""
        data = next(self._lines, b"")
        if not data:
            self.at_end = True
        elif not self._is_inside:
            self.line += 1
        self._is_inside = bool(data) and not data.endswith((b"\n", b"\r"))
        return data

    def skip(self) -> None:
        """Read to the end of a row that is too long, which may be the end of the file."""
        quotes, line = _Quotes(self.delimiter), self.first
        for data in self.raw:
            quotes.read(data, line)
            line += 1
        self.raw = self.raw[:1]
        while self._is_inside or quotes.is_open:
            data = self._piece()
            if not data:
                break
            quotes.read(data, self.line)
        if quotes.is_open:
            self._refuse(quotes.line)

    def refuse_open_quote(self) -> None:
        """Raise ConfigError with the line where the last quote of the row was opened."""
        quotes = _Quotes(self.delimiter)
        for line, data in enumerate(self.raw, start=self.first):
            quotes.read(data, line)
        self._refuse(quotes.line)

    def _refuse(self, line: int) -> None:
        raise ConfigError(
            f"{self.shown}: quote opened at line {line} is never closed",
            hint='close it; a quote inside a quoted field is written twice: ""',
        )


def _physical_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines that end as a spreadsheet may end them; one that is too long comes in parts."""
    rest = b""
    while data := stream.readline(MAX_ROW_BYTES + 1):
        data = rest + data
        rest = b""
        if b"\r" not in data[:-2] and data.endswith(b"\n"):
            yield data
            continue
        found = _LINE.findall(data)
        if not data.endswith(b"\n") and len(found[-1]) <= MAX_ROW_BYTES:
            rest = found.pop()
        yield from found
    if rest:
        yield rest


class _Quotes:
    """Follows a row through its bytes, only to know whether a quote is open, and since which line.

    A quote opens where a field starts; inside, two of them stand for one.
    """

    def __init__(self, delimiter: str) -> None:
        self.is_open, self.line = False, 0
        self._delimiter = delimiter.encode()
        self._at_start, self._just_closed = True, False

    def read(self, data: bytes, line: int) -> None:
        at, end = 0, len(data)
        while at < end:
            if self.is_open:
                at = data.find(b'"', at) + 1
                if not at:
                    return
                self.is_open, self._just_closed = False, True
            elif data[at : at + 1] == b'"' and (self._at_start or self._just_closed):
                if self._at_start:
                    self.line = line
                self.is_open, self._at_start, self._just_closed = True, False, False
                at += 1
            else:
                at = data.find(self._delimiter, at) + 1
                self._at_start, self._just_closed = bool(at), False
                if not at:
                    return
