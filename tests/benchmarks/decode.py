"""Tokens per second of the 124M shape against transformers' `generate`, on the same weights."""

from __future__ import annotations

import time
from statistics import median

import torch
from rich.table import Table

from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Request, Stops, resolve_chain
from gptkit.model.config import NAMED_SIZES
from gptkit.model.gpt import GPT
from gptkit.plugin_host import registry
from tests.fakes import ByteTokenizer
from tests.model.test_gpt import hugging_face

PROMPT, NEW, ROUNDS = 64, 64, 3


class WideTokenizer(ByteTokenizer):
    """As many ids as GPT-2 has; what they say does not matter here."""

    vocab_size = 50257

    def token_bytes(self, token_id):
        return b"x"


def table() -> Table:
    """Return totals over all sequences, alternating, median of the rounds' ratios."""
    out = Table(
        "decode, 124M shape, fp32",
        "gptkit tok/s",
        "with a chain",
        "transformers tok/s",
        "ratio",
        "first token: gptkit",
        "transformers",
        title_justify="left",
    )
    found = registry()
    greedy = resolve_chain(["greedy"], found)
    chain = resolve_chain([{"temperature": 0.8}, {"top_k": 40}, {"top_p": 0.95}], found)
    config = NAMED_SIZES["gpt2"]
    model = GPT.from_tensors(config, GPT(config).init_weights(0).state_dict())
    theirs = hugging_face(model)
    for n in (1, 4, 16):
        rounds = [
            (_ours(model, n, greedy), _theirs(theirs, n), _ours(model, n, chain))
            for _ in range(ROUNDS)
        ]
        a, b, c = ([one[i] for one in rounds] for i in range(3))
        ratio = median(x[0] / y[0] for x, y in zip(a, b, strict=True))
        out.add_row(
            f"{n} sequence{'s' * (n > 1)}",
            *(f"{median(x[0] for x in side):.1f}" for side in (a, c, b)),
            f"{ratio:.2f}",
            *(f"{median(x[1] for x in side):.3f} s" for side in (a, b)),
        )
    return out


def _prompts(n: int) -> list[list[int]]:
    return [list(range(100 + i, 100 + i + PROMPT)) for i in range(n)]


def _ours(model: GPT, n: int, chain) -> tuple[float, float]:
    """Return the rate while all sequences decode, and when the first token was there."""
    engine = Engine(model, WideTokenizer(), n_slots=n)
    stops = Stops(max_new_tokens=NEW + n)  # one prompt is prefilled in each step
    start = time.perf_counter()
    for i, prompt in enumerate(_prompts(n)):
        engine.add(Request(tuple(prompt), chain, stops, seed=i))
    first = 0.0
    while len(engine.running) < n:
        engine.step()
        first = first or time.perf_counter() - start
    start = time.perf_counter()
    n_tokens = sum(len(engine.step()) for _ in range(NEW))
    return n_tokens / (time.perf_counter() - start), first


def _theirs(model, n: int) -> tuple[float, float]:
    ids = torch.tensor(_prompts(n))
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def seconds(new: int) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            model.generate(ids, max_new_tokens=new, min_new_tokens=new, **options)
        return time.perf_counter() - start

    first = seconds(1)
    return n * NEW / (seconds(NEW + 1) - first), first
