"""What a batch job shows on stderr: a bar on a terminal, a line at times elsewhere, a summary."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from gptkit.cli import options
from gptkit.cli.progress import LINE_EVERY_S, has_bars
from gptkit.jobs.events import Finished, Note, Progress, Resumed, Started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gptkit.decoding.request import Stage
    from gptkit.jobs.events import Event
    from gptkit.jobs.job import Job


MAX_STAGE = 60
"""Characters of a stage that the first line shows: a schema may have thousands."""


class View:
    """Shows the events of a job; used as a context, which takes the bar away."""

    def __init__(self, job: Job, *, may_go_on: bool = True) -> None:
        self.job, self.may_go_on = job, may_go_on
        self.progress = Progress(job.scan.n_rows * len(job.cells))
        self.was_there = False
        self._start = time.perf_counter()
        self._stack = ExitStack()
        self._show: Callable[[Progress, float], None] | None = None

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def seconds(self) -> float:
        """The time since rows are computed."""
        return time.perf_counter() - self._start

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Progress):
            self.progress = event
            if self._show:
                self._show(event, self.seconds)
        elif isinstance(event, Note):
            options.note(event.text)
        elif isinstance(event, Resumed):
            self.progress = Progress(event.n_rows, event.n_done, n_resumed=event.n_done)
            _say_resumed(event)
        elif isinstance(event, Started):
            self._say_started(event)
        elif isinstance(event, Finished):
            self.was_there = event.was_there

    def _say_started(self, event: Started) -> None:
        model = event.model
        for line in model.notes:
            options.note(line)
        chains = {" ".join(map(_brief, cell.chain)): None for cell in event.cells}
        seeds = {str(cell.seed): None for cell in event.cells}
        method = str(event.cells[0].method)
        done = self.progress.n_done
        options.say(
            f"{event.n_rows:,} {'more ' * bool(done)}row{'s' * (event.n_rows != 1)}, "
            f"model {model.name} ({model.device}, {model.dtype})"
            + (f", sampling {' | '.join(chains)}" if any(chains) else "")
            + (f", seed {', '.join(seeds)}" if any(chains) else "")
            + (f", {method}" if method else "")
        )
        if self._show is None:
            self._start = time.perf_counter()
            self._show = self._stack.enter_context(_display(self.progress))

    def say_stopped(self) -> None:
        """Say how far a job is that was stopped."""
        self._stack.close()
        done, n = self.progress.n_done, self.progress.n_rows
        then = "run the same command to continue" if self.may_go_on else "nothing was written"
        options.say(f"stopped at {done:,}/{n:,} rows; {then}")

    def say_end(self) -> None:
        """Say what came of the job."""
        self._stack.close()
        progress = self.progress
        if progress.n_shortened:
            options.note(f"{progress.n_shortened:,} prompts were shortened to fit the context")
        if not progress.n_rows:
            said = "0 rows"
        elif progress.n_failed:
            said = f"{progress.n_ok:,} ok, {progress.n_failed:,} failed (see error.type)"
            said += "".join(f", {n:,} {kind}" for kind, n in sorted(progress.failures.items()))
        else:
            said = f"{progress.n_ok:,} ok"
        if self.was_there:
            options.say(f"{said}; {self.job.destination} is finished already")
            return
        if progress.new_tokens:
            said += f"; {_speed(progress, self.seconds)} tok/s"
        if progress.n_reused:
            said += f", {_reuse(progress)} of the prompts reused"
        options.say(f"{said}; written to {self.job.destination}")

    def summary(self) -> dict[str, Any]:
        """Return the same for programs."""
        progress, cell = self.progress, self.job.cells[0]
        return {
            "rows": progress.n_rows,
            "ok": progress.n_ok,
            "failed": progress.n_failed,
            "failures": dict(progress.failures),
            "resumed": progress.n_resumed,
            "shortened": progress.n_shortened,
            "prompt_tokens": progress.prompt_tokens,
            "reused_tokens": progress.n_reused,
            "new_tokens": progress.new_tokens,
            "seconds": round(self.seconds, 4),
            "seed": cell.seed,
            "model": cell.source.path.name,
            "chain": [str(stage) for stage in cell.chain],
            "cells": [dict(cell.label) for cell in self.job.cells],
            "outputs": self.job.destination,
        }


def _brief(stage: Stage) -> str:
    """Return a stage in not too many words: what is at its default goes first, then the end."""
    said = str(stage)
    if len(said) > MAX_STAGE:
        said = " ".join(stage.brief.split())
    return said if len(said) <= MAX_STAGE else f"{said[: MAX_STAGE - 3]}..."


def _say_resumed(event: Resumed) -> None:
    for n, said in (
        (event.n_cut_bytes, "torn byte{s} cut off the end of the journal"),
        (event.n_damaged, "damaged line{s} in the journal: what stood there is computed again"),
        (event.n_gone, "row{s} of the journal left out: the input has {them} no more"),
    ):
        if n:
            plural = {"s": "s" * (n != 1), "them": "them" if n != 1 else "it"}
            options.note(f"{n:,} {said.format(**plural)}")
    options.say(f"going on: {event.n_done:,}/{event.n_rows:,} rows are done")


def _speed(progress: Progress, seconds: float) -> str:
    return f"{progress.new_tokens / max(seconds, 1e-9):,.0f}"


def _reuse(progress: Progress) -> str:
    return f"{progress.n_reused / max(progress.prompt_tokens, 1):.0%}"


def _left(progress: Progress, seconds: float) -> str:
    """Return the time that the other rows will take, as those of this run did."""
    n_computed = progress.n_done - progress.n_resumed
    if not n_computed:
        return "-:--:--"
    left = round(seconds / n_computed * (progress.n_rows - progress.n_done))
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"


@contextmanager
def _display(progress: Progress) -> Iterator[Callable[[Progress, float], None]]:
    """Give a function that shows progress on stderr, and how many seconds it took."""
    if has_bars():
        with _bar(progress) as show:
            yield show
    else:
        yield _lines()


def _lines() -> Callable[[Progress, float], None]:
    said = time.perf_counter()

    def show(progress: Progress, seconds: float) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said >= LINE_EVERY_S:
            said = now
            failed = f", {progress.n_failed:,} failed" if progress.n_failed else ""
            reused = f", {_reuse(progress)} reused" if progress.n_reused else ""
            options.say(
                f"{progress.n_done:,}/{progress.n_rows:,} rows{failed}, "
                f"{_speed(progress, seconds)} tok/s{reused}, {_left(progress, seconds)} left"
            )

    return show


@contextmanager
def _bar(progress: Progress) -> Iterator[Callable[[Progress, float], None]]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("rows  {task.fields[said]}"),
        rich.TextColumn("[red]{task.fields[failed]}"),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(
            "", total=progress.n_rows, completed=progress.n_done, said="", failed=""
        )

        def show(progress: Progress, seconds: float) -> None:
            reused = f"  {_reuse(progress)} reused" if progress.n_reused else ""
            bar.update(
                task,
                completed=progress.n_done,
                said=f"{_speed(progress, seconds)} tok/s{reused}  left {_left(progress, seconds)}",
                failed=f"{progress.n_failed:,} failed" if progress.n_failed else "",
            )

        yield show
