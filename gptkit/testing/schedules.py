"""The real engine over a model whose bits never change: a request alone, and in any company.

What differs then is what the plugin did. Requests come at random times, are preempted and
replayed, and are drafted for by guessers of three kinds; the tokens must be those of the request
run alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from gptkit.decoding.engine import Engine
from gptkit.decoding.noise import derive
from gptkit.decoding.request import Draft, Request, Stage, Stops
from gptkit.errors import RequestError
from gptkit.plugin_api import Drafter, Sampler
from gptkit.testing import values
from gptkit.testing.model import SMALL, TableModel, tokenizer, vocab

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from gptkit.decoding.request import Chain, Event
    from gptkit.plugin_api import DraftView, Params, Rows
    from gptkit.testing.report import Examination
    from gptkit.testing.rows import Bench

N_REQUESTS = 9
N_SLOTS = 3
N_NEW = 12
LONG = 70
"""Tokens of one prompt: more than the engine computes at once."""
MOST_STEPS = 2000


class Draw(Sampler):
    """Draw by the Gumbel-max trick, as the bundled `sample` does."""

    name = "kit_draw"
    phase = "pick"

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return token ids [R]."""
        return (logits - (-(-rows.noise().double()).log1p()).log()).argmax(-1)


# Guessers -------------------------------------------------------------------------------------


class Garbage(Drafter):
    """Guess anything."""

    name = "kit_garbage"

    def propose(self, view: DraftView, k: int, p: Params) -> Sequence[int]:
        """Return up to k random tokens."""
        rng = random.Random(derive(len(view.tokens), *view.tokens[-2:]))
        return [rng.randrange(SMALL) for _ in range(rng.randint(0, k))]


class Lookup(Drafter):
    """Guess what followed the last token before."""

    name = "kit_lookup"

    def propose(self, view: DraftView, k: int, p: Params) -> Sequence[int]:
        """Return what stands after the latest earlier place of the last token."""
        tokens = list(view.tokens)
        place = next((i for i in range(len(tokens) - 2, -1, -1) if tokens[i] == tokens[-1]), None)
        return tokens[place + 1 : place + 1 + k] if place is not None else ()


class Oracle(Drafter):
    """Guess what is known to come, with a mistake now and then."""

    name = "kit_oracle"

    def __init__(self, answers: Mapping[tuple[int, ...], Sequence[int]] | None = None) -> None:
        self.answers = answers or {}

    def propose(self, view: DraftView, k: int, p: Params) -> Sequence[int]:
        """Return the next tokens of the answer, of which a few are wrong."""
        n_out = len(view.tokens) - view.prompt_len
        answer = self.answers.get(tuple(view.tokens[: view.prompt_len]), ())
        rng = random.Random(derive(7, *view.tokens[-2:]))
        return [
            rng.randrange(SMALL) if rng.random() < 0.2 else token
            for token in answer[n_out : n_out + k]
        ]


# Running --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What came out of a request."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    reason: str | None = None
    error: Exception | None = None

    def add(self, event: Event) -> None:
        """Take in an event."""
        if event.token_id is not None:
            self.tokens.append(event.token_id)
        self.text += event.text
        self.reason, self.error = event.finish_reason, event.error

    @property
    def key(self) -> tuple[Any, ...]:
        """What must be the same in every schedule."""
        return tuple(self.tokens), self.text, self.reason, str(self.error)


@cache
def _model() -> TableModel:
    return TableModel()


def _engine(n_slots: int) -> Engine:
    return Engine(_model(), tokenizer(), vocab().eos_ids, n_slots=n_slots)


def check_admission(request: Request) -> None:
    """Raise what an engine raises that can't serve a request."""
    _engine(1).add(request)


def alone(request: Request, n_slots: int = 1) -> Outcome:
    """Run one request on an engine of its own."""
    outcome = Outcome()
    for event in _engine(n_slots).stream(request):
        outcome.add(event)
    return outcome


def together(
    requests: Sequence[Request], rng: random.Random, n_slots: int = N_SLOTS
) -> list[Outcome]:
    """Run requests as a busy engine would: they come, wait, leave and are preempted at random."""
    engine = _engine(n_slots)
    outcomes = [Outcome() for _ in requests]
    waiting = rng.sample(range(len(requests)), len(requests))
    under_way: dict[int, int] = {}
    for _ in range(MOST_STEPS):
        while waiting and rng.random() < 0.7:
            i = waiting.pop()
            under_way[engine.add(requests[i])] = i
        if under_way and rng.random() < 0.15:
            _preempt(engine, rng.choice(sorted(under_way)))
        for id, event in engine.step():
            outcomes[under_way[id]].add(event)
            if event.finish_reason is not None:
                del under_way[id]
        if not waiting and not under_way:
            return outcomes
    raise RequestError(f"{len(under_way)} requests do not end")


def _preempt(engine: Engine, id: int) -> None:
    try:
        engine.preempt(id)
    except RequestError:
        pass  # it still waits, or has a strategy


def prompts(rng: random.Random, n: int) -> list[tuple[int, ...]]:
    """Return n different prompts of few tokens, one of them long."""
    lengths = [LONG, *(rng.randint(2, 9) for _ in range(n - 1))]
    made = [[rng.randrange(97, 123) for _ in range(length)] for length in lengths]
    return [(i, *tokens) for i, tokens in enumerate(made)]


def compare(
    exam: Examination,
    code: str,
    requests: Sequence[Request],
    rng: random.Random,
    n_slots: int = N_SLOTS,
) -> None:
    """Find whether requests come out as they do alone, drafted for by anybody."""
    want = [alone(request, n_slots if request.strategy else 1) for request in requests]
    answers = {r.prompt_ids: one.tokens for r, one in zip(requests, want, strict=True)}
    oracle = partial(Oracle, answers)
    drafts = (None, Draft(Garbage, 3, {}), Draft(Lookup, 3, {}), Draft(oracle, 3, {}))
    drafted = [
        request if request.strategy or request.draft else replace(request, draft=rng.choice(drafts))
        for request in requests
    ]
    got = together(drafted, rng, n_slots)
    for i, (one, two) in enumerate(zip(got, want, strict=True)):
        if one.key != two.key:
            exam.find(code, f"{_said(requests[i], drafted[i])}: {_difference(one, two)}")


def _said(request: Request, drafted: Request) -> str:
    guessed = drafted.draft.drafter().name if drafted.draft else None
    return f"{', '.join(map(str, request.chain))}" + (f" with drafter {guessed}" if guessed else "")


def _difference(got: Outcome, want: Outcome) -> str:
    """Say what differs first."""
    for i, (one, two) in enumerate(zip(got.tokens, want.tokens, strict=False)):
        if one != two:
            return f"token {i + 1} is {one} among other requests, {two} alone"
    if len(got.tokens) != len(want.tokens) or got.reason != want.reason:
        return (
            f"it ends after {len(got.tokens)} tokens ({got.reason}: {got.error}) among other "
            f"requests, after {len(want.tokens)} ({want.reason}: {want.error}) alone"
        )
    return f"the text is {got.text!r} among other requests, {want.text!r} alone"


# Samplers -------------------------------------------------------------------------------------


def sampler(exam: Examination, bench: Bench) -> None:
    """Run requests with and without the sampler, on and off, on one engine."""
    requests = [_request(bench, ids, i) for i, ids in enumerate(prompts(bench.rng, N_REQUESTS))]
    for request in requests:
        outcome = alone(request)
        refused = bench.cls.phase == "constraint" and isinstance(outcome.error, RequestError)
        if outcome.error is not None and not refused:
            exam.find("C11", f"{', '.join(map(str, request.chain))} fails: {outcome.error}")
            return
    compare(exam, "C11", requests, bench.rng)


def off_is_off(exam: Examination, bench: Bench) -> None:
    """Compare a chain whose stage is off with a chain that has none."""
    for i, ids in enumerate(prompts(bench.rng, 2)):
        off = values.off_values(bench.cls, bench.rng, SMALL)
        request = Request(ids, _chain(bench, off), Stops(max_new_tokens=N_NEW), 40 + i)
        without = replace(request, chain=request.chain[1:])
        with_off, plain = alone(request), alone(without)
        if with_off.key != plain.key:
            exam.find("C22", f"{request.chain[0]}: {_difference(with_off, plain)}")


def _request(bench: Bench, ids: tuple[int, ...], i: int) -> Request:
    """Return a request whose values the stage takes; each third has it at off, or not at all."""
    choose = values.off_values if i % 3 == 2 else values.choose

    def make() -> Request:
        chain = _chain(bench, choose(bench.cls, bench.rng, SMALL))
        if i == 5 and len(chain) > 1:
            chain = chain[1:]
        request = Request(ids, chain, Stops(max_new_tokens=N_NEW), derive(99, i), trace=i == 1)
        check_admission(request)
        return request

    return values.admitted(make)


def _chain(bench: Bench, given: Mapping[str, Any]) -> Chain:
    stage = bench.stage(given)
    return (stage,) if bench.cls.phase == "pick" else (stage, Stage(Draw.name, Draw, {}))
