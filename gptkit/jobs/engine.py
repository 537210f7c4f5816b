"""Who computes the rows of a job that are left: this process, or the workers of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gptkit.errors import ConfigError
from gptkit.jobs import runtime
from gptkit.jobs.done import NOWHERE
from gptkit.jobs.score import batch_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from gptkit.assembly import Model
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.jobs.batch import Result
    from gptkit.jobs.done import Done
    from gptkit.jobs.events import Described
    from gptkit.jobs.job import Job
    from gptkit.jobs.readers import Inputs
    from gptkit.jobs.rows import Row
    from gptkit.jobs.runtime import How, Runtime


@dataclass(frozen=True, slots=True)
class Ready:
    """A model is there, and its rows are being computed."""

    model: Described


@dataclass(frozen=True, slots=True)
class Computed:
    """What came of a step in a cell: rows that ended, how many tokens were written, what to say."""

    cell: int
    results: tuple[Result, ...]
    new_tokens: int
    notes: tuple[str, ...] = ()


class Engine(Protocol):
    """Computes rows. Whatever it is, a row's answer is the same."""

    def runtime(self, threads: int | None) -> Runtime:
        """Return what will compute; `threads` are those of an earlier run, which are to be kept."""

    def compute(
        self, cells: Sequence[int], done: Done, here: Mapping[str, Any]
    ) -> Generator[Ready | Computed]:
        """Compute what is left of cells of one model: yield Ready once, then what comes of rows."""


class LocalEngine:
    """This process, with one model at a time."""

    def __init__(self, job: Job, load: Callable[[Checkpoint], Model], how: How) -> None:
        self.job, self.load, self.how = job, load, how

    def runtime(self, threads: int | None) -> Runtime:
        """Return what will compute here."""
        return runtime.runtime(self.job, self.how)

    def compute(
        self, cells: Sequence[int], done: Done, here: Mapping[str, Any]
    ) -> Generator[Ready | Computed]:
        """Load the model of some cells and compute their rows, cell by cell."""
        with runtime.threads(here["threads"]):
            model = self.load(self.job.cells[cells[0]].source)
            yield Ready(model)
            for i in cells:
                batch = batch_of(self.job, self.job.cells[i], model)
                for step in batch.run(left(self.job.inputs, done, i)):
                    notes = tuple(batch.notes)
                    batch.notes.clear()
                    yield Computed(i, step.results, step.new_tokens, notes)


def left(inputs: Inputs, done: Done, cell: int) -> Iterator[Row]:
    """Yield the rows that a cell has to compute; raise where the input has others by now."""
    n = 0
    for row in inputs:
        n += 1
        if n > done.n_rows:
            break
        if done.place(row.index, cell) == NOWHERE:
            yield row
    if n != done.n_rows:
        raise ConfigError(
            f"{inputs} was changed while its rows were computed",
            hint="run the same command again: what is done is kept",
        )
