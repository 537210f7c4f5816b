"""What came of a job: the figures of its output, cell by cell, and of its cells row by row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError
from gptkit.jobs import manifest
from gptkit.jobs.reports.figures import MAX_SHOWN, Figures, Measures, clip
from gptkit.jobs.reports.results import open_results
from gptkit.jobs.reports.tally import text_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from gptkit.jobs.reports.results import Label, Result, Results

N_SHOWN = 200
"""Rows that are kept to be shown."""


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row as it is shown: what each cell made of it."""

    index: int
    id: str | int | None
    results: Mapping[Label, Result]


@dataclass(slots=True)
class Report:
    """All cells of one output or of several, in the order in which they come there."""

    sources: Sequence[Results]
    cells: dict[Label, Figures] = field(default_factory=dict)
    n_rows: int = 0
    shown: list[ShownRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_compared(self) -> int:
        """Rows that every cell answered, where there are several cells."""
        return next(iter(self.cells.values())).compared.n_rows

    def measures(self, cell: Figures) -> Measures:
        """Return what to compare a cell by: on all cells' common rows, where there are any."""
        return cell.compared if self.n_compared else cell.own

    def add(self, row: Mapping[Label, Result]) -> None:
        """Count a row: what each cell made of it."""
        self.n_rows += 1
        for label, result in row.items():
            if label not in self.cells:
                self.cells[label] = Figures(label)
                for cell in self.cells.values():  # no row before had this cell
                    cell.compared = Measures()
            self.cells[label].add(result)
        if len(row) == len(self.cells) > 1 and all(one.fault is None for one in row.values()):
            first = row[next(iter(self.cells))]
            for label, result in row.items():
                self.cells[label].compared.add(result, first)
        if len(self.shown) < N_SHOWN:
            any_ = next(iter(row.values()))
            kept = {label: _clipped(result) for label, result in row.items()}
            self.shown.append(ShownRow(any_.index, any_.id, kept))


def make_report(paths: Sequence[Path]) -> Report:
    """Read outputs, which are side by side as the cells of a matrix are; raise ConfigError.

    Each is read as a stream, and a second time up to the text that is repeated most.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("one file is given twice", hint="give each output once")
    sources = [open_results(path) for path in paths]
    report = Report(sources)
    order = _Order()
    for row in _rows(sources):
        order.look(row)
        report.add(row)
    for source in sources:
        if not source.done:
            report.notes.append(f"{source.path} is not finished: these are its rows so far")
    if not report.n_rows:
        names = ", ".join(str(path) for path in paths)
        raise ConfigError(
            f"{names}: no row yet" if report.notes else f"{names}: no rows",
            hint="look again when some are done" if report.notes else "the job's input was empty",
        )
    if all(source.done for source in sources):
        report.notes += order.notes()
    report.notes += [
        f"{source.path} was changed after its job wrote it"
        for source in sources
        if isinstance(said := source.manifest.get("output"), dict)
        and not manifest.is_unchanged(source.path, said)
    ]
    for cell in report.cells.values():
        cell.repeated = cell.repeats.found()
    _find_most_common(report)
    return report


# Rows of several outputs ----------------------------------------------------------------------


def _rows(sources: Sequence[Results]) -> Iterator[dict[Label, Result]]:
    """Yield rows, each with what every cell made of it: lines of one index stand together.

    Several outputs are merged by index, as long as a row's id is the same in them.
    """
    if len(sources) == 1:
        for _, lines in groupby(sources[0], key=lambda one: (one.index, one.id)):
            yield from _apart((one.label, one) for one in lines)
        return
    names = [source.path.name for source in sources]
    if len(set(names)) < len(names):
        names = [str(source.path) for source in sources]
    streams = [iter(source) for source in sources]
    heads = [next(stream, None) for stream in streams]
    while left := [head for head in heads if head is not None]:
        key = min(one.index for one in left)
        of = next(one for one in left if one.index == key)
        row: list[tuple[Label, Result]] = []
        for i, (name, stream) in enumerate(zip(names, streams, strict=True)):
            while (head := heads[i]) is not None and (head.index, str(head.id)) == (
                key,
                str(of.id),
            ):
                row.append(((("file", name), *head.label), head))
                heads[i] = next(stream, None)
        yield from _apart(row)


def _apart(lines: Iterable[tuple[Label, Result]]) -> Iterator[dict[Label, Result]]:
    """Yield lines of a row as one, unless a cell has two of them."""
    row: dict[Label, Result] = {}
    for label, result in lines:
        if label in row:
            yield row
            row = {}
        row[label] = result
    yield row


@dataclass(slots=True)
class _Order:
    """Sees whether an output has each row once, in order, as a job writes it."""

    last: int = -1
    n_missing: int = 0
    missing: int = 0
    n_odd: int = 0
    odd: int = 0

    def look(self, row: Mapping[Label, Any]) -> None:
        """Look at the next row."""
        index = next(iter(row.values())).index
        if index > self.last + 1:
            self.missing = self.missing if self.n_missing else self.last + 1
            self.n_missing += index - self.last - 1
        if index <= self.last:
            self.odd = self.odd if self.n_odd else index
            self.n_odd += 1
        self.last = max(index, self.last)

    def notes(self) -> Iterator[str]:
        """Yield what is wrong."""
        if self.n_missing and not self.n_odd:
            yield f"{_rows_are(self.n_missing)} missing, the first of them row {self.missing:,}"
        if self.n_odd:
            yield (
                f"{_rows_are(self.n_odd)} out of order, given twice or of another input, the first "
                f"of them row {self.odd:,}: these are not compared"
            )


def _rows_are(n: int) -> str:
    return f"{n:,} rows are" if n > 1 else "1 row is"


def _find_most_common(report: Report) -> None:
    """Look the most common answers up: only their hashes were kept."""
    wanted = {
        label: cell.repeated.hashed
        for label, cell in report.cells.items()
        if cell.repeated.hashed is not None
    }
    if not wanted:
        return
    for row in _rows(report.sources):
        for label, result in row.items():
            for text in result.texts if label in wanted else ():
                if text_hash(text) == wanted[label]:
                    report.cells[label].most_common = clip(text, MAX_SHOWN)
                    del wanted[label]
                    break
        if not wanted:
            return


def _clipped(result: Result) -> Result:
    samples = tuple(
        replace(one, text=clip(one.text, MAX_SHOWN), logprobs=None) for one in result.samples
    )
    fault = result.fault and replace(result.fault, message=clip(result.fault.message, MAX_SHOWN))
    kept = {
        name: clip(value if isinstance(value, str) else json.dumps(value), MAX_SHOWN)
        for name, value in result.kept.items()
    }
    return replace(result, samples=samples, fault=fault, kept=kept)
