"""Rows of one cell through one engine: many at once, each out when it has ended, in any order."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit import assembly
from gptkit.decoding.request import Request, resolve_stops
from gptkit.errors import ConfigError, GptkitError, PluginError, ResourceError
from gptkit.jobs.fields import BadRow, kept
from gptkit.jobs.prompts import n_shared, prompt
from gptkit.jobs.rows import Fault
from gptkit.jobs.schedule import Waiting
from gptkit.text import prompting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gptkit.assembly import Model
    from gptkit.decoding.request import Event
    from gptkit.jobs.job import Cell, Job
    from gptkit.jobs.rows import Row

AHEAD = 8
"""Answers, in batches, that may be read and made into prompts before there is a place for them."""


@dataclass(frozen=True, slots=True)
class Task:
    """An answer to a row, ready to be computed; `request` is what its batch asks of its engine.

    `sample` counts the answers of the row from 0.
    """

    row: Row
    request: Any
    is_shortened: bool
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A row that has ended, with its line of output.

    `may_retry` marks an error that came up while computing, and so may not come up again.
    `n_reused` counts the tokens of the prompt that were not computed for this row; where it has
    several answers, for any of them.
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


@dataclass(slots=True)
class _Answer:
    """A task on its way through the engine; `tokens` are kept for their log-probabilities."""

    task: Task
    text: list[str] = field(default_factory=list)
    new_tokens: int = 0
    tokens: list[tuple[int, Event]] = field(default_factory=list)


@dataclass(slots=True)
class _Unfinished:
    """A row whose answers have not all ended: what the output has of those that have, by sample."""

    samples: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    n_reused: list[int] = field(default_factory=list)


class Batch:
    """The rows of one cell that are in the engine, wait for it, or have just ended.

    Each answer takes a place in the engine. A row has ended when all its answers have, or when one
    has failed. What is asked of which engine, and what comes of it, is `_tasks`, `_new_engine` and
    `_take`.
    """

    def __init__(self, job: Job, cell: Cell, model: Model) -> None:
        self.job, self.cell, self.model = job, cell, model
        block = assembly.with_template_stops(cell.stop, cell.template, model.tokenizer)
        self.stops = resolve_stops(block, job.registry)
        self._check_chain()
        self.blank = prompting.blank_before_output(cell.template)
        self.size = job.batch_size
        self.notes: list[str] = []
        """What the user should know, until somebody tells him."""
        self.draft = assembly.draft(cell.method, model, job.registry, n_slots=job.batch_size)
        self.waiting = Waiting()
        self._is_halved = False
        self._engine: Any = None
        self._answers: dict[int, _Answer] = {}
        self._unfinished: dict[int, _Unfinished] = {}
        """Rows of which some answers have ended, by their index."""
        self._ended: list[Result] = []
        self._new_tokens = 0
        self._stopped_by: GptkitError | None = None

    def run(self, rows: Iterable[Row]) -> Iterator[Step]:
        """Yield after each step of the engine, until all rows have ended."""
        source = iter(rows)
        while True:
            try:
                self._fill(source)
                if self._answers:
                    for id, event in self._get_engine().step():
                        if id in self._answers:  # else another answer to its row has failed
                            self._take(id, event)
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                self._make_room(error)
            if not (self._ended or self._answers or self.waiting or self._stopped_by):
                return
            step = Step(tuple(self._ended), self._new_tokens)
            self._ended, self._new_tokens = [], 0
            yield step
            if self._stopped_by is not None:
                raise self._stopped_by

    def _check_chain(self) -> None:
        """Refuse a chain that no row could start with, such as a grammar with a mistake."""
        from gptkit.decoding.engine import TokenizerVocab
        from gptkit.decoding.sequence import first_states

        vocab = TokenizerVocab(self.model.tokenizer, self.model.eos_ids)
        first_states(Request((0,), self.cell.chain, self.stops, seed=0), vocab)

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
        while len(self.waiting) + len(self._ended) < limit and self._stopped_by is None:
            row = next(source, None)
            if row is None:
                return
            if row.fault is not None:
                self._end(row, row.fault)
                continue
            try:
                tasks = self._tasks(row)
            except Exception as error:  # templates and tokenizers may be anyone's: only this row
                self._fail(row, error)
            else:
                for task in tasks:
                    self.waiting.add(task)

    def _tasks(self, row: Row) -> list[Task]:
        """Return a task for each answer that a row is to have."""
        from gptkit.decoding.noise import row_seed

        made = prompt(row, self.cell, self.model.tokenizer, self.job.on_overflow)
        ids = tuple(made.ids) or (assembly.first_token(self.model),)
        n = self.job.n
        seeds = [row_seed(self.cell.seed, row.key, sample) for sample in range(n)]
        requests = [
            Request(
                ids,
                self.cell.chain,
                self.stops,
                seed,
                n_shared=n_shared(made, n),
                logprobs=self.job.logprobs,
                draft=self.draft,
                strategy=self.cell.method.strategy,
            )
            for seed in seeds
        ]
        return [Task(row, one, bool(made.n_dropped), i) for i, one in enumerate(requests)]

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
            tasks = [task for task in tasks if task.row.index != longest.row.index]
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
            if self.job.logprobs is not None:
                answer.tokens.append((event.token_id, event))
        if event.finish_reason is None:
            return
        del self._answers[id]
        task = answer.task
        if event.error is not None:
            self._fail(task.row, event.error)
            return
        row = self._unfinished.setdefault(task.row.index, _Unfinished())
        row.samples[task.sample] = self._sample(answer, event)
        row.n_reused.append(event.n_reused)
        if len(row.samples) == self.job.n:
            del self._unfinished[task.row.index]
            self._ended.append(self._result(task, row))

    def _sample(self, answer: _Answer, last: Event) -> dict[str, Any]:
        output = {
            "text": "".join(answer.text).removeprefix(self.blank),
            "finish_reason": last.finish_reason,
            "new_tokens": answer.new_tokens,
            "seed": answer.task.request.seed,
        }
        if self.job.logprobs is not None:
            output["logprobs"] = [self._logprobs(*token) for token in answer.tokens]
        return output

    def _logprobs(self, token_id: int, event: Event) -> dict[str, Any]:
        """Return what is recorded of a token; a strategy may know no probability of it."""
        top = [
            {"token": self._token(one.token_id), "logprob": one.logprob}
            for one in event.alternatives
            if one.logprob > float("-inf")
        ]
        return {"token": self._token(token_id), "logprob": event.logprob, "top": top}

    def _token(self, id: int) -> str:
        return self.model.tokenizer.token_bytes(id).decode("utf-8", "replace")

    def _result(self, task: Task, row: _Unfinished) -> Result:
        n_prompt = len(task.request.prompt_ids)
        samples = [row.samples[sample] for sample in range(self.job.n)]
        output: dict[str, Any] = {"prompt_tokens": n_prompt, "samples": samples}
        if self.job.n == 1:
            (one,) = samples
            first = {key: one[key] for key in ("text", "finish_reason")}
            output = {**first, "prompt_tokens": n_prompt, **one}
        return Result(
            task.row,
            {**self._head(task.row), **output},
            is_shortened=task.is_shortened,
            prompt_tokens=n_prompt,
            n_reused=min(row.n_reused),
        )

    def _head(self, row: Row) -> dict[str, Any]:
        """Return what tells a line of output from all others."""
        cell = {"cell": dict(self.cell.label)} if self.cell.label else {}
        fields = {"fields": kept(row, self.job.keep)} if self.job.keep and not row.fault else {}
        return {"index": row.index, "id": row.id, **cell, **fields}

    def _fail(self, row: Row, error: Exception) -> None:
        """End a row, all its answers, with an error; or end the job, where `on_error` says so."""
        self._drop(row)
        fault = fault_of(error)
        if self.job.on_error == "stop":
            said = f"row {row.index:,} (line {row.line:,}): {fault.message}"
            stop = error if isinstance(error, GptkitError) else PluginError(said)
            stop.args, stop.hint = (said,), "`on_error: error_row` goes on behind such a row"
            self._stopped_by = self._stopped_by or stop
            return
        is_wrong_itself = (
            isinstance(error, GptkitError) and error.exit_code == ConfigError.exit_code
        )
        self._end(row, fault, may_retry=not is_wrong_itself)

    def _drop(self, row: Row) -> None:
        """Take the other answers of a row out of the engine and out of those that wait."""
        self._unfinished.pop(row.index, None)
        self.waiting.drop(row)
        mine = [id for id, one in self._answers.items() if one.task.row.index == row.index]
        for id in mine:
            del self._answers[id]
            with suppress(KeyError):  # it ended in the same step
                self._get_engine().cancel(id)

    def _end(self, row: Row, fault: Fault, *, may_retry: bool = False) -> None:
        error = {"type": fault.type, "message": fault.message}
        self._ended.append(Result(row, {**self._head(row), "error": error}, may_retry))


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
