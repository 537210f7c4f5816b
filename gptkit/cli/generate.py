"""`gptkit generate PROMPT`: continue a text."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptkit.cli import options
from gptkit.cli.text_argument import bounded_text, piped_or_nothing, prompt_ids, read_text
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.assembly import Model
    from gptkit.decoding.engine import Engine
    from gptkit.decoding.request import Event, Request


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="Text to continue. - is stdin, as is a pipe without PROMPT; '' starts from "
            "nothing.",
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the prompt from a file instead.")
    ] = None,
    model: options.Model = None,
    stages: options.Stages = None,
    preset: options.Preset = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    max_new_tokens: options.MaxNewTokens = None,
    stop: options.Stop = None,
    stop_when: options.StopWhen = None,
    on_overflow: options.OnOverflow = "error",
    samples: Annotated[
        int,
        typer.Option(
            "--samples", "-n", metavar="N", min=1, max=1024, help="How many texts to write."
        ),
    ] = 1,
    speculate: options.Speculate = None,
    strategy: options.Strategy = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=100, help="With --json: log-probabilities, and of N others."
        ),
    ] = None,
    logprobs_of: Annotated[
        str, typer.Option(metavar="WHICH", help="raw, before the chain, or final, after it.")
    ] = "raw",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    tokenizer: options.Tokenizer = None,
    raw_output: Annotated[
        bool, typer.Option("--raw-output", help="Do not filter control characters.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Continue PROMPT and print what follows it."""
    from gptkit import assembly
    from gptkit.decoding.request import (
        MAX_NEW_TOKENS,
        is_greedy,
        random_seed,
        resolve_stops,
    )
    from gptkit.text.prompting import OVERFLOW, fit

    options.choice("--on-overflow", on_overflow, OVERFLOW)
    text = _prompt_text(prompt, prompt_file)
    registry = options.load_registry()
    number = options.parse_seed(seed) if seed is not None else random_seed()
    shorthands = options.shorthands(temperature, top_k, top_p)
    method = options.method(speculate, strategy, registry)
    options.choice("--logprobs-of", logprobs_of, ("raw", "final"))
    chain = options.given_chain(stages, preset, shorthands, registry)
    block = options.stop_block(stop=stop, stop_when=stop_when, max_new_tokens=max_new_tokens)
    resolve_stops(block, registry)  # before a model is looked for
    source = assembly.open_model(model)
    length = min(MAX_NEW_TOKENS, source.config.block_size)
    stops = resolve_stops(block, registry, max_new_tokens=length)
    chain = chain or options.default_chain(source, registry)
    assembly.check_stops(stops, source.config, "--max-new-tokens")
    if seed is not None and is_greedy(chain):
        options.note("the seed has no effect: this chain always takes the best token")
    started = time.perf_counter()
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
    room = loaded.config.block_size - (1 if stops.max_new_tokens else 0)
    ids = fit(ids, room, on_overflow, context=loaded.config.block_size, new=stops.max_new_tokens)
    draft = assembly.draft(method, loaded, registry, n_slots=samples)
    requests = assembly.samples(
        tuple(ids),
        samples,
        chain=chain,
        stops=stops,
        seed=number,
        logprobs=logprobs,
        logprobs_of=logprobs_of,
        draft=draft,
        strategy=method.strategy,
    )
    engine = assembly.engine(loaded, n_slots=samples * method.width)
    load_s = time.perf_counter() - started
    if as_json:
        out = _object(loaded, engine, requests, load_s)
        print(json.dumps(out, ensure_ascii=False, allow_nan=False))
        return
    _print(engine, requests, safe_output=sys.stdout.isatty() and not raw_output)
    if seed is None and not is_greedy(chain):
        options.note(f"seed {number}")


def _prompt_text(prompt: str | None, file: Path | None) -> str:
    if file is None:
        return read_text(piped_or_nothing() if prompt is None else prompt, "prompt")
    if prompt:
        raise ConfigError("--prompt-file: a prompt is given as well", hint="give one of them")
    try:
        with file.open("rb") as opened:
            return bounded_text(opened, "prompt")
    except OSError as error:
        raise ConfigError(
            f"--prompt-file: {file}: {error.strerror}", hint="give a text file, or - for stdin"
        ) from error


def _events(engine: Engine, requests: list[Request]) -> Iterator[tuple[int, Event]]:
    """Yield what comes of the requests, each event with the number of its request."""
    numbers = {engine.add(request): number for number, request in enumerate(requests)}
    while engine.busy:
        for id, event in engine.step():
            if event.error is not None:
                raise event.error
            yield numbers[id], event


def _print(engine: Engine, requests: list[Request], *, safe_output: bool) -> None:
    """Print texts in order, the first that is not complete as it comes."""
    from gptkit.text.safe import safe

    waiting: list[list[str]] = [[] for _ in requests]
    done = [False] * len(requests)
    current, written = 0, False
    try:
        for number, event in _events(engine, requests):
            waiting[number].append(event.text)
            done[number] = event.finish_reason is not None
            while current < len(requests) and waiting[current]:
                text = "".join(waiting[current])
                waiting[current].clear()
                written = written or bool(text)  # said first: a signal may come at any point
                sys.stdout.write(safe(text) if safe_output else text)
                if done[current]:
                    current += 1
                    if current < len(requests):
                        sys.stdout.write("\n\n")
                sys.stdout.flush()
    finally:
        if sys.stdout.isatty() if all(done) else written:
            sys.stdout.write("\n")


def _object(model: Model, engine: Engine, requests: list[Request], load_s: float) -> dict[str, Any]:
    """Return what --json prints: one text, or with several a list of them."""
    start = time.perf_counter()
    first = 0.0
    events: list[list[Event]] = [[] for _ in requests]
    for number, event in _events(engine, requests):
        first = first or time.perf_counter() - start
        events[number].append(event)
    seconds = time.perf_counter() - start
    texts = [_text(*pair) for pair in zip(requests, events, strict=True)]
    n_new = sum(text["new_tokens"] for text in texts)
    return {
        **(texts[0] if len(texts) == 1 else {"samples": texts}),
        "model": model.name,
        "chain": [str(stage) for stage in requests[0].chain],
        "timing": {
            "load_s": round(load_s, 4),
            "first_token_s": round(first, 4),
            "total_s": round(seconds, 4),
            "tok_per_s": round(n_new / seconds, 2) if n_new else 0.0,
        },
    }


def _text(request: Request, events: list[Event]) -> dict[str, Any]:
    """Return what is said of one text."""
    chosen = [event for event in events if event.token_id is not None]
    out: dict[str, Any] = {
        "text": "".join(event.text for event in events),
        "token_ids": [event.token_id for event in chosen],
        "prompt_tokens": len(request.prompt_ids),
        "reused_tokens": events[-1].n_reused,
        "new_tokens": len(chosen),
        "finish_reason": events[-1].finish_reason,
        "seed": request.seed,
    }
    if request.draft is not None:
        out["drafted_tokens"] = events[-1].n_drafted
        out["accepted_tokens"] = events[-1].n_accepted
    if request.logprobs is not None:
        out["logprobs"] = [
            {
                "token_id": event.token_id,
                "logprob": event.logprob,
                "top": [[a.token_id, _finite(a.logprob)] for a in event.alternatives],
            }
            for event in chosen
        ]
    return out


def _finite(value: float) -> float | None:
    return value if value > float("-inf") else None
