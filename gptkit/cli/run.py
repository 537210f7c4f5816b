"""`gptkit run JOB`: put every row of a file through a template and a model."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptkit.cli import options
from gptkit.cli.progress import LINE_EVERY_S, has_bars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gptkit.jobs.job import Job
    from gptkit.jobs.run import Progress, Started

SOME_ROWS_FAILED = 4
STOPPED = 130


def run(
    job: Annotated[
        str | None,
        typer.Argument(metavar="JOB.yaml", help="A job file, or the name of a bundled job."),
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE", help="Rows to read, instead of the job's own."),
    ] = None,
    output: options.Output = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the job file; repeat it."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=4096, help="Rows that are computed together."),
    ] = None,
    model: options.Model = None,
    stages: options.Stages = None,
    preset: options.Preset = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    speculate: options.Speculate = None,
    strategy: options.Strategy = None,
    seed: options.Seed = None,
    max_new_tokens: options.MaxNewTokens = None,
    stop: options.Stop = None,
    stop_when: options.StopWhen = None,
    on_overflow: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="When a prompt does not fit: error, truncate_left or truncate_right.",
            rich_help_panel=options.STOPPING,
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    backend: options.Backend = "auto",
    tokenizer: options.Tokenizer = None,
    as_json: options.Json = False,
    as_schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON Schema of a job file, for editors, and end."),
    ] = False,
) -> None:
    """Run a batch job: one line of JSON out for each row in, in the same order."""
    from gptkit import assembly
    from gptkit.decoding import chain_source
    from gptkit.jobs.preflight import Given, prepare
    from gptkit.jobs.spec import find_job
    from gptkit.text.prompting import OVERFLOW

    if on_overflow is not None:
        options.choice("--on-overflow", on_overflow, OVERFLOW)
    registry = options.load_registry()
    if as_schema:
        from gptkit.jobs.schema import schema

        print(json.dumps(schema(registry), ensure_ascii=False, indent=2))
        return
    path = find_job(job)
    whole, items = chain_source.given(stages or (), preset, registry)
    given = Given(
        model=model,
        inputs=input_,
        outputs=output,
        whole_chain=whole,
        stages=tuple(items),
        shorthands=options.shorthands(temperature, top_k, top_p),
        method=options.method(speculate, strategy, registry),
        seed=options.parse_seed(seed) if seed is not None else None,
        stop=options.stop_block(stop=stop, stop_when=stop_when, max_new_tokens=max_new_tokens),
        batch_size=batch_size,
        on_overflow=on_overflow,
    )
    checked = prepare(path, registry, given, assignments or ())

    def load() -> assembly.Model:
        return assembly.load_model(
            checked.cells[0].source,
            registry,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            backend=backend,
        )

    failed = _show(checked, load, as_json)
    if failed:
        raise typer.Exit(SOME_ROWS_FAILED)


def _show(job: Job, load: Callable[[], Any], as_json: bool) -> int:
    """Run a job and show how it goes; return how many rows failed."""
    from gptkit.jobs import run as jobs

    for line in job.notes:
        options.note(line)
    progress, start = jobs.Progress(job.scan.n_rows), time.perf_counter()
    try:
        with closing(jobs.run(job, load)) as events, ExitStack() as stack:
            show: Callable[[Progress], None] = _nothing
            for event in events:
                if isinstance(event, jobs.Started):
                    _say_start(job, event)
                    start = time.perf_counter()
                    show = stack.enter_context(_display(job.scan.n_rows))
                else:
                    progress = event
                    show(progress)
    except KeyboardInterrupt:
        options.say(f"stopped at {progress.n_done:,}/{progress.n_rows:,} rows; nothing was written")
        raise typer.Exit(STOPPED) from None
    seconds = time.perf_counter() - start
    if as_json:
        print(json.dumps(_summary(job, progress, seconds), ensure_ascii=False))
    _say_end(job, progress, seconds)
    return progress.n_failed


def _say_start(job: Job, event: Started) -> None:
    model = event.model
    for line in model.notes:
        options.note(line)
    cell = job.cells[0]
    chain = " ".join(map(str, cell.chain))
    options.say(
        f"{event.n_rows:,} row{'s' * (event.n_rows != 1)}, model {model.name} "
        f"({model.device}, {model.dtype}), sampling {chain}, seed {cell.seed}"
        + (f", {cell.method}" if str(cell.method) else "")
    )


def _say_end(job: Job, progress: Progress, seconds: float) -> None:
    if progress.n_shortened:
        options.note(f"{progress.n_shortened:,} prompts were shortened to fit the context")
    if not progress.n_rows:
        said = "0 rows"
    elif progress.n_failed:
        said = f"{progress.n_ok:,} ok, {progress.n_failed:,} failed (see error.type)"
        said += "".join(f", {n:,} {kind}" for kind, n in sorted(progress.failures.items()))
    else:
        said = f"{progress.n_ok:,} ok"
    speed = f"; {_speed(progress, seconds)} tok/s" if progress.new_tokens else ""
    options.say(f"{said}{speed}; written to {job.outputs}")


def _speed(progress: Progress, seconds: float) -> str:
    return f"{progress.new_tokens / max(seconds, 1e-9):,.0f}"


def _summary(job: Job, progress: Progress, seconds: float) -> dict[str, Any]:
    cell = job.cells[0]
    return {
        "rows": progress.n_rows,
        "ok": progress.n_ok,
        "failed": progress.n_failed,
        "failures": dict(progress.failures),
        "shortened": progress.n_shortened,
        "prompt_tokens": progress.prompt_tokens,
        "new_tokens": progress.new_tokens,
        "seconds": round(seconds, 4),
        "seed": cell.seed,
        "model": cell.source.path.name,
        "chain": [str(stage) for stage in cell.chain],
        "outputs": str(job.outputs),
    }


def _nothing(progress: Progress) -> None:
    """Show nothing: no row has been started."""


@contextmanager
def _display(n_rows: int) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows progress on stderr: a bar on a terminal, else a line at times."""
    if has_bars():
        with _bar(n_rows) as show:
            yield show
    else:
        yield _lines()


def _lines() -> Callable[[Progress], None]:
    said = time.perf_counter()

    def show(progress: Progress) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said >= LINE_EVERY_S:
            said = now
            failed = f", {progress.n_failed:,} failed" if progress.n_failed else ""
            options.say(f"{progress.n_done:,}/{progress.n_rows:,} rows{failed}")

    return show


@contextmanager
def _bar(n_rows: int) -> Iterator[Callable[[Progress], None]]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("rows  {task.fields[speed]} tok/s  left"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("[red]{task.fields[failed]}"),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bar:
        task, start = bar.add_task("", total=n_rows, speed="-", failed=""), time.perf_counter()

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.n_done,
                speed=_speed(progress, time.perf_counter() - start),
                failed=f"{progress.n_failed:,} failed" if progress.n_failed else "",
            )

        yield show
