"""Rows -> requests -> rows: many at once through the engine, out in the order they came in."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit import assembly
from gptkit.decoding.request import Request, resolve_stops
from gptkit.errors import ConfigError, GptkitError
from gptkit.jobs.fields import BadRow
from gptkit.jobs.prompts import prompt as prompt_of
from gptkit.jobs.rows import Fault, RowWriter, read_rows
from gptkit.text import prompting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from gptkit.assembly import Model
    from gptkit.decoding.request import Event
    from gptkit.jobs.job import Job
    from gptkit.jobs.rows import Row
    from gptkit.text.prompting import Prompt

WINDOW = 8
"""Rows, in batches, that may wait for an earlier one to end: more would cost memory."""


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


@dataclass(slots=True)
class _Answer:
    """A row on its way through the engine."""

    row: Row
    request: Request
    text: list[str] = field(default_factory=list)
    new_tokens: int = 0


class _Runner:
    """One run: rows in the engine, and finished rows that wait for earlier ones."""

    def __init__(self, job: Job, model: Model, out: RowWriter) -> None:
        self.job, self.model, self.out = job, model, out
        (self.cell,) = job.cells
        cell = self.cell
        block = assembly.with_template_stops(cell.stop, cell.template, model.tokenizer)
        self.stops = resolve_stops(block, job.registry)
        self.blank = prompting.blank_before_output(cell.template)
        self.engine = assembly.engine(model, n_slots=job.batch_size * cell.method.width)
        self.draft = assembly.draft(cell.method, model, job.registry, n_slots=job.batch_size)
        self.rows = read_rows(job.inputs)
        self.answers: dict[int, _Answer] = {}
        self.finished: dict[int, dict[str, Any]] = {}
        self.failures: Counter[str] = Counter()
        self.n_started = self.n_ok = self.n_shortened = self.prompt_tokens = self.new_tokens = 0

    def run(self) -> Iterator[Progress]:
        """Yield after each step of the engine, and once more at the end."""
        self._fill()
        while self.answers:
            for id, event in self.engine.step():
                self._take(id, event)
            self._write()
            yield self._progress()
            self._fill()
        self._write()
        if self.out.n_rows != self.job.scan.n_rows:
            raise ConfigError(
                f"{self.job.inputs} was changed while its rows were computed; nothing was written"
            )
        yield self._progress()

    def _fill(self) -> None:
        """Give the engine a row for each free slot; none waits there, so a time limit is fair."""
        limit = WINDOW * self.job.batch_size
        while len(self.answers) < self.job.batch_size:
            if self.n_started - self.out.n_rows >= limit:
                self._write()  # rows that failed at once may be all that waits
                if self.n_started - self.out.n_rows >= limit:
                    return
            row = next(self.rows, None)
            if row is None:
                return
            self.n_started += 1
            self._start(row)

    def _start(self, row: Row) -> None:
        if row.fault is not None:
            self._fail(row, row.fault)
            return
        try:
            prompt = prompt_of(row, self.cell, self.model.tokenizer, self.job.on_overflow)
            request = self._request(row, prompt)
            id = self.engine.add(request)
        except Exception as error:  # templates and tokenizers may be anyone's: only this row fails
            self._fail(row, fault_of(error))
            return
        self.answers[id] = _Answer(row, request)
        self.n_shortened += bool(prompt.n_dropped)
        self.prompt_tokens += len(prompt.ids)

    def _request(self, row: Row, prompt: Prompt) -> Request:
        from gptkit.decoding.noise import row_seed

        ids = tuple(prompt.ids) or (assembly.first_token(self.model),)
        return Request(
            ids,
            self.cell.chain,
            self.stops,
            row_seed(self.cell.seed, row.key),
            n_shared=prompt.n_shared,
            draft=self.draft,
            strategy=self.cell.method.strategy,
        )

    def _take(self, id: int, event: Event) -> None:
        answer = self.answers[id]
        answer.text.append(event.text)
        if event.token_id is not None:
            answer.new_tokens += 1
            self.new_tokens += 1
        if event.finish_reason is None:
            return
        del self.answers[id]
        if event.error is not None:
            self._fail(answer.row, fault_of(event.error))
            return
        self.n_ok += 1
        self.finished[answer.row.index] = {
            "index": answer.row.index,
            "id": answer.row.id,
            "text": "".join(answer.text).removeprefix(self.blank),
            "finish_reason": event.finish_reason,
            "prompt_tokens": len(answer.request.prompt_ids),
            "new_tokens": answer.new_tokens,
            "seed": answer.request.seed,
        }

    def _fail(self, row: Row, fault: Fault) -> None:
        self.failures[fault.type] += 1
        error = {"type": fault.type, "message": fault.message}
        self.finished[row.index] = {"index": row.index, "id": row.id, "error": error}

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


def fault_of(error: Exception) -> Fault:
    """Return what the output says of an error: its class in lower_snake, and its message."""
    if isinstance(error, BadRow):
        return Fault(error.type, str(error))
    if isinstance(error, GptkitError):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
        return Fault(name, str(error))
    return Fault("plugin_error", f"{type(error).__name__}: {error}")
