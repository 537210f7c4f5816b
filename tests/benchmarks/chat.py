"""A long talk on the 124M shape: the time to the first token, at the start and after 30 turns."""

from __future__ import annotations

import time
from statistics import median

from rich.table import Table

from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Request, Stops, resolve_chain
from gptkit.model.config import NAMED_SIZES
from gptkit.model.gpt import GPT
from gptkit.plugin_host import registry
from tests.benchmarks.forwards import WideTokenizer, forwards

TURNS, MESSAGE, ANSWER, ROUNDS = 30, 16, 16, 3
SHOWN = (1, 10, 20, TURNS)


def table() -> Table:
    """Return medians over rounds; a turn computes its own tokens alone, whatever came before."""
    config = NAMED_SIZES["gpt2"]
    weights = GPT(config).init_weights(0).state_dict()
    chain = resolve_chain([{"temperature": 0.8}, {"top_p": 0.95}], registry())
    out = Table(
        f"chat, 124M shape: first token, messages of {MESSAGE} tokens",
        *(f"turn {n}" for n in SHOWN),
        "ratio",
        title_justify="left",
    )
    made = forwards(config, weights, of_torch=("float32",), of_cpu=("float32", "bfloat16", "int8"))
    for name, forward in made.items():
        model = forward()
        _talk(model, chain)  # the first turns of all are slow
        seconds = [_talk(model, chain) for _ in range(ROUNDS)]
        shown = [median(one[n - 1] for one in seconds) for n in SHOWN]
        out.add_row(
            name,
            *(f"{one * 1e3:.0f} ms" for one in shown),
            f"{shown[-1] / shown[0]:.2f}",
        )
    return out


def _talk(model: GPT, chain) -> list[float]:
    engine = Engine(model, WideTokenizer())
    ids: list[int] = []
    out = []
    for turn in range(TURNS):
        ids += range(1000 + turn * MESSAGE, 1000 + (turn + 1) * MESSAGE)
        start = time.perf_counter()
        first = 0.0
        for event in engine.stream(Request(tuple(ids), chain, Stops(ANSWER), turn)):
            first = first or time.perf_counter() - start
            ids.append(event.token_id)
        out.append(first)
    return out
