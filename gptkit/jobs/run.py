"""Rows -> requests -> rows: many at once through the engine, out in the order they came in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError
from gptkit.jobs.batch import Batch
from gptkit.jobs.rows import RowWriter, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from gptkit.assembly import Model
    from gptkit.jobs.batch import Result
    from gptkit.jobs.job import Job


@dataclass(frozen=True, slots=True)
class Started:
    """The model is there; the rows come next."""

    model: Model
    n_rows: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; the last one is its summary.

    `failures` counts rows by the type of their error. `n_shortened` counts prompts that lost
    examples or tokens, so that they fit.
    """

    n_rows: int
    n_ok: int = 0
    n_shortened: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_failed(self) -> int:
        """Rows that have an error."""
        return sum(self.failures.values())

    @property
    def n_done(self) -> int:
        """Rows that have an answer or an error."""
        return self.n_ok + self.n_failed


def run(job: Job, load: Callable[[], Model]) -> Generator[Started | Progress]:
    """Compute a job; the output appears when all rows are there, or never.

    Closing the iterator, like an exception, drops what was done. `load` is called once it is sure
    that the output can be written, and not at all where there are no rows.
    """
    with RowWriter(job.outputs) as out:
        if job.scan.n_rows:
            model = load()
            yield Started(model, job.scan.n_rows)
            runner = _Runner(job, model, out)
            yield from runner.run()
        else:
            yield Progress(0)


class _Runner:
    """One run: rows that have ended, and wait for earlier ones."""

    def __init__(self, job: Job, model: Model, out: RowWriter) -> None:
        self.job, self.out = job, out
        (cell,) = job.cells
        self.batch = Batch(job, cell, model)
        self.finished: dict[int, Mapping[str, Any]] = {}
        self.failures: Counter[str] = Counter()
        self.n_ok = self.n_shortened = self.prompt_tokens = self.new_tokens = 0

    def run(self) -> Iterator[Progress]:
        """Yield after each step of the engine, and once more at the end."""
        for step in self.batch.run(read_rows(self.job.inputs)):
            for result in step.results:
                self._take(result)
            self.new_tokens += step.new_tokens
            self._write()
            yield self._progress()
        if self.out.n_rows != self.job.scan.n_rows:
            raise ConfigError(
                f"{self.job.inputs} was changed while its rows were computed; nothing was written"
            )
        yield self._progress()

    def _take(self, result: Result) -> None:
        self.finished[result.row.index] = result.output
        self.n_shortened += result.is_shortened
        self.prompt_tokens += result.prompt_tokens
        if "error" in result.output:
            self.failures[result.output["error"]["type"]] += 1
        else:
            self.n_ok += 1

    def _write(self) -> None:
        while (row := self.finished.pop(self.out.n_rows, None)) is not None:
            self.out.write(row)

    def _progress(self) -> Progress:
        return Progress(
            self.job.scan.n_rows,
            self.n_ok,
            self.n_shortened,
            self.prompt_tokens,
            self.new_tokens,
            dict(self.failures),
        )
