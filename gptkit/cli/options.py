"""Options that several commands share, declared once, and what is said on stderr."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.decoding.chain_source import ChainSource
    from gptkit.decoding.method import Method
    from gptkit.decoding.request import Chain
    from gptkit.plugin_host import Loaded, Registry


def say(text: str) -> None:
    """Print one safe line on stderr; a closed stderr is not worth an error."""
    from gptkit.text.safe import safe_line

    try:
        print(safe_line(text), file=sys.stderr, flush=True)
    except OSError:
        pass


def note(text: str) -> None:
    """Tell the user something that is no error."""
    say(f"note: {text}")


def parse_seed(text: str) -> int:
    """Return the seed, a whole number from 0 to 2**63 - 1."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise ConfigError(
            f"--seed must be a whole number in [0, 2^63-1], got {text!r}",
            hint="leave it out to have one drawn",
        )
    return int(text)


MODEL = "Model"
SAMPLING = "Sampling"
STOPPING = "Stopping"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A path, a bundled name, or a folder in $GPTKIT_HOME/models. Default: mini.",
        rich_help_panel=MODEL,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:PATH]",
        help="NAME or NAME:PATH, instead of the model's own tokenizer.",
        rich_help_panel=MODEL,
    ),
]


def _use_threads(n: int | None) -> int | None:
    """Have torch take n threads: it asks the environment when it is imported, after this."""
    if n is not None:
        most = os.cpu_count() or n
        if n > most:
            raise typer.BadParameter(f"{n:,} is more than the {most:,} processors of this machine.")
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
    return n


Device = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, cuda or mps.", rich_help_panel=MODEL)
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto, float32, bfloat16, float16, int8 or int4.",
        rich_help_panel=MODEL,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto, torch, cpu (numba), or numpy (slow, to check by).",
        rich_help_panel=MODEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Threads of a CPU. Default: OMP_NUM_THREADS, or the processors it may use.",
        callback=_use_threads,
        rich_help_panel=MODEL,
    ),
]
Stages = Annotated[
    list[str] | None,
    typer.Option(
        "--sampler",
        "-s",
        metavar="NAME[=VALUE]",
        help="A stage of the sampler chain, in order; repeat it. NAME:KEY=VALUE,... sets several "
        "parameters, @FILE.yaml takes the chain of a file. See gptkit plugins list.",
        rich_help_panel=SAMPLING,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Another engine's chain, for -s to change: hf, llama.cpp, vllm, openai, nanogpt.",
        rich_help_panel=SAMPLING,
    ),
]
Speculate = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[=VALUE]",
        help="Who guesses ahead, for speed alone: prompt_lookup, or model:model=NAME.",
        rich_help_panel=SAMPLING,
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[=VALUE]",
        help="A loop of its own: beam, contrastive, cfg. See gptkit plugins list.",
        rich_help_panel=SAMPLING,
    ),
]
Temperature = Annotated[
    str | None,
    typer.Option(metavar="T", help="Short for -s temperature=T.", rich_help_panel=SAMPLING),
]
TopK = Annotated[
    str | None, typer.Option(metavar="K", help="Short for -s top_k=K.", rich_help_panel=SAMPLING)
]
TopP = Annotated[
    str | None, typer.Option(metavar="P", help="Short for -s top_p=P.", rich_help_panel=SAMPLING)
]
Seed = Annotated[
    str | None,
    typer.Option(
        metavar="SEED",
        help="Same seed, same text. Without it one is drawn.",
        rich_help_panel=SAMPLING,
    ),
]
MaxNewTokens = Annotated[
    str | None,
    typer.Option(metavar="N", help="Tokens to write at most.", rich_help_panel=STOPPING),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="End before this text; repeat it.", rich_help_panel=STOPPING),
]
StopWhen = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=VALUE]",
        help="End by a stopping criterion; repeat it. See gptkit plugins list.",
        rich_help_panel=STOPPING,
    ),
]
OnOverflow = Annotated[
    str,
    typer.Option(
        metavar="POLICY",
        help="When the prompt does not fit: error, truncate_left or truncate_right.",
        rich_help_panel=STOPPING,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="PATH", help="Where the result goes.")
]


def load_registry() -> Registry:
    """Load what is installed, for a command that uses it, and tell of what failed, in one line."""
    from gptkit.plugin_host import registry

    found = registry()
    refuse_failed(found)
    if found.failed:
        first, *others = found.failed
        more = f"; {len(others)} more failed" if others else ""
        note(f"plugin {_failure(first)}{more} (see gptkit plugins doctor)")
    return found


def refuse_failed(found: Registry) -> None:
    """Raise ConfigError for a plugin that failed where GPTKIT_STRICT_PLUGINS=1 asks for it."""
    if found.failed and os.environ.get("GPTKIT_STRICT_PLUGINS") == "1":
        raise ConfigError(
            f"GPTKIT_STRICT_PLUGINS: plugin {_failure(found.failed[0])}",
            hint="see gptkit plugins doctor",
        )


def _failure(plugin: Loaded) -> str:
    return f"'{plugin.source.owner}' failed to load: {plugin.reason}"


def shorthands(temperature: str | None, top_k: str | None, top_p: str | None) -> dict[str, str]:
    """Return the values of --temperature, --top-k and --top-p that were given."""
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    return {name: value for name, value in given.items() if value is not None}


def method(speculate: str | None, strategy: str | None, registry: Registry) -> Method:
    """Return the drafter or the strategy that the options name."""
    from gptkit.decoding.method import resolve_method
    from gptkit.decoding.request import parse_stage

    guess = parse_stage(speculate) if speculate is not None else None
    loop = parse_stage(strategy) if strategy is not None else None
    return resolve_method(guess, loop, registry)


def note_source(source: ChainSource | None, chain: Chain) -> None:
    """Tell what a preset or a file comes to, once it is changed by -s."""
    if source is not None:
        note(source.said_of(chain))


def given_chain(
    stages: list[str] | None, preset: str | None, short: dict[str, str], registry: Registry
) -> Chain | None:
    """Return the chain that the options name, or None where they name none."""
    from gptkit.decoding import chain_source
    from gptkit.decoding.request import resolve_chain

    whole, items = chain_source.given(stages or (), preset, registry)
    base = whole.chain if whole else None
    chain = resolve_chain(items, registry, base=base, shorthands=short)
    note_source(whole, chain)
    return chain if whole or items or short else None


def default_chain(source: Checkpoint, registry: Registry) -> Chain:
    """Return the chain that a model recommends, and say so; without one plain sampling."""
    from gptkit.decoding.request import resolve_chain

    chain = resolve_chain(source.sampling or (), registry)
    if source.sampling:
        note(f"sampling as {source.path.name} recommends: {' '.join(map(str, chain))}")
    return chain


def stop_block(
    base: dict[str, Any] | None = None,
    *,
    stop: list[str] | None,
    stop_when: list[str] | None = None,
    max_new_tokens: str | None,
) -> dict[str, Any]:
    """Return a `stop` block: `base` with what the options say on top."""
    from gptkit.decoding.request import add_stop, parse_stage, typed

    block = dict(base or {})
    if max_new_tokens is not None:
        block["max_new_tokens"] = typed(max_new_tokens)
    if stop is not None:
        if "" in stop:
            raise ConfigError("--stop must not be empty", hint="leave it out to have none")
        block = add_stop(block, "strings", stop)
    for text in stop_when or ():
        item = parse_stage(text)
        block.update({item: None} if isinstance(item, str) else item)
    return block


def choice(option: str, value: str, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of `known`, else raise ConfigError naming the option."""
    if value not in known:
        raise ConfigError(
            f"{option}: '{value}' is none of {', '.join(known)}",
            hint=did_you_mean(value, known) or f"without it: {known[0]}",
        )
    return value
