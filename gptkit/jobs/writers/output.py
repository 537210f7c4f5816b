"""The output of a job, in the form that its name says."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from gptkit.errors import ConfigError, ResourceError
from gptkit.jobs.forms import COMPRESSIONS, DELIMITERS, SUFFIXES, Form, check_extras, form_of
from gptkit.jobs.writers import delimited, jsonl, parquet
from gptkit.jobs.writers.packed import packed
from gptkit.jobs.writers.whole import whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from gptkit.jobs.writers.columns import Column


def check_output(path: Path, reads: Iterable[Path]) -> None:
    """Refuse an output that can't be written, or that is one of the files that the job reads."""
    form = _form(path)
    check_extras(form, f"outputs: {path.name}")
    if not path.parent.is_dir():
        raise ConfigError(f"outputs: no such directory: {path.parent}", hint="make it first")
    if path.exists() and not path.is_file():
        raise ConfigError(f"outputs: {path} is no regular file", hint="give the path of a file")
    for read in reads:
        if path.exists() and path.samefile(read):
            raise ConfigError(
                f"outputs: {path} is the file that the job reads: {read}", hint="give another path"
            )


def write_rows(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    csv_safe: bool = False,
) -> int:
    """Write rows to a file that appears when all are there; return how many they were.

    Raise ResourceError where the disk is full or fails. The same rows give the same bytes.
    """
    counted = _Counted(rows)
    try:
        with whole(path) as file:
            _write(file, counted, columns, _form(path), csv_safe)
    except OSError as error:
        raise ResourceError(
            f"outputs: can't write {path}: {error.strerror or error}, after {counted.n:,} rows",
            hint="free space and run the same command; what was there before is still there",
        ) from error
    return counted.n


def _write(
    file: IO[bytes],
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column],
    form: Form,
    csv_safe: bool,
) -> None:
    if form.kind == "parquet":
        parquet.write(file, _known(rows, columns), columns)
        return
    with packed(file, form.compression) as put:
        if form.kind == "jsonl":
            jsonl.write(put, rows)
        else:
            delimiter = DELIMITERS[form.kind]
            delimited.write(put, _known(rows, columns), columns, delimiter, csv_safe=csv_safe)


class _Counted:
    """Rows that are counted as they pass."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows, self.n = rows, 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for row in self._rows:
            yield row
            self.n += 1


def _known(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]
) -> Iterator[Mapping[str, Any]]:
    """Yield rows; raise ValueError for one with something that no column has, which were lost."""
    known = {column.path[0] for column in columns}
    for row in rows:
        if not known.issuperset(row):
            raise ValueError(f"no column has {', '.join(set(row) - known)}")
        yield row


def _form(path: Path) -> Form:
    form = form_of(path.name)
    if form is None or form.kind == "text":
        known = ", ".join(suffix for suffix, kind in SUFFIXES.items() if kind != "text")
        packings = " and ".join(COMPRESSIONS)
        raise ConfigError(
            f"outputs: {path.name} is of no form that we write",
            hint=f"one of {known}; also with {packings}, but for Parquet",
        )
    return form
