"""The engine on the 124M shape: what speculation and a shared prefix save, and what it costs."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from statistics import median

import torch
from rich.table import Table

from gptkit.assembly import load_model, open_model
from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Draft, Request, Stage, Stops, resolve_chain
from gptkit.model.config import NAMED_SIZES, GPTConfig
from gptkit.model.gpt import GPT
from gptkit.plugin_api import Sampler, param
from gptkit.plugin_host import registry
from gptkit_plugins.drafters import PromptLookup
from tests.benchmarks.forwards import Timed, WideTokenizer, forwards

ROUNDS = 3


class Replay(Sampler):
    """Pick a written text token by token, since random weights don't copy."""

    name = "replay"
    phase = "pick"
    script = param((), items=int, help="what is picked")

    def apply(self, logits, p, rows):
        picks = [p.script[row][int(n)] for row, n in enumerate(rows.n_out.tolist())]
        return torch.tensor(picks)


def table() -> Table:
    """Return the figures of three rounds, their medians."""
    config = NAMED_SIZES["gpt2"]
    weights = GPT(config).init_weights(0).state_dict()
    model = GPT.from_tensors(config, weights)
    out = Table(
        "engine, 124M shape, fp32 where nothing is said",
        "without",
        "with",
        "ratio",
        "remark",
        title_justify="left",
    )
    _speculation(model, out)
    _trunk(model, out, "")
    _trunk(GPT.from_tensors(config, weights, dtype=torch.bfloat16), out, ", bf16")
    _own_cost(config, weights, out)
    return out


def _articles() -> list[tuple[list[int], list[int]]]:
    """Return the tokens of texts, and of summaries that quote most of their sentences."""
    found = registry()
    tokenizer = load_model(open_model("mini"), found).tokenizer
    lines = (files("gptkit_prompts") / "data" / "articles.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    out = []
    for i in range(0, len(texts), 4):
        said = [s.strip() for text in texts[i : i + 4] for s in text.split(". ")]
        summary = " ".join(f"It says that {s}. And:" for s in said[::2])
        source = " ".join(texts[i : i + 4]) + "\nSummary:"
        out.append((tokenizer.encode_ordinary(source), tokenizer.encode_ordinary(" " + summary)))
    return out


def _speculation(model: GPT, out: Table) -> None:
    values = {"k": 8, "max_ngram": 3, "min_ngram": 1}
    draft = Draft(PromptLookup, 8, values)
    rates: dict[bool, list[float]] = {False: [], True: []}
    accepted = drafted = 0
    for _ in range(ROUNDS):
        for use in (False, True):
            n_tokens = seconds = 0.0
            for source, summary in _articles():
                chain = (Stage("replay", Replay, {"script": tuple(summary)}),)
                request = Request(
                    tuple(source), chain, Stops(len(summary)), 0, draft=draft if use else None
                )
                engine = Engine(model, WideTokenizer())
                engine.add(request)
                engine.step()  # the prompt, and the first token
                start = time.perf_counter()
                events = [
                    event for _ in iter(lambda e=engine: e.busy, False) for event in _step(engine)
                ]
                seconds += time.perf_counter() - start
                n_tokens += len(events)
                if use:
                    accepted += events[-1].n_accepted
                    drafted += events[-1].n_drafted
                assert [event.token_id for event in events] == summary[-len(events) :]
            rates[use].append(n_tokens / seconds)
    ratio = median(b / a for a, b in zip(rates[False], rates[True], strict=True))
    out.add_row(
        "prompt lookup, summaries that quote: tok/s",
        f"{median(rates[False]):.1f}",
        f"{median(rates[True]):.1f}",
        f"{ratio:.2f}",
        f"{accepted / drafted:.0%} of the guesses right",
    )


def _step(engine: Engine) -> list:
    return [event for _, event in engine.step()]


def _trunk(model: GPT, out: Table, name: str) -> None:
    """64 rows with 400 tokens in common and 20 to 60 of their own."""
    greedy = resolve_chain(["greedy"], registry())
    common = list(range(1000, 1400))
    times: dict[int, list[float]] = {0: [], 400: []}
    computed = {}
    for _ in range(ROUNDS):
        for shared in times:
            engine = Engine(model, WideTokenizer(), n_slots=64)
            if not shared:  # once, to be copied, or the comparison would take minutes to begin
                list(engine.stream(Request((*common, 1), greedy, Stops(1), 0)))
            counter = _Counter(engine)
            for i in range(64):
                own = list(range(2000 + 100 * i, 2020 + 100 * i + i % 41))
                engine.add(Request((*common, *own), greedy, Stops(500), i, n_shared=shared))
            while len(engine.running) < 64 or not all(seq.n_out for seq in engine.running):
                engine.step()
            computed[shared] = counter.n - sum(20 + i % 41 for i in range(64))
            start = time.perf_counter()
            for _ in range(8):
                engine.step()
            times[shared].append((time.perf_counter() - start) / 8 * 1e3)
    ratio = median(a / b for a, b in zip(times[0], times[400], strict=True))
    out.add_row(
        f"64 rows, 400 tokens shared{name}: ms per step",
        f"{median(times[0]):.0f}",
        f"{median(times[400]):.0f}",
        f"{ratio:.2f}",
        f"prefix computed {computed[400] / 400:.2f} times, stored once",
    )


class _Counter:
    """Counts the prompt tokens that an engine computes; it stands between it and its model."""

    shares_prefixes = True
    ranks = False

    def __init__(self, engine: Engine) -> None:
        self.n, self.forward, self.config = 0, engine.forward, engine.forward.config
        engine.forward = self

    def step(self, ids, spans, cache, wanted):
        self.n += sum(span.n for span in spans if span.n > 1)
        return self.forward.step(ids, spans, cache, wanted)


def _own_cost(config: GPTConfig, weights: dict[str, torch.Tensor], out: Table) -> None:
    """What a step takes besides the model: scheduling, the chain, text."""
    chain = resolve_chain([{"temperature": 0.8}, {"top_k": 40}, {"top_p": 0.95}], registry())
    kinds = ("float32", "bfloat16", "int8")
    for name, make in forwards(config, weights, of_torch=("float32",), of_cpu=kinds).items():
        model = make()
        for n in (1, 16):
            timed = Timed(model)
            engine = Engine(timed, WideTokenizer(), n_slots=n)
            for i in range(n):
                engine.add(Request(tuple(range(100 + i, 164 + i)), chain, Stops(500), i))
            while len(engine.running) < n or not all(seq.n_out for seq in engine.running):
                engine.step()
            models, steps = [], []
            for _ in range(50):
                timed.seconds, start = 0.0, time.perf_counter()
                engine.step()
                steps.append(time.perf_counter() - start)
                models.append(timed.seconds)
            share = median(1 - a / b for a, b in zip(models, steps, strict=True))
            out.add_row(
                f"{name}, {n} by temperature + top_k + top_p: ms",
                f"{median(models) * 1e3:.1f}",
                f"{median(steps) * 1e3:.1f}",
                f"{share:.1%}",
                "the model, the whole step, and the share of the engine's own cost",
            )
