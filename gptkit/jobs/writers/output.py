"""The output of a job, in the form that its name says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError
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
) -> None:
    """Write rows to a file that appears when all are there; the same rows give the same bytes.

    Raise OSError where the disk is full or fails.
    """
    form = _form(path)
    with whole(path) as file:
        if form.kind == "parquet":
            parquet.write(file, _known(rows, columns), columns)
            return
        with packed(file, form.compression) as put:
            if form.kind == "jsonl":
                jsonl.write(put, rows)
            else:
                delimiter = DELIMITERS[form.kind]
                delimited.write(put, _known(rows, columns), columns, delimiter, csv_safe=csv_safe)


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
