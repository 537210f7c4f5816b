"""`task: score`: how likely a model finds the text that a row gives, where it would write its own.

The text is the template's output field. Its tokens are scored given the prompt that would ask for
it, examples and all; an item of `$text` alone has no prompt, and so scores the whole text.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from gptkit import assembly
from gptkit.errors import ConfigError, NonFiniteLogits
from gptkit.jobs.batch import Batch, Result, Task
from gptkit.jobs.fields import BadRow, texts
from gptkit.jobs.prompts import prompt
from gptkit.plugin_api import ChatTemplate
from gptkit.text import prompting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gptkit.assembly import Model
    from gptkit.config import Document, KeyPath
    from gptkit.decoding.scoring import Score, Scorer, ScoreRequest
    from gptkit.jobs.job import Cell, Job
    from gptkit.jobs.rows import Row
    from gptkit.plugin_api import Template, Tokenizer
    from gptkit.text.prompting import Prompt

WRITING: tuple[KeyPath, ...] = (
    ("sampling", "preset"),
    ("sampling", "chain"),
    ("sampling", "speculate"),
    ("sampling", "strategy"),
    ("stop",),
    ("n",),
    ("logprobs",),
    ("matrix", "sampler"),
)
"""The keys of a job that say how an answer is written, which is not what scoring does. A seed is
none of them: examples may be drawn by it."""


def check(
    document: Document, options: Iterable[str], templates: Iterable[Template | ChatTemplate]
) -> None:
    """Refuse what makes no sense in a job that scores; `options` are those that were given."""
    for path in WRITING:
        here: Any = document.data
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        if here is not None:
            raise ConfigError(
                f"{document.where(path)}: '{'.'.join(map(str, path))}' is about writing, and "
                "`task: score` writes nothing",
                hint="leave it out",
            )
    for option in options:
        raise ConfigError(
            f"{option} is about writing, and the job's task is to score", hint="leave it out"
        )
    if any(isinstance(template, ChatTemplate) for template in templates):
        raise ConfigError(
            f"{document.where(('template',))}: `task: score` scores the output of a template, and "
            "a chat template has none",
            hint="for whole texts: {item: $text, output: text}",
        )


def batch_of(job: Job, cell: Cell, model: Model) -> Batch:
    """Return what does the job's task for the rows of a cell."""
    return (ScoreBatch if job.task == "score" else Batch)(job, cell, model)


class ScoreBatch(Batch):
    """The rows of one cell whose texts are being scored, wait for it, or have just ended."""

    def __init__(self, job: Job, cell: Cell, model: Model) -> None:
        super().__init__(job, cell, model)
        self._said: set[str] = set()

    def _new_engine(self) -> Scorer:
        return assembly.scorer(self.model, n_slots=self.size)

    def _tasks(self, row: Row) -> list[Task]:
        from gptkit.decoding.scoring import ScoreRequest

        tokenizer = self.model.tokenizer
        made, scored, n_bytes = prompt_and_scored(
            row, self.cell, tokenizer, self.job.on_overflow, self.blank
        )
        given = tuple(made.ids)
        if not given and self.model.bos_id is not None:
            given = (self.model.bos_id,)
        if not given and scored:
            given, scored = scored[:1], scored[1:]
            n_bytes -= len(tokenizer.token_bytes(given[0]))
            self._say_once(
                f"{self.model.name} has no token to start a text from: the first token of each "
                "text is not counted"
            )
        if not scored:
            output = cast("Template", self.cell.template).output
            column = self.cell.columns.get(output, output)
            raise BadRow("nothing_to_score", f"field '{column}' has no token to score")
        # A tokenizer that does not know all characters may spell more than the text.
        request = ScoreRequest(given, scored, made.n_shared, n_bytes=max(n_bytes, 1))
        return [Task(row, request, bool(made.n_dropped))]

    def _take(self, id: int, event: Score) -> None:
        task = self._answers.pop(id).task
        row, request = task.row, cast("ScoreRequest", task.request)
        if event.error is not None:
            self._fail(row, event.error)
            return
        try:
            figures = measures(event.logprobs, request.n_bytes)
        except OverflowError:
            self._fail(row, NonFiniteLogits("the perplexity is too large a number"))
            return
        self._new_tokens += len(event.logprobs)
        self._ended.append(
            Result(
                row,
                {**self._head(row), **figures},
                is_shortened=task.is_shortened,
                prompt_tokens=len(request.prompt_ids),
                n_reused=event.n_reused,
            )
        )

    def _say_once(self, note: str) -> None:
        if note not in self._said:
            self._said.add(note)
            self.notes.append(note)


def prompt_and_scored(
    row: Row, cell: Cell, tokenizer: Tokenizer, on_overflow: str, blank: str
) -> tuple[Prompt, tuple[int, ...], int]:
    """Return the prompt of a row, the tokens to score behind it, and how many bytes they spell."""
    output, context = cast("Template", cell.template).output, cell.source.config.block_size
    text = texts(row.fields, {output}, cell.columns)[output]
    text = blank + text if text else ""
    # A long text is read in windows; in the first of them half of the context is its own.
    scored = tuple(prompting.encode_text(text, tokenizer))
    room = max(context - len(scored), context // 2)
    made = prompt(row, replace(cell, room=room), tokenizer, on_overflow)
    return made, scored, len(text.encode())


def measures(logprobs: Iterable[float], n_bytes: int) -> Mapping[str, Any]:
    """Return the figures of a text of so many bytes, from its tokens' log-probabilities in nats.

    Perplexity is exp(-mean log-probability) (Jelinek et al. 1977, doi:10.1121/1.2016299); bits per
    byte do not depend on how a tokenizer cuts the text.
    """
    found = tuple(logprobs)
    total = math.fsum(found)
    return {
        "tokens": len(found),
        "logprob": total,
        "perplexity": math.exp(-total / len(found)),
        "bits_per_byte": -total / math.log(2) / n_bytes,
    }
