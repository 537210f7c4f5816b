"""`gptkit sampler trace|compare|presets`: look into a chain, and put chains side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptkit.cli import options
from gptkit.cli.progress import display
from gptkit.errors import ConfigError, GptkitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gptkit.assembly import Model
    from gptkit.decoding.chain_source import ChainSource
    from gptkit.decoding.comparison import Figures, Walk
    from gptkit.decoding.engine import Engine
    from gptkit.decoding.inspection import Inspection
    from gptkit.decoding.request import Request
    from gptkit.plugin_host import Registry

app = typer.Typer(help="Look into sampler chains.", no_args_is_help=True)

N_TOKENS = 64
N_SLOTS = 8

Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw it too: FILE.png or FILE.svg (extra: plots)."),
]


@app.command()
def trace(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="Text to continue; - reads stdin.")
    ],
    model: options.Model = None,
    stages: options.Stages = None,
    preset: options.Preset = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    position: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Show the N-th token of the answer. Default: 1."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Show each of the first N tokens instead."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Follow this token too, and name what removed it."),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    backend: options.Backend = "auto",
    tokenizer: options.Tokenizer = None,
    plot: Plot = None,
    as_json: options.Json = False,
) -> None:
    """Continue PROMPT and show what each stage of the chain did to a token of the answer."""
    from gptkit import assembly
    from gptkit.cli.text_argument import prompt_ids, read_text
    from gptkit.decoding.request import Request, Stops, random_seed

    if position is not None and tokens is not None:
        raise ConfigError("--position and --tokens both say what to show", hint="give one of them")
    _check_plot(plot)
    text = read_text(prompt, "prompt")
    registry = options.load_registry()
    number = options.parse_seed(seed) if seed is not None else random_seed()
    short = options.shorthands(temperature, top_k, top_p)
    chain = options.given_chain(stages, preset, short, registry)
    source = assembly.open_model(model)
    chain = chain or options.default_chain(source, registry)
    loaded = assembly.load_model(
        source,
        registry,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        backend=backend,
        tell=options.note,
    )
    for line in loaded.notes:
        options.note(line)
    ids = prompt_ids(text, loaded)
    asked = None if token is None else _one_token(token, loaded)
    last = tokens or position or 1
    request = Request(tuple(ids), chain, Stops(max_new_tokens=last), number)

    seen = _inspected(assembly.engine(loaded), request, asked)
    if len(seen) < last and tokens is None:
        reason = seen[-1].finish_reason if seen else None
        raise ConfigError(
            f"--position {last}: the answer ended after {len(seen)} tokens ({reason})",
            hint="take an earlier one, or another --seed",
        )
    shown = seen if tokens is not None else seen[-1:]
    _show_trace(loaded, number, shown, asked, as_json=as_json)
    if plot is not None:
        from gptkit.cli import plots, sampler_view

        plots.draw_trace(plot, shown, lambda i: sampler_view.token_text(loaded.tokenizer, i))


def _inspected(engine: Engine, request: Request, asked: int | None) -> list[Inspection]:
    from gptkit.decoding.inspection import inspect

    seen: list[Inspection] = []
    with display() as show:
        for one in inspect(engine, request, asked):
            seen.append(one)
            show("tracing", one.n, request.stops.max_new_tokens)
    return seen


def _show_trace(
    model: Model, seed: int, shown: list[Inspection], asked: int | None, *, as_json: bool
) -> None:
    from gptkit.cli import sampler_view as view

    if as_json:
        record = {
            "model": model.name,
            "seed": seed,
            "tokens": [view.trace_record(model.tokenizer, one, asked) for one in shown],
        }
        print(json.dumps(record, ensure_ascii=False, allow_nan=False))
        return
    for i, one in enumerate(shown):
        view.print_trace(model.tokenizer, one, asked, seed=seed, first=i == 0)


def _one_token(text: str, model: Model) -> int:
    """Return the id of a token by its text, or by the name of a control token."""
    from gptkit.cli.tokenize import piece
    from gptkit.text.prompting import encode_text

    if text in model.tokenizer.special:
        return model.tokenizer.special[text]
    ids = encode_text(text, model.tokenizer)
    if len(ids) != 1:
        pieces = ", ".join(repr(piece(model.tokenizer.token_bytes(i))) for i in ids)
        raise ConfigError(
            f"--token: {text!r} is {len(ids)} tokens" + (f": {pieces}" if ids else ""),
            hint="give the text of one; a space at its beginning counts",
        )
    return ids[0]


@app.command()
def compare(
    chains: Annotated[
        list[str],
        typer.Argument(metavar="CHAIN...", help="YAML files with a chain, or names of presets."),
    ],
    model: options.Model = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts to go on from, one a line. Default: 8 of ours."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help=f"Tokens for each prompt. Default: {N_TOKENS}."),
    ] = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    backend: options.Backend = "auto",
    tokenizer: options.Tokenizer = None,
    plot: Plot = None,
    as_json: options.Json = False,
) -> None:
    """Run chains on the same recorded logits of a model, and let each speak by itself."""
    from gptkit import assembly
    from gptkit.decoding.request import random_seed

    _check_plot(plot)
    number = options.parse_seed(seed) if seed is not None else random_seed()
    texts = _prompts(prompts)
    registry = options.load_registry()
    sources = _sources(chains, registry)
    source = assembly.open_model(model)
    loaded = assembly.load_model(
        source,
        registry,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        backend=backend,
        tell=options.note,
    )
    for line in loaded.notes:
        options.note(line)
    ids, n_tokens = _encoded(texts, loaded, tokens, where=str(prompts) if prompts else "--prompts")
    n_slots = 1 if loaded.backend == "numpy" else min(N_SLOTS, len(ids))
    engine = assembly.engine(loaded, n_slots=n_slots)
    with display() as show:
        walks, figures = _compare(engine, registry, ids, n_tokens, sources, number, show)

    from gptkit.cli import comparison_view as view

    if as_json:
        record = view.comparison_record(loaded.name, number, walks, figures)
        print(json.dumps(record, ensure_ascii=False, allow_nan=False))
    else:
        view.print_comparison(loaded.name, number, walks, figures)
    if plot is not None:
        from gptkit.cli import plots

        plots.draw_comparison(plot, figures)


def _compare(
    engine: Engine,
    registry: Registry,
    prompts: list[list[int]],
    n_tokens: int,
    sources: list[ChainSource],
    seed: int,
    show: Callable[[str, int, int], None],
) -> tuple[list[Walk], list[Figures]]:
    from gptkit.decoding import comparison
    from gptkit.decoding.request import resolve_chain

    (picker,) = resolve_chain((), registry)
    walks: list[Walk] = []
    figures: list[Figures] = []
    for step in comparison.record(engine, prompts, n_tokens, picker, seed):
        if isinstance(step, comparison.Progress):
            show(step.what, step.n_done, step.n_all)
        else:
            walks = step
    for one in sources:
        try:
            for event in comparison.compare(engine, walks, one, n_tokens):
                if isinstance(event, comparison.Progress):
                    show(event.what, event.n_done, event.n_all)
                else:
                    figures.append(event)
        except GptkitError as error:
            error.args = (f"{one.name}: {error}",)
            raise
    return walks, figures


def _sources(names: list[str], registry: Registry) -> list[ChainSource]:
    """Return the chains by short names, or by those that were typed where two are the same."""
    from gptkit.decoding.chain_source import from_name
    from gptkit.decoding.presets import PRESETS

    short = [name if name in PRESETS else Path(name).stem for name in names]
    return [
        replace(from_name(name, registry), name=stem if short.count(stem) == 1 else name)
        for name, stem in zip(names, short, strict=True)
    ]


def _prompts(path: Path | None) -> tuple[str, ...]:
    from gptkit.cli.text_argument import bounded_text
    from gptkit.decoding.comparison import PROMPTS

    if path is None:
        return PROMPTS
    try:
        with path.open("rb") as opened:
            lines = bounded_text(opened, "file of prompts").splitlines()
    except OSError as error:
        raise ConfigError(
            f"--prompts: {path}: {error.strerror}", hint="give a text file, one prompt a line"
        ) from error
    if found := tuple(line for line in lines if line.strip()):
        return found
    raise ConfigError(f"--prompts: {path} has no prompt", hint="write one a line")


def _encoded(
    texts: tuple[str, ...], model: Model, n_tokens: int | None, where: str
) -> tuple[list[list[int]], int]:
    """Return the prompts' ids, and how many tokens follow each; see that both fit."""
    from gptkit.decoding.comparison import check_size
    from gptkit.text.prompting import encode_text

    try:
        ids = [encode_text(text, model.tokenizer) for text in texts]
    except GptkitError as error:
        error.args = (f"{where}: {error}",)
        error.hint = error.hint or "give prompts that this model can read: --prompts FILE"
        raise
    longest = max(range(len(ids)), key=lambda i: len(ids[i]))
    room = model.config.block_size - len(ids[longest])
    if room < (n_tokens or 1):
        raise ConfigError(
            f"{where}: prompt {longest + 1} has {len(ids[longest]):,} tokens, and with "
            f"{n_tokens or 1:,} more it is above {model.config.block_size:,}, the model's context",
            hint=f"--tokens {room:,}, or shorter prompts" if room > 0 else "shorten it",
        )
    n_tokens = n_tokens or min(N_TOKENS, room)
    check_size(len(ids), n_tokens, model.config.vocab_size)
    return ids, n_tokens


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this one alone.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the presets: their chains in full, and where each differs from its engine."""
    from gptkit.cli import sampler_view as view
    from gptkit.decoding.presets import PRESETS, find_preset

    shown = list(PRESETS.values()) if name is None else [find_preset(name)]
    if as_json:
        print(json.dumps([view.preset_record(preset) for preset in shown], ensure_ascii=False))
        return
    view.print_presets(shown)


def _check_plot(path: Path | None) -> None:
    if path is not None:
        from gptkit.cli import plots

        plots.check(path)
