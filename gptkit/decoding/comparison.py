"""Chains side by side: on the same recorded logits of a model, and each in texts of its own.

The model speaks once, by plain sampling, and its logits are written down; every chain is then run
on the same rows. So what differs is the chains alone. R rows, V vocabulary.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from gptkit.decoding.chain import ChainRunner
from gptkit.decoding.noise import derive
from gptkit.decoding.request import Request, Stage, Stops
from gptkit.decoding.rows import LogitStats
from gptkit.decoding.sequence import first_states
from gptkit.errors import ConfigError
from gptkit.plugin_api import Params, RequestView, Rows, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from gptkit.decoding.chain_source import ChainSource
    from gptkit.decoding.engine import Engine
    from gptkit.decoding.request import Chain
    from gptkit.plugin_api import Vocab

PROMPTS = (
    "Once upon a time",
    "The weather today is",
    "My name is",
    "I do not know why",
    "The most important thing is",
    "In the morning",
    "What should we do",
    "He opened the door and",
)
"""What a model that is asked for nothing else goes on from."""

MAX_BYTES = 2**30
"""Of recorded logits."""
COST_ROWS = (1, 16)
COST_S = 0.25
"""How long the cost of a step is measured, for each number of rows."""
_NO = float("-inf")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one part of the work is, in rows that a chain was run on."""

    what: str
    n_done: int
    n_all: int


@dataclass(slots=True, eq=False)
class Place:
    """One position of a recorded text, as a chain run sees it."""

    request: Request
    tokens: Sequence[int]
    states: list[Any]

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)


@dataclass(frozen=True, slots=True)
class Walk:
    """A text that the model said, and the logits of each of its positions, [V] each."""

    prompt_ids: tuple[int, ...]
    seed: int
    said: list[int] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def entropy(self) -> list[float]:
        """Return the entropy of each of its rows, in nats."""
        found: list[float] = LogitStats(torch.stack(self.rows)).entropy[:, 0].tolist()
        return found


@dataclass(frozen=True, slots=True)
class Figures:
    """What one chain came to. Lists have one number for each recorded row.

    Survivors and entropy (nats) are those that the picker sees; `removed` is the probability that
    the model gave to what is forbidden then. A row that the chain refused counts in `n_failed`.
    """

    name: str
    chain: Chain
    survivors: list[int]
    entropy: list[float]
    removed: list[float]
    agreement: float
    """Share of the rows whose likeliest token is still the model's."""
    n_failed: int
    texts: list[list[int]]
    """Tokens of the texts that the chain said by itself, one for each prompt."""
    cost_ms: dict[int, float]
    """Time of one step, picking included, by the number of rows."""

    def distinct(self, n: int) -> float:
        """Return the share of different n-grams among all of its texts."""
        return distinct(self.texts, n)

    def repetition(self, n: int = 4) -> float:
        """Return the mean share of n-grams that a text has said before."""
        return statistics.fmean(repetition(text, n) for text in self.texts)


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Return distinct-n: different n-grams of all texts over all of them (Li et al. 2016,
    arXiv:1510.03055). No n-gram at all counts as 1: nothing is said twice.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(text: Sequence[int], n: int = 4) -> float:
    """Return seq-rep-n: 1 - different n-grams over all (Welleck et al. 2019, arXiv:1908.04319)."""
    return 1 - distinct([text], n)


def _grams(text: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


# Recording ------------------------------------------------------------------------------------


def check_size(n_prompts: int, n_tokens: int, vocab_size: int) -> None:
    """Refuse to record more than MAX_BYTES of logits."""
    n_bytes = n_prompts * n_tokens * vocab_size * 4
    if n_bytes > MAX_BYTES:
        most = MAX_BYTES // (n_prompts * vocab_size * 4)
        raise ConfigError(
            f"the logits of {n_prompts:,} prompts x {n_tokens:,} tokens take "
            f"{n_bytes / 2**30:,.1f} GiB; 1 is the limit",
            hint=f"--tokens {most:,}" if most else "give fewer prompts",
        )


def record(
    engine: Engine, prompts: Sequence[Sequence[int]], n_tokens: int, picker: Stage, seed: int
) -> Iterator[Progress | list[Walk]]:
    """Let the model speak by `picker` alone; yield progress, then the walks.

    A model's end-of-text token does not end a text: all are equally long.
    """
    walks = {derive(seed, i): Walk(tuple(ids), derive(seed, i)) for i, ids in enumerate(prompts)}
    recorder = Stage("record", _recorder(walks), {})
    for step in _texts(engine, list(walks.values()), (recorder, picker), n_tokens):
        if isinstance(step, int):
            yield Progress("recording", step, len(walks) * n_tokens)
            continue
        for walk, said in zip(walks.values(), step, strict=True):
            walk.said.extend(said)
    yield list(walks.values())


def _recorder(walks: dict[int, Walk]) -> type[Sampler]:
    class Record(Sampler):
        """Write down the logits of each row, in the walk of its seed."""

        name = "record"
        phase = "bias"

        def init_state(self, request: RequestView) -> int:
            return request.seed

        def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
            for row, seed in zip(logits, rows.state, strict=True):
                walks[seed].rows.append(row.clone())  # a view would keep the rows of others
            return logits

    return Record


def _texts(
    engine: Engine, walks: Sequence[Walk], chain: Chain, n_tokens: int
) -> Iterator[int | list[list[int]]]:
    """Generate a text for each walk's prompt and seed; yield the count so far, then all."""
    stops = Stops(max_new_tokens=n_tokens, ignore_eos=True)
    said: dict[int, list[int]] = {}
    for walk in walks:
        said[engine.add(Request(walk.prompt_ids, chain, stops, walk.seed))] = []
    n_done = 0
    while engine.busy:
        for id, event in engine.step():
            if event.error is not None:
                raise event.error
            if event.token_id is not None:
                said[id].append(event.token_id)
                n_done += 1
        yield n_done
    yield list(said.values())


# Comparing ------------------------------------------------------------------------------------


def compare(
    engine: Engine, walks: Sequence[Walk], source: ChainSource, n_tokens: int
) -> Iterator[Progress | Figures]:
    """Run one chain over the recorded rows and let it speak by itself; yield its figures last."""
    n_rows = sum(len(walk.rows) for walk in walks)
    n_all = n_rows + len(walks) * n_tokens
    left = _Left()
    for n_done in _run(walks, source.chain, engine.vocab, left):
        yield Progress(source.name, n_done, n_all)
    texts: list[list[int]] = []
    for step in _texts(engine, walks, source.chain, n_tokens):
        if isinstance(step, int):
            yield Progress(source.name, n_rows + step, n_all)
        else:
            texts = step
    yield Figures(
        source.name,
        source.chain,
        left.survivors,
        left.entropy,
        left.removed,
        agreement=left.n_agreed / len(left.survivors) if left.survivors else math.nan,
        n_failed=left.n_failed,
        texts=texts,
        cost_ms={n: _cost_ms(walks, source.chain, engine.vocab, n) for n in COST_ROWS},
    )


@dataclass(slots=True)
class _Left:
    """What a chain has left of the rows so far; see Figures."""

    survivors: list[int] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    removed: list[float] = field(default_factory=list)
    n_agreed: int = 0
    n_failed: int = 0

    def add(self, raw: Tensor, final: Tensor) -> None:
        """Note what is left of raw logits [R, V]."""
        gone = raw.double().softmax(-1).masked_fill(final > _NO, 0.0).sum(-1)
        self.survivors += (final > _NO).sum(-1).tolist()
        self.entropy += LogitStats(final).entropy[:, 0].tolist()
        self.removed += gone.tolist()
        self.n_agreed += int((final.argmax(-1) == raw.argmax(-1)).sum())


def _run(walks: Sequence[Walk], chain: Chain, vocab: Vocab, left: _Left) -> Iterator[int]:
    """Run a chain on each recorded row, place by place, all texts at once; yield rows done.

    The history of a row is the recorded one. The states of stages with memory follow the chain's
    own picks, for it may forbid the token that was recorded; they start anew where it is done.
    """
    runner, n_done = ChainRunner(chain), 0
    requests = [Request(walk.prompt_ids, chain, Stops(), walk.seed) for walk in walks]
    states = [first_states(request, vocab) for request in requests]
    for i in range(max(len(walk.rows) for walk in walks)):
        live = [k for k, walk in enumerate(walks) if i < len(walk.rows)]
        places = [
            Place(requests[k], [*walks[k].prompt_ids, *walks[k].said[:i]], states[k]) for k in live
        ]
        logits = torch.stack([walks[k].rows[i] for k in live])
        picked = runner.run(logits, places, vocab)
        for k, one in zip(live, picked, strict=True):
            done = one.final is None or runner.is_done(one.states)
            states[k] = first_states(requests[k], vocab) if done else one.states
        good = [row for row, one in enumerate(picked) if one.final is not None]
        left.n_failed += len(picked) - len(good)
        if good:
            finals = [one.final for one in picked if one.final is not None]
            left.add(logits[good], torch.stack(finals))
        n_done += len(live)
        yield n_done


def _cost_ms(walks: Sequence[Walk], chain: Chain, vocab: Vocab, n_rows: int) -> float:
    """Return the median time of one step of the chain over `n_rows` recorded rows, in ms."""
    runner = ChainRunner(chain)
    cells = [(walk, i) for i in range(len(walks[0].rows)) for walk in walks if i < len(walk.rows)]
    cells = [cells[n % len(cells)] for n in range(n_rows)]
    places = []
    for walk, i in cells:
        request = Request(walk.prompt_ids, chain, Stops(), walk.seed)
        tokens = [*walk.prompt_ids, *walk.said[:i]]
        places.append(Place(request, tokens, first_states(request, vocab)))
    logits = torch.stack([walk.rows[i] for walk, i in cells])
    times: list[float] = []
    runner.pick(logits, places, vocab)  # the first call warms up
    until = time.perf_counter() + COST_S
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        runner.pick(logits, places, vocab)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
