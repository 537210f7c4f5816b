"""`gptkit chat`: talk to a model."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptkit.cli import options
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.chat.session import Session
    from gptkit.chat.settings import ChosenTemplate
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.plugin_host import Registry

PATIENCE_S = 0.3

DEFAULT_TEMPLATE = "dialogue"
"""Plain text, for a model whose folder names no chat template."""


def chat(
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
    system: Annotated[
        str | None, typer.Option(help="An instruction that stands before the talk.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="A chat template; without it, the model's own.")
    ] = None,
    on_overflow: Annotated[
        str, typer.Option(help="When the talk outgrows the context: drop_oldest or error.")
    ] = "drop_oldest",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    backend: options.Backend = "auto",
    tokenizer: options.Tokenizer = None,
    raw_output: Annotated[
        bool, typer.Option("--raw-output", help="Do not filter control characters.")
    ] = False,
) -> None:
    """Talk to a model; with stdin not a terminal, answer each line of it."""
    from gptkit import assembly
    from gptkit.chat.settings import ChatSettings
    from gptkit.decoding import chain_source

    registry = options.load_registry()
    whole, items = chain_source.given(stages or (), preset, registry)
    settings = ChatSettings(
        registry,
        whole_chain=whole,
        items=items,
        shorthands=options.shorthands(temperature, top_k, top_p),
        stop=options.stop_block(stop=stop, stop_when=stop_when, max_new_tokens=max_new_tokens),
        seed=options.parse_seed(seed) if seed is not None else None,
        system=system,
        on_overflow=on_overflow,
    )
    method = options.method(speculate, strategy, registry)
    options.note_source(whole, settings.chain)
    source = assembly.open_model(model)
    settings.fit(source.config)
    if source.sampling:
        settings.recommend(source.sampling)
    chosen = _template(template, source, registry)
    chosen.template.head(settings.system)  # it may have no place for one
    with _loading(source.path.name):
        loaded = assembly.load_model(
            source, registry, tokenizer=tokenizer, device=device, dtype=dtype, backend=backend
        )
        from gptkit.chat.session import Session

        engine = assembly.engine(loaded, n_slots=method.width)
        draft = assembly.draft(method, loaded, registry)
    session = Session(
        engine,
        loaded,
        settings,
        chosen,
        model_name=_job_name(model, source.path.name),
        method=method,
        draft=draft,
    )
    if sys.stdin.isatty() and sys.stdout.isatty():
        from gptkit.chat.terminal import Terminal
        from gptkit.config import home

        Terminal(session, home() / "chat_history", raw_output=raw_output).run()
    else:
        _pipe(session, raw_output)


def _template(name: str | None, source: Checkpoint, registry: Registry) -> ChosenTemplate:
    """Return the chat template: the one that was named, the model's own, or plain text."""
    from gptkit import assembly
    from gptkit.chat.settings import COMMAND_LINE, DEFAULT, MODEL, ChosenTemplate
    from gptkit.plugin_api import ChatTemplate

    if name is not None:
        chosen, whence = name, COMMAND_LINE
    elif source.chat_template is not None:
        chosen, whence = source.chat_template, MODEL
    else:
        chosen, whence = DEFAULT_TEMPLATE, DEFAULT
    template = assembly.template(chosen, registry)
    if not isinstance(template, ChatTemplate):
        raise ConfigError(
            f"template '{chosen}' is no chat template", hint=f"such as {DEFAULT_TEMPLATE}"
        )
    return ChosenTemplate(template, chosen, whence)


def _job_name(name: str | None, default: str) -> str:
    """Return what a job would call the model: a path from anywhere, else the name."""
    if name is None:
        return default
    return str(Path(name).resolve()) if Path(name).exists() else name


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Say on a terminal what is being waited for, while it is, if that can be noticed."""
    from gptkit.text.safe import safe

    if not sys.stderr.isatty():
        yield
        return
    erase = "\n" if os.environ.get("TERM") == "dumb" else "\r\x1b[2K"
    said = threading.Event()

    def say() -> None:
        said.set()
        print(f"loading {safe(name)} ...", end="", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE_S, say)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if said.is_set():
            print(end=erase, file=sys.stderr, flush=True)


def _pipe(session: Session, raw_output: bool) -> None:
    from gptkit.chat.pipe import Pipe
    from gptkit.text.safe import safe

    shown = safe if sys.stdout.isatty() and not raw_output else str
    code = Pipe(session, sys.stdout, options.say, shown).run(sys.stdin.buffer)
    if code:
        raise typer.Exit(code)
