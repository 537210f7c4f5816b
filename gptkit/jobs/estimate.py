"""What a job will ask of its models: prompts and tokens, counted without computing anything."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from gptkit.decoding.prefix import CHUNK, LEAST_SHARED
from gptkit.decoding.request import resolve_stops
from gptkit.jobs.batch import fault_of
from gptkit.jobs.prompts import n_shared, own_cost, prompt
from gptkit.jobs.rows import Fault
from gptkit.jobs.score import prompt_and_scored
from gptkit.text.prompting import blank_before_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.jobs.job import Cell, Job
    from gptkit.jobs.rows import Row
    from gptkit.plugin_api import Tokenizer
    from gptkit.text.prompting import Prompt

LOOK_AT = 1000
"""Rows that are made into prompts at most; of more, this many are taken in equal steps."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a model for a row: a prompt, and how many tokens behind it to score."""

    prompt: Prompt
    n_scored: int = 0


@dataclass(slots=True)
class CellEstimate:
    """What one cell comes to. Counts are of the rows that were looked at; `scale` is how many
    rows each of them stands for.

    `failures` counts rows without a prompt by the type of their error. `n_shortened` counts prompts
    that lost examples or tokens to fit. `examples` and `lengths` (tokens) have a number a prompt.
    """

    cell: Cell
    n: int
    max_new_tokens: int
    scale: float = 1.0
    first: tuple[Row, Prompt] | None = None
    failures: Counter[str] = field(default_factory=Counter)
    n_shortened: int = 0
    lengths: list[int] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)
    n_own: int = 0
    """Prompt tokens that are computed behind the prefixes that rows share, for all answers."""
    n_shared: int = 0
    """Tokens of those prefixes, each counted once."""
    n_scored: int = 0
    _prefixes: set[tuple[int, ...]] = field(default_factory=set)

    def add(self, row: Row, asked: Asked | Fault) -> None:
        """Count what became of a row: what is asked, or why nothing is."""
        if isinstance(asked, Fault):
            self.failures[asked.type] += 1
            return
        made = asked.prompt
        self.first = self.first or (row, made)
        self.n_shortened += bool(made.n_dropped)
        self.lengths.append(len(made.ids))
        self.examples.append(made.n_examples)
        shared = n_shared(made, self.n)
        self.n_own += own_cost(made, self.n, shared)
        # Of a prefix that only this row has, whole chunks may come from what all rows share.
        common = shared if shared == made.n_shared else made.n_shared // CHUNK * CHUNK
        prefix = tuple(made.ids[:common]) if shared >= LEAST_SHARED else ()
        if prefix not in self._prefixes:
            self._prefixes.add(prefix)
            self.n_shared += len(prefix)
        self.n_scored += asked.n_scored

    def scaled(self, n: float) -> int:
        """Return how many rows, or tokens, a count stands for."""
        return round(n * self.scale)

    @property
    def n_looks(self) -> int:
        """Rows that were looked at."""
        return len(self.lengths) + self.failures.total()

    @property
    def n_prompts(self) -> int:
        """Rows that have a prompt."""
        return self.scaled(len(self.lengths))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, one prompt for each row."""
        return self.scaled(sum(self.lengths))

    @property
    def prefill_alone(self) -> int:
        """Tokens to prefill if each answer computed its whole prompt."""
        return self.scaled(sum(self.lengths) * self.n + self.n_scored)

    @property
    def prefill_shared(self) -> int:
        """Tokens to prefill where what answers have in common is computed once."""
        return self.scaled(self.n_own + self.n_scored) + self.n_shared

    @property
    def scored_tokens(self) -> int:
        """Tokens of texts that are given, and scored."""
        return self.scaled(self.n_scored)

    @property
    def new_tokens(self) -> int:
        """Tokens to decode at most."""
        return self.scaled(len(self.lengths) * self.n * self.max_new_tokens)

    @property
    def median(self) -> float:
        """The median length of a prompt, in tokens; 0 where there is none."""
        return statistics.median(self.lengths) if self.lengths else 0


def estimate(
    job: Job,
    rows: Iterable[Row],
    tokenizer: Callable[[Checkpoint], Tokenizer],
    show: Callable[[int, int], None] = lambda n_done, n_all: None,
) -> list[CellEstimate]:
    """Make rows into the prompts of each cell and count; no model is loaded.

    `rows` are all rows of the job. `show` is told how many rows were looked at, and of how many.
    """
    n_rows = job.scan.n_rows
    step = max(1, -(-n_rows // LOOK_AT))
    n_looks = -(-n_rows // step)
    found = [_empty(job, cell, n_rows / max(n_looks, 1)) for cell in job.cells]
    tokenizers = {id(cell.source): tokenizer(cell.source) for cell in job.cells}
    for n_done, row in enumerate(islice(rows, 0, None, step), start=1):
        made: dict[tuple[int, ...], Asked | Fault] = {}
        for one in found:
            cell = one.cell
            # Cells that differ in their chain alone have the same prompts.
            key = id(cell.source), id(cell.template), id(cell.examples)
            if key not in made:
                made[key] = _asked(row, job, cell, tokenizers[key[0]])
            one.add(row, made[key])
        show(n_done, n_looks)
    return found


def _empty(job: Job, cell: Cell, scale: float) -> CellEstimate:
    stops = resolve_stops(cell.stop, job.registry)
    return CellEstimate(cell, job.n, stops.max_new_tokens if job.task == "generate" else 0, scale)


def _asked(row: Row, job: Job, cell: Cell, tokenizer: Tokenizer) -> Asked | Fault:
    if row.fault is not None:
        return row.fault
    try:
        if job.task == "generate":
            return Asked(prompt(row, cell, tokenizer, job.on_overflow))
        blank = blank_before_output(cell.template)
        made, scored, _ = prompt_and_scored(row, cell, tokenizer, job.on_overflow, blank)
        return Asked(made, len(scored))
    except Exception as error:  # as in a batch: templates and tokenizers may be anyone's
        return fault_of(error)
