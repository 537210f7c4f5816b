"""Some rows of a finished output computed again, each alone, and compared with what is there.

It proves for those rows what jobs promise: that an answer depends on its row alone, not on the rows
beside it, nor on their number, on what was cached, or on where a run was interrupted.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError, ResumeRefused
from gptkit.jobs import manifest, runtime
from gptkit.jobs.events import Note
from gptkit.jobs.files import Files, shown
from gptkit.jobs.fingerprint import differences, fingerprint
from gptkit.jobs.readers import read_rows
from gptkit.jobs.resume import written
from gptkit.jobs.score import batch_of
from gptkit.jobs.writers import columns, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from gptkit.assembly import Model
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.jobs.job import Cell, Job
    from gptkit.jobs.rows import Row
    from gptkit.jobs.runtime import How

    Line = Mapping[str, Any]

_DOMAIN = zlib.crc32(b"verify")
MISSING = "(nothing)"
"""What stands for a field that one side lacks."""
FOLDED = {"samples", "logprobs"}
"""Fields that are lists, which a table of text has as JSON."""
CLOCK = "time"
"""The finish reason of an answer that nobody can compute again."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a line that came out otherwise: what the output has, and what came now."""

    index: int
    id: str | int | None
    cell: Mapping[str, str]
    field: str
    there: Any
    again: Any


@dataclass(frozen=True, slots=True)
class Compared:
    """A line of the output that was computed again; `by_clock` ones can't be compared."""

    index: int
    differences: tuple[Difference, ...] = ()
    by_clock: bool = False


def verify(
    job: Job, load: Callable[[Checkpoint], Model], how: How, n: int
) -> Generator[Note | Compared]:
    """Yield what came of each cell's line of n rows, model by model.

    Raise ConfigError where the job has no finished output, and ResumeRefused where that is another
    job's, or its input was changed.
    """
    files = Files.of(job.outputs)
    said = _finished(job, files, how)
    if not manifest.is_unchanged(files.output, said["output"]):
        yield Note(f"{shown(files.output)} was changed after it was written")
    indices = chosen(job.scan.n_rows, n, job.cells[0].seed)
    if not indices:
        return
    there = _lines(job, indices)
    rows = _rows(job, indices)
    here = runtime.runtime(job, how)
    runtime.check_same(files.output, said["runtime"], here)
    yield from (Note(text) for text in runtime.notes(said["runtime"], here))
    with runtime.threads(said["runtime"]["threads"]):
        by_source: dict[int, list[int]] = {}
        for i, cell in enumerate(job.cells):
            by_source.setdefault(id(cell.source), []).append(i)
        for cells in by_source.values():
            model = load(job.cells[cells[0]].source)
            for i in cells:
                for row in rows:
                    again = _as_written(job, alone(job, job.cells[i], model, row))
                    yield _compared(row, job.cells[i], there.get((row.index, i)), again)


def chosen(n_rows: int, n: int, seed: int) -> list[int]:
    """Return n different numbers below `n_rows`, one by chance out of each of n equal parts.

    The seed decides which; all numbers where there are no more than n.
    """
    from gptkit.decoding.noise import hash32

    n = min(n, n_rows)
    if not n:
        return []
    noise = hash32([seed], _DOMAIN, [0], range(n))[0].tolist()
    bounds = [i * n_rows // n for i in range(n + 1)]
    return [
        low + (bits * (high - low) >> 32)
        for low, high, bits in zip(bounds[:-1], bounds[1:], noise, strict=True)
    ]


def alone(job: Job, cell: Cell, model: Model, row: Row) -> Line:
    """Return the line that a cell gives for a row, computed with nobody beside it or before it."""
    job = replace(job, batch_size=1, on_error="error_row")
    steps = batch_of(job, cell, model).run([row])
    (output,) = [result.output for step in steps for result in step.results]
    return output


# What is compared -----------------------------------------------------------------------------


def _finished(job: Job, files: Files, how: How) -> Mapping[str, Any]:
    """Return the manifest of the job's own output, for which the input is as it was."""
    said = manifest.read(files.manifest)
    if said is None or not files.output.exists():
        raise ConfigError(
            f"there is no finished output at {shown(files.output)} to verify",
            hint="run the job first; without its manifest nobody knows what an output is of",
        )
    other = differences(said["fingerprint"], fingerprint(job, how.tokenizer))
    if other:
        raise ResumeRefused(
            f"{shown(files.output)} belongs to a different job: {', '.join(other)}",
            hint="give the options that it was run with",
        )
    if said["written"] != written(job):
        raise ResumeRefused(
            f"the input of {shown(files.output)} was changed after it was written",
            hint="run the job again, then verify",
        )
    return said


def _lines(job: Job, indices: Iterable[int]) -> dict[tuple[int, int], Line]:
    """Return the lines of the output for some rows, by the numbers of row and cell."""
    wanted, found, n_cells = set(indices), {}, len(job.cells)
    for line in read_rows(job.outputs):
        index, cell = divmod(line.index, n_cells)
        if index in wanted:
            found[index, cell] = _unfolded(line.fields) if line.fault is None else {}
    return found


def _as_written(job: Job, line: Line) -> Line:
    """Return a line as one reads it that was written to an output of the job's form."""
    made = columns(job.task, job.n, job.logprobs, job.cells[0].label, job.keep)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / job.outputs.name
        write_rows(path, [line], made, csv_safe=job.csv_safe)
        (row,) = read_rows(path)
    return _unfolded(row.fields)


def _unfolded(line: Line) -> Line:
    """Return a line with its lists, which CSV has as JSON."""
    found = dict(line)
    for name in FOLDED & found.keys():
        with suppress(TypeError, ValueError):
            found[name] = json.loads(found[name])
    return found


def _rows(job: Job, indices: Iterable[int]) -> list[Row]:
    wanted = set(indices)
    return [row for row in job.inputs if row.index in wanted]


def _compared(row: Row, cell: Cell, there: Line | None, again: Line) -> Compared:
    if there is None:
        found: Iterable[tuple[str, Any, Any]] = [("line", MISSING, again)]
    elif _is_by_clock(there) or _is_by_clock(again):
        return Compared(row.index, by_clock=True)
    else:
        found = _unequal(there, again)
    return Compared(
        row.index, tuple(Difference(row.index, row.id, cell.label, *one) for one in found)
    )


def _is_by_clock(line: Line) -> bool:
    samples = line.get("samples")
    parts = samples if isinstance(samples, list) else [line]
    return any(isinstance(one, dict) and one.get("finish_reason") == CLOCK for one in parts)


def _unequal(there: Any, again: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the parts of two JSON values that differ, by what leads to them."""
    if isinstance(there, dict) and isinstance(again, dict):
        for key in dict.fromkeys((*there, *again)):
            at = f"{field}.{key}" if field else key
            yield from _unequal(there.get(key, MISSING), again.get(key, MISSING), at)
    elif isinstance(there, list) and isinstance(again, list) and len(there) == len(again):
        for i, pair in enumerate(zip(there, again, strict=True)):
            yield from _unequal(*pair, f"{field}[{i}]")
    elif there != again or type(there) is not type(again):
        yield field, there, again
