"""Rows in and rows out: JSONL or text lines read one by one, JSONL written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, Self

from gptkit.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

JSONL = (".jsonl", ".ndjson")
TEXT = (".txt",)
MAX_ROW_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row has no answer: one word of a kind, and a sentence."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of input. `index` counts rows from 0, `line` counts lines of the file from 1.

    `key` is what a row's seed is made from: its id, or line number and hash where it has none.
    """

    index: int
    line: int
    id: str | int | None
    key: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    digest: str = ""
    file: str = ""


# Reading --------------------------------------------------------------------------------------


def check_input(path: Path) -> None:
    """Refuse what is not a readable file of a form that we know; raise ConfigError."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ConfigError(f"inputs: {path} is a directory", hint="give a file of rows")
        if not stat.S_ISREG(mode):
            raise ConfigError(
                f"inputs: {path} is no regular file",
                hint="rows are read twice, first to check them; write them to a file",
            )
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"inputs: can't read {path}: {error.strerror}") from error
    if path.suffix.lower() not in (*JSONL, *TEXT):
        known = ", ".join((*JSONL, *TEXT))
        raise ConfigError(f"inputs: {path.name} is of no form that we read", hint=f"one of {known}")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; what is wrong with one is its `fault`. Blank lines are no rows."""
    parse = _text_row if path.suffix.lower() in TEXT else _json_row
    index = 0
    with path.open("rb") as file:
        for line, data in enumerate(_lines(file), start=1):
            if line == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            data = data.rstrip(b"\r\n")
            if data.strip():
                yield replace(parse(index, line, data), digest=digest_of(data), file=str(path))
                index += 1


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield lines that end in a newline and nothing else, none much longer than the limit."""
    while data := file.readline(MAX_ROW_BYTES + 1):
        part = data
        while len(part) > MAX_ROW_BYTES and not part.endswith(b"\n"):
            part = file.readline(MAX_ROW_BYTES + 1)
        yield data


def _text_row(index: int, line: int, data: bytes) -> Row:
    text, fault = _decode(data)
    return Row(index, line, None, _line_key(line, data), {"text": text}, fault)


def _json_row(index: int, line: int, data: bytes) -> Row:
    key = _line_key(line, data)
    text, fault = _decode(data)
    value: Any = None
    if fault is None:
        value, fault = _parse(text)
    if fault is None and not isinstance(value, dict):
        fault = Fault("not_an_object", f"expected an object, got {json_kind(value)}")
    if fault is not None:
        return Row(index, line, None, key, {}, fault)
    row_id = value.get("id")
    if row_id is not None and type(row_id) not in (str, int):
        fault = Fault("invalid_id", f"id is {json_kind(row_id)}, not text or a whole number")
        return Row(index, line, None, key, {}, fault)
    if row_id is not None and is_unicode(str(row_id)):
        key = str(row_id)
    else:
        row_id = None
    if "\\u" in text and not is_unicode(json.dumps(value, ensure_ascii=False)):
        fault = Fault("invalid_unicode", "half of a surrogate pair stands alone")
    return Row(index, line, row_id, key, value, fault)


def _line_key(line: int, data: bytes) -> str:
    return f"{line}:{digest_of(data)}"


def digest_of(data: bytes) -> str:
    """Return 16 hex digits that are as good as the bytes of a row."""
    return hashlib.sha256(data).hexdigest()[:16]


def key_hash(key: str) -> int:
    """Return 8 bytes for a key, the same on every machine and day."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def _decode(data: bytes) -> tuple[str, Fault | None]:
    if len(data) > MAX_ROW_BYTES:
        return "", Fault("row_too_long", f"the row is over {MAX_ROW_BYTES:,} bytes")
    try:
        return data.decode(), None
    except UnicodeDecodeError as error:
        return "", Fault("invalid_unicode", f"not valid UTF-8 at byte {error.start:,}")


def _parse(text: str) -> tuple[Any, Fault | None]:
    try:
        return _DECODER.decode(text), None
    except json.JSONDecodeError as error:
        said = f"not valid JSON (column {error.colno:,})"
    except RecursionError:
        said = "nested too deeply"
    except _Refused as error:
        said = str(error)
    except ValueError:  # Python's own limit of digits
        said = "a number of too many digits"
    return None, Fault("invalid_json", said)


class _Refused(ValueError):
    """Something that Python's reader takes and JSON, or a careful reader, does not."""


def _constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"{text[:20]} is too large a number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"key {twice!r} is given twice")
    return made


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float, object_pairs_hook=_object)


def is_unicode(text: str) -> bool:
    """Return whether text can be encoded: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_kind(value: Any) -> str:
    """Say in words what kind of JSON value this is."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


# Checking before anything is computed ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scan:
    """What a look at all rows found: how many, and which of the wanted fields any row has.

    `fields` are the names in the first row that has any.
    """

    n_rows: int
    seen: frozenset[str]
    fields: tuple[str, ...]
    digest: str = ""


def scan(path: Path, wanted: Collection[str], *, refuse_bad: bool) -> Scan:
    """Read all rows once; raise ConfigError for ids given twice and, if asked to, for bad rows.

    Text that is not Unicode is never refused here: it becomes an error in that row's place.
    """
    keys: set[int] = set()
    missing = set(wanted)
    first: tuple[str, ...] = ()
    n_rows = 0
    digest = hashlib.sha256()
    for row in read_rows(path):
        n_rows += 1
        digest.update(f"{row.key}\0{row.digest}\n".encode("utf-8", "surrogatepass"))
        if refuse_bad and row.fault and row.fault.type != "invalid_unicode":
            raise ConfigError(
                f"{path}:{row.line}: {row.fault.message}",
                hint="`on_bad_row: error_row` gives such a row an error and goes on",
            )
        first = first or tuple(row.fields)
        missing -= row.fields.keys()
        if row.id is None:
            continue
        if hash(row.key) in keys:
            _refuse_twice(path, row)
        keys.add(hash(row.key))
    return Scan(n_rows, frozenset(wanted) - missing, first, digest.hexdigest())


def _refuse_twice(path: Path, row: Row) -> None:
    """Raise if an earlier row has this key: the scan keeps only hashes, so look again."""
    for earlier in read_rows(path):
        if earlier.line >= row.line:
            return
        if earlier.id is not None and earlier.key == row.key:
            raise ConfigError(
                f"{path}: id {row.id!r} at lines {earlier.line} and {row.line}",
                hint="give each row an id of its own, or leave ids out",
            )


# Writing --------------------------------------------------------------------------------------


def check_output(path: Path, reads: Iterable[Path]) -> None:
    """Refuse an output that can't be written, or that is one of the files that the job reads."""
    if path.suffix.lower() not in JSONL:
        raise ConfigError(
            f"outputs: {path.name} is of no form that we write", hint="name it .jsonl"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"outputs: no such directory: {path.parent}", hint="make it first")
    if path.exists() and not path.is_file():
        raise ConfigError(f"outputs: {path} is no regular file", hint="give the path of a file")
    for read in reads:
        if path.exists() and path.samefile(read):
            raise ConfigError(
                f"outputs: {path} is the file that the job reads: {read}", hint="give another path"
            )


class RowWriter:
    """Writes rows beside the final path, which appears or is replaced only when all are there.

    Used as a context: an exception, Ctrl-C included, leaves nothing behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # a link stays a link
        self.n_rows = 0
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        try:
            self._file = self._partial.open("wb")
        except OSError as error:
            raise ResourceError(f"outputs: can't write {self.path}: {error.strerror}") from error
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row; raise ResourceError where the disk is full or fails."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            self._file.write(line)
        except OSError as error:
            raise self._failed(error) from error
        self.n_rows += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._drop()
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._partial, self.path)
            _sync_folder(self.path.parent)
        except BaseException as broken:
            self._drop()
            if isinstance(broken, OSError):
                raise self._failed(broken) from broken
            raise

    def _failed(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"outputs: can't write {self.path}: {error.strerror}, after {self.n_rows:,} rows",
            hint="nothing was written; free space and run the same command",
        )

    def _drop(self) -> None:
        try:
            self._file.close()
        except OSError:  # a full disk fails again here; the file goes anyway
            pass
        self._partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse it
        pass
    finally:
        os.close(handle)
