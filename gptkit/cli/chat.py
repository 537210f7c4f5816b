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
from gptkit.errors import ConfigError, Terminated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gptkit.assembly import Model
    from gptkit.chat.loading import Make
    from gptkit.chat.recorder import Recorder
    from gptkit.chat.session import Session
    from gptkit.chat.settings import ChosenTemplate
    from gptkit.chat.store import StoredConversation
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.decoding.engine import Engine
    from gptkit.plugin_host import Registry

PATIENCE_S = 0.3
PREFILL = 128
"""Prompt tokens of a step, so that Ctrl-C need not wait long for one: 0.15 s for 124M parameters on
two cores, for which the prompt takes a tenth longer."""
KEYS = ("emacs", "vi")

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
        str | None,
        typer.Option(metavar="TEXT", help="An instruction that stands before the talk."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A chat template; without it, the model's own."),
    ] = None,
    on_overflow: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="When the talk outgrows the context: drop_oldest, keep_system_and_examples, slide "
            "or error.",
        ),
    ] = "drop_oldest",
    continue_: Annotated[
        bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")
    ] = False,
    id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Go on with a conversation of the history."),
    ] = None,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Keep nothing of what is said.")
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    tokenizer: options.Tokenizer = None,
    raw_output: Annotated[
        bool, typer.Option("--raw-output", help="Do not filter control characters.")
    ] = False,
    keys: Annotated[
        str, typer.Option(metavar="NAME", help="How the line is edited: emacs or vi.")
    ] = "emacs",
    markdown: Annotated[
        bool, typer.Option(help="Show finished answers as Markdown where they are.")
    ] = False,
) -> None:
    """Talk to a model; with stdin not a terminal, answer each line of it."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    options.choice("--keys", keys, KEYS)

    def make(tell: Callable[[str], None]) -> Session:
        """Return the session; a wrong option is refused before torch is imported."""
        from gptkit import assembly
        from gptkit.chat.settings import ChatSettings
        from gptkit.decoding import chain_source

        registry = options.load_registry()
        recorder, stored = _history(continue_, id, no_history)
        model_name, instruction, template_name = model, system, template
        if stored is not None:
            model_name, instruction = model or stored.model, system or stored.system
            template_name = template or stored.template
        whole, items = chain_source.given(stages or (), preset, registry)
        settings = ChatSettings(
            registry,
            whole_chain=whole,
            items=items,
            shorthands=options.shorthands(temperature, top_k, top_p),
            stop=options.stop_block(stop=stop, stop_when=stop_when, max_new_tokens=max_new_tokens),
            seed=options.parse_seed(seed) if seed is not None else _seed(stored),
            system=instruction,
            on_overflow=on_overflow,
        )
        method = options.method(speculate, strategy, registry)
        options.note_source(whole, settings.chain)
        source = assembly.open_model(model_name)
        settings.fit(source.config)
        if source.sampling:
            settings.recommend(source.sampling)
        chosen = _template(template_name, source, registry)
        chosen.template.head(settings.system)  # it may have no place for one

        def load(source: Checkpoint) -> assembly.Model:
            return assembly.load_model(
                source, registry, tokenizer=tokenizer, device=device, dtype=dtype, backend=backend
            )

        def other(name: str) -> tuple[assembly.Model, Engine]:
            another = load(assembly.open_model(name))
            return another, _engine(another)

        tell(f"loading {source.path.name}")
        loaded = load(source)
        from gptkit.chat.session import Session

        session = Session(
            _engine(loaded, n_slots=method.width),
            loaded,
            settings,
            chosen,
            model_name=_job_name(model_name, source.path.name),
            method=method,
            draft=assembly.draft(method, loaded, registry),
            load=other,
            listener=recorder,
        )
        if recorder is not None and stored is not None:
            _resume(session, recorder, stored)
        if is_terminal:
            import gptkit.chat.view  # noqa: F401  # in this thread, not when the prompt waits
        return session

    if is_terminal:
        history = _input_history if _keeps(no_history) else _nowhere
        _terminal(make, keys, history, markdown=markdown, raw_output=raw_output)
    else:
        with _loading() as tell:
            session = make(tell)
        _pipe(session, raw_output)


def _engine(model: Model, *, n_slots: int = 1) -> Engine:
    from gptkit import assembly

    engine = assembly.engine(model, n_slots=n_slots)
    engine.prefill = PREFILL
    return engine


def _terminal(
    make: Make, keys: str, history: Callable[[], Path | None], *, markdown: bool, raw_output: bool
) -> None:
    """Talk in a terminal. Only what the prompt needs is imported here."""
    from gptkit.chat.keyboard import Keyboard

    keyboard = Keyboard()
    terminal = None
    try:
        with keyboard.waiting():
            from gptkit.chat.terminal import Terminal

            terminal = Terminal(
                make, history, keyboard, keys=keys, markdown=markdown, raw_output=raw_output
            )
            terminal.run()
    finally:
        if terminal is not None and terminal.loading.is_running:
            # Half-loaded libraries don't survive the end of the interpreter; nothing was said yet.
            error = sys.exc_info()[1]
            sys.stdout.flush()
            os._exit(143 if isinstance(error, Terminated) else int(error is not None))


def _input_history() -> Path:
    from gptkit.config import home

    return home() / "chat_history"


def _nowhere() -> None:
    return None


def _keeps(no_history: bool) -> bool:
    """Return whether what is said, and what is typed, may be kept."""
    return not no_history and os.environ.get("GPTKIT_HISTORY") != "off"


def _history(
    continue_: bool, id: str | None, no_history: bool
) -> tuple[Recorder | None, StoredConversation | None]:
    """Return who keeps what is said, and the conversation to go on with."""
    from gptkit.chat.recorder import Recorder
    from gptkit.cli.history import open_store
    from gptkit.config import home

    if not _keeps(no_history):
        if continue_ or id is not None:
            raise ConfigError("without a history there is nothing to go on with")
        return None, None
    is_first = not (home() / "history.db").exists()
    store = open_store()
    if is_first and sys.stdin.isatty():
        options.note(f"what is said is kept in {store.path}; --no-history keeps nothing")
    if id is None and continue_:
        id = store.latest()
        if id is None:
            raise ConfigError("there is no conversation to go on with", hint="leave out -c")
    return Recorder(store), store.load(id) if id is not None else None


def _seed(stored: StoredConversation | None) -> int | None:
    """Return the seed of a conversation, so that it goes on as it would have."""
    return stored.settings.get("seed") if stored is not None else None


def _resume(session: Session, recorder: Recorder, stored: StoredConversation) -> None:
    from gptkit.chat.recorder import restored

    conversation = restored(stored)
    session.open(conversation)
    recorder.follow(stored.id, conversation)
    n = len(conversation.path())
    options.note(f"conversation {stored.id} goes on after {n:,} turns; /tree shows them")


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
def _loading() -> Iterator[Callable[[str], None]]:
    """Say on a terminal what is being waited for, while it is, if that can be noticed."""
    from gptkit.text.safe import safe

    erase = "\n" if os.environ.get("TERM") == "dumb" else "\r\x1b[2K"
    doing, said = ["starting"], threading.Event()

    def say() -> None:
        said.set()
        print(f"{safe(doing[-1])} ...", end="", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE_S, say)
    if sys.stderr.isatty():
        timer.start()
    try:
        yield doing.append
    finally:
        timer.cancel()
        if timer.is_alive():
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
