"""`gptkit train CONFIG.yaml`: train a model and watch it learn."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptkit.cli import options
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gptkit.decoding.request import Chain
    from gptkit.model.gpt import GPT
    from gptkit.plugin_api import Tokenizer
    from gptkit.plugin_host import Registry
    from gptkit.training.plan import Plan
    from gptkit.training.recipe import Recipe


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="CONFIG.yaml", help="A recipe, or the name of a bundled one.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="The folder of the checkpoint, instead of the recipe's."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the recipe; repeat it."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or mps.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the checkpoint in the output.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train a model as a recipe says; Ctrl-C saves it, --resume goes on."""
    from gptkit.cli.training_view import view
    from gptkit.training.recipe import read_recipe

    given = [*(assignments or ()), *([f"training.device={device}"] if device else [])]
    read = read_recipe(recipe, given, output=output)
    registry = options.load_registry()
    chain = _check_names(read, registry)

    from gptkit.training.plan import check_output, prepare

    check_output(read.output, resume=resume)

    from gptkit.training.loop import train as run

    if sys.stderr.isatty():
        options.note("reading the corpus ...")
    plan = prepare(read, registry, resume=resume)
    stopped: list[int] = []
    sample = _speaker(plan, chain, registry)
    with view(as_json=as_json) as show, _signals(stopped):
        for event in run(plan, goes_on=resume, sample=sample, stop=lambda: bool(stopped)):
            show(event)
    if stopped:
        options.say("stopped and saved; the same command with --resume goes on")
        raise typer.Exit(128 + stopped[0])


@contextlib.contextmanager
def _signals(stopped: list[int]) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM ask for an end; the second is as anywhere."""

    def ask(signum: int, frame: object) -> None:
        stopped.append(signum)
        signal.signal(signum, before[signal.Signals(signum)])
        options.say("stopping after this step; again to stop at once")

    before = {signum: signal.signal(signum, ask) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _check_names(recipe: Recipe, registry: Registry) -> Chain:
    """Refuse unknown samplers and templates before any work; return the chain of samples."""
    from gptkit.decoding.request import resolve_chain

    output = recipe.settings.output
    resolve_chain(output.sampling or (), registry)
    if output.chat_template is not None:
        registry.find("template", output.chat_template)
    return resolve_chain(recipe.settings.sample.chain, registry)


def _speaker(plan: Plan, chain: Chain, registry: Registry) -> Callable[[GPT, Tokenizer], list[str]]:
    """Return what asks a model to go on from each prompt; a chat model is asked as in a chat."""
    from gptkit import assembly
    from gptkit.decoding.engine import Engine
    from gptkit.decoding.request import Request, resolve_stops
    from gptkit.plugin_api import ChatTemplate, Segment
    from gptkit.text.prompting import encode

    settings, chat = plan.recipe.settings.sample, plan.recipe.settings.output.chat_template
    block = {"max_new_tokens": settings.max_new_tokens}
    template = assembly.template(chat, registry) if chat else None
    if template is not None:
        block = assembly.with_template_stops(block, template, plan.tokenizer)
    stops = resolve_stops(block, registry)

    def ids(prompt: str) -> list[int]:
        segments: tuple[Segment, ...] = (Segment(prompt),)
        if isinstance(template, ChatTemplate) and prompt:
            segments = (*template.head(None), *template.turn("user", prompt), *template.reply())
        return encode(segments, plan.tokenizer) or [plan.bos_id or 0]

    prompts = {prompt: ids(prompt) for prompt in settings.prompts}
    for prompt, tokens in prompts.items():
        if len(tokens) >= plan.config.block_size:
            raise ConfigError(
                f"{plan.recipe.document.where(('sample', 'prompts'))}: {prompt!r} has "
                f"{len(tokens):,} tokens, the model's context is {plan.config.block_size:,}"
            )

    def sample(model: GPT, tokenizer: Tokenizer) -> list[str]:
        engine = Engine(model, tokenizer, frozenset(plan.eos_ids))
        texts = []
        for prompt, tokens in prompts.items():
            request = Request(tuple(tokens), chain, stops, plan.recipe.settings.training.seed)
            said = "".join(event.text for event in engine.stream(request))
            texts.append(f"{prompt}\n{said}" if template else prompt + said)
        return texts

    return sample
