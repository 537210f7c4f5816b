"""`gptkit run JOB`: put every row of a file through a template and a model."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from gptkit.cli import options
from gptkit.cli.signals import orderly
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gptkit import assembly
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.jobs.engine import Engine
    from gptkit.jobs.job import Job
    from gptkit.jobs.runtime import How

ENGINES = ("local", "ray")
SOME_ROWS_FAILED = 4
ROWS_DIFFER = 1


def run(
    job: Annotated[
        str | None,
        typer.Argument(metavar="JOB.yaml", help="A job file, or the name of a bundled job."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Rows to read, instead of the job's own: a file, a pattern, a folder; repeat it.",
        ),
    ] = None,
    output: options.Output = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the job file; repeat it."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=4096, help="Answers that are computed together."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; an older journal is renamed.")
    ] = False,
    no_resume: Annotated[
        bool,
        typer.Option(
            "--no-resume", help="Begin anew and keep no journal: rows may come through a pipe."
        ),
    ] = False,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors", help="Compute rows again that failed while they were computed."
        ),
    ] = False,
    verify: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Compute N rows of the output again, each alone, and compare."
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="Who computes: local, or the workers of ray.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=10_000,
            help="Workers of ray, each with a model. Default: one for each GPU, or machine.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A cluster of ray that is there, or auto. Default: one on this machine.",
        ),
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
    threads: options.Threads = None,
    tokenizer: options.Tokenizer = None,
    as_json: options.Json = False,
    as_schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON Schema of a job file, for editors, and end."),
    ] = False,
    as_dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only show what would be done: rows, tokens, the first prompt."
        ),
    ] = False,
    as_list: Annotated[
        bool, typer.Option("--list", help="Print the bundled jobs, and end.")
    ] = False,
) -> None:
    """Run a batch job: one line of JSON out for each row in, in the same order."""
    from gptkit import assembly
    from gptkit.decoding import chain_source
    from gptkit.jobs.preflight import Given, prepare
    from gptkit.jobs.runtime import How
    from gptkit.jobs.spec import find_job
    from gptkit.text.prompting import OVERFLOW

    if as_list:
        from gptkit.cli.job_list import show_jobs

        show_jobs(as_json=as_json)
        return
    if on_overflow is not None:
        options.choice("--on-overflow", on_overflow, OVERFLOW)
    options.choice("--engine", engine, ENGINES)
    if engine == "local" and (workers is not None or address is not None):
        raise ConfigError(
            f"{'--workers' if workers is not None else '--address'} is about many machines",
            hint="add --engine ray",
        )
    if verify is not None and (restart or retry_errors or no_resume or as_dry_run):
        raise ConfigError(
            "--verify compares a finished output and nothing else",
            hint="leave out --restart, --retry-errors, --no-resume and --dry-run",
        )
    if no_resume and (restart or retry_errors):
        raise ConfigError(
            "--no-resume begins anew and keeps nothing to go on with",
            hint="leave --restart and --retry-errors out",
        )
    registry = options.load_registry()
    if as_schema:
        from gptkit.jobs.schema import schema

        print(json.dumps(schema(registry), ensure_ascii=False, indent=2))
        return
    path = find_job(job)
    whole, items = chain_source.given(stages or (), preset, registry)
    given = Given(
        model=model,
        inputs=tuple(inputs or ()),
        outputs=output,
        whole_chain=whole,
        stages=tuple(items),
        shorthands=options.shorthands(temperature, top_k, top_p),
        method=options.method(speculate, strategy, registry),
        seed=options.parse_seed(seed) if seed is not None else None,
        stop=options.stop_block(stop=stop, stop_when=stop_when, max_new_tokens=max_new_tokens),
        batch_size=batch_size,
        on_overflow=on_overflow,
        restart=restart,
        no_resume=no_resume,
    )
    checked = prepare(path, registry, given, assignments or ())

    how = How(
        restart=restart,
        no_resume=no_resume,
        retry_errors=retry_errors,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        backend=backend,
    )

    def load(source: Checkpoint) -> assembly.Model:
        return assembly.load_model(
            source, registry, tokenizer=tokenizer, device=device, dtype=dtype, backend=backend
        )

    if as_dry_run:
        from gptkit.cli.dry_run import dry_run

        dry_run(checked, tokenizer, as_json=as_json)
        return
    if verify is not None:
        from gptkit.cli.verify import show_verified

        if not show_verified(checked, load, how, verify, as_json=as_json):
            raise typer.Exit(ROWS_DIFFER)
        return
    computing: AbstractContextManager[Engine | None] = nullcontext()
    if engine == "ray":
        from gptkit.jobs.ray_engine import RayEngine

        computing = RayEngine(checked, how, workers=workers, address=address)
    n_failed = _show(checked, load, how, computing, as_json)
    if n_failed:
        raise typer.Exit(SOME_ROWS_FAILED)


def _show(
    job: Job,
    load: Callable[[Checkpoint], assembly.Model],
    how: How,
    computing: AbstractContextManager[Engine | None],
    as_json: bool,
) -> int:
    """Run a job and show how it goes; return how many rows failed."""
    from gptkit.cli.run_view import View
    from gptkit.jobs import run as jobs

    for line in job.notes:
        options.note(line)
    with orderly() as stop, View(job, may_go_on=not how.no_resume) as view:
        try:
            with computing as engine, closing(jobs.run(job, load, how, engine)) as events:
                for event in events:
                    view.show(event)
                    stop.check()
        except BaseException:
            if stop.code is None:  # else it may be anything that a library makes of it
                raise
            view.say_stopped()
            raise typer.Exit(stop.code) from None
        view.say_end()
    if as_json:
        print(json.dumps(view.summary(), ensure_ascii=False))
    return view.progress.n_failed
