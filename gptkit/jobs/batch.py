"""Rows of one cell through one engine: many at once, each out when it has ended, in any order."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit import assembly
from gptkit.decoding.request import Request, resolve_stops
from gptkit.errors import ConfigError, GptkitError, ResourceError
from gptkit.jobs.fields import BadRow
from gptkit.jobs.prompts import prompt
from gptkit.jobs.rows import Fault
from gptkit.text import prompting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gptkit.assembly import Model
    from gptkit.jobs.job import Cell, Job
    from gptkit.jobs.rows import Row

AHEAD = 8
"""Rows, in batches, that may be read and made into prompts before there is a place for them."""


@dataclass(frozen=True, slots=True)
class Task:
    """A row that is ready to be computed; `request` is what its batch asks of its engine."""

    row: Row
    request: Any
    is_shortened: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A row that has ended, with its line of output.

    `may_retry` marks an error that came up while computing, and so may not come up again.
    `n_reused` counts the tokens of the prompt that were not computed for this row.
    """

    row: Row
    output: Mapping[str, Any]
    may_retry: bool = False
    is_shortened: bool = False
    prompt_tokens: int = 0
    n_reused: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of the engine brought: rows that ended, and how many tokens were written."""

    results: tuple[Result, ...]
    new_tokens: int


class Waiting:
    """The tasks that wait for a place, and which of them is next: they go in turn."""

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task) -> None:
        """Take in one more."""
        self._tasks.append(task)

    def take(self) -> Task:
        """Hand out the next one, of which there must be one."""
        return self._tasks.popleft()


@dataclass(slots=True)
class _Answer:
    """A task on its way through the engine."""

    task: Task
    text: list[str] = field(default_factory=list)
    new_tokens: int = 0


class Batch:
    """The rows of one cell that are in the engine, wait for it, or have just ended.

    What is asked of which engine, and what comes of it, is `_task`, `_new_engine` and `_take`.
    """

    def __init__(self, job: Job, cell: Cell, model: Model) -> None:
        self.job, self.cell, self.model = job, cell, model
        block = assembly.with_template_stops(cell.stop, cell.template, model.tokenizer)
        self.stops = resolve_stops(block, job.registry)
        self.blank = prompting.blank_before_output(cell.template)
        self.size = job.batch_size
        self.notes: list[str] = []
        """What the user should know, until somebody tells him."""
        self.draft = assembly.draft(cell.method, model, job.registry, n_slots=job.batch_size)
        self.waiting = Waiting()
        self._is_halved = False
        self._engine: Any = None
        self._answers: dict[int, _Answer] = {}
        self._ended: list[Result] = []
        self._new_tokens = 0

    def run(self, rows: Iterable[Row]) -> Iterator[Step]:
        """Yield after each step of the engine, until all rows have ended."""
        source = iter(rows)
        while True:
            try:
                self._fill(source)
                if self._answers:
                    for id, event in self._get_engine().step():
                        self._take(id, event)
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                self._make_room(error)
            if not (self._ended or self._answers or self.waiting):
                return
            step = Step(tuple(self._ended), self._new_tokens)
            self._ended, self._new_tokens = [], 0
            yield step

    # Into the engine --------------------------------------------------------------------------

    def _fill(self, source: Iterator[Row]) -> None:
        """Give the engine a row for each free place; none waits there, so a time limit is fair."""
        self._read(source)
        while len(self._answers) < self.size and self.waiting:
            engine = self._get_engine()
            task = self.waiting.take()
            try:
                id = engine.add(task.request)
            except Exception as error:  # samplers may be anyone's too
                self._fail(task.row, error)
            else:
                self._answers[id] = _Answer(task)
            self._read(source)

    def _read(self, source: Iterator[Row]) -> None:
        """Read ahead, within bounds; rows that fail at once are rows that wait to be written."""
        limit = AHEAD * self.size
        while len(self.waiting) + len(self._ended) < limit:
            row = next(source, None)
            if row is None:
                return
            if row.fault is not None:
                self._end(row, row.fault)
                continue
            try:
                self.waiting.add(self._task(row))
            except Exception as error:  # templates and tokenizers may be anyone's: only this row
                self._fail(row, error)

    def _task(self, row: Row) -> Task:
        from gptkit.decoding.noise import row_seed

        made = prompt(row, self.cell, self.model.tokenizer, self.job.on_overflow)
        ids = tuple(made.ids) or (assembly.first_token(self.model),)
        request = Request(
            ids,
            self.cell.chain,
            self.stops,
            row_seed(self.cell.seed, row.key),
            n_shared=made.n_shared,
            draft=self.draft,
            strategy=self.cell.method.strategy,
        )
        return Task(row, request, bool(made.n_dropped))

    def _get_engine(self) -> Any:
        if self._engine is None:
            self._engine = self._new_engine()
        return self._engine

    def _new_engine(self) -> Any:
        # With one slot alone an answer would depend on what the slot held before.
        n_slots = max(2, self.size * self.cell.method.width)
        return assembly.engine(self.model, n_slots=n_slots)

    def _make_room(self, error: Exception) -> None:
        """Begin again with the rows that were in the engine: half of them at once, the first time.

        After that one row has to give up, the longest: there is not enough memory for it.
        """
        tasks = [answer.task for answer in self._answers.values()]
        self._answers.clear()
        self._engine = None
        _free_memory()
        if self.size > 1 and not self._is_halved:
            self.size, self._is_halved = self.size // 2, True
            self.notes.append(f"out of memory; going on with {self.size:,} rows at a time")
        elif tasks:
            longest = max(tasks, key=lambda task: len(task.request.prompt_ids))
            tasks.remove(longest)
            self._fail(longest.row, ResourceError(f"out of memory: {_one_line(error)}"))
        else:
            raise error
        for task in tasks:
            self.waiting.add(task)

    # Out of the engine ------------------------------------------------------------------------

    def _take(self, id: int, event: Any) -> None:
        answer = self._answers[id]
        answer.text.append(event.text)
        if event.token_id is not None:
            answer.new_tokens += 1
            self._new_tokens += 1
        if event.finish_reason is None:
            return
        del self._answers[id]
        row, request = answer.task.row, answer.task.request
        if event.error is not None:
            self._fail(row, event.error)
            return
        output = {
            "index": row.index,
            "id": row.id,
            "text": "".join(answer.text).removeprefix(self.blank),
            "finish_reason": event.finish_reason,
            "prompt_tokens": len(request.prompt_ids),
            "new_tokens": answer.new_tokens,
            "seed": request.seed,
        }
        self._ended.append(
            Result(
                row,
                output,
                is_shortened=answer.task.is_shortened,
                prompt_tokens=len(request.prompt_ids),
                n_reused=event.n_reused,
            )
        )

    def _fail(self, row: Row, error: Exception) -> None:
        is_wrong_itself = (
            isinstance(error, GptkitError) and error.exit_code == ConfigError.exit_code
        )
        self._end(row, fault_of(error), may_retry=not is_wrong_itself)

    def _end(self, row: Row, fault: Fault, *, may_retry: bool = False) -> None:
        error = {"type": fault.type, "message": fault.message}
        output = {"index": row.index, "id": row.id, "error": error}
        self._ended.append(Result(row, output, may_retry))


def fault_of(error: Exception) -> Fault:
    """Return what the output says of an error: its class in lower_snake, and its message."""
    if isinstance(error, BadRow):
        return Fault(error.type, str(error))
    if isinstance(error, GptkitError):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
        return Fault(name, str(error))
    return Fault("plugin_error", f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory gave out: on a CPU torch says so in words alone."""
    if isinstance(error, (MemoryError, ResourceError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "allocate memory" in said or "not enough memory" in said
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _free_memory() -> None:
    """Give back what a dropped engine held; on a GPU torch would keep it."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
