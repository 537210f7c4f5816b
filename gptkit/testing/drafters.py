"""Examine a drafter: it may be wrong, but not in form, and it changes no token."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gptkit.decoding.noise import derive
from gptkit.decoding.request import Draft, Request, Stage, Stops
from gptkit.plugin_api import Params
from gptkit.testing import imports, schedules, values
from gptkit.testing.model import SMALL
from gptkit.testing.report import Examination

if TYPE_CHECKING:
    from gptkit.plugin_api import Drafter
    from gptkit.testing.report import Report

MOST = 8
"""Tokens that are asked for at most."""
LONG = 1000
SLOW_MS = 20.0
"""Milliseconds for one proposal above which a drafter is called slow."""


@dataclass(slots=True)
class View:
    """What a drafter sees of a sequence."""

    id: int
    tokens: list[int]
    prompt_len: int


def examine(cls: type[Drafter], *, seed: int = 0) -> Report:
    """Examine a drafter class."""
    exam = Examination(cls.name, "drafter", cls.summary(), imports.file_of(cls))
    imports.check(exam, cls)
    rng = random.Random(seed)
    if exam.check("D1", "the declaration is complete", values.check_declared, cls, "D1"):
        if exam.check("D2", "it proposes at most k tokens", _proposals, cls, rng):
            exam.check("D3", "the same tokens with and without it", _schedule, cls, rng)
            exam.check("D4", "milliseconds a proposal", _cost, cls, rng)
    return exam.report()


def _given(cls: type[Drafter], rng: random.Random) -> dict[str, Any]:
    """Return values with which it proposes something."""

    def make() -> dict[str, Any]:
        given = values.choose(cls, rng, SMALL)
        cls().propose(View(0, [97, 98, 97], 2), 1, Params(given))
        return given

    return values.admitted(make)


def _proposals(exam: Examination, cls: type[Drafter], rng: random.Random) -> None:
    """Let sequences grow by what was proposed and by other tokens, several on one instance."""
    for _ in range(10):
        drafter, p = cls(), Params(_given(cls, rng))
        views = [View(i, [rng.randrange(97, 101)], 1) for i in range(3)]
        for _ in range(30):
            view, k = rng.choice(views), rng.randint(1, MOST)
            before = list(view.tokens)
            proposed = drafter.propose(view, k, p)
            if view.tokens != before:
                exam.find("D2", "propose() changes the tokens that it sees")
                return
            try:
                draft = list(proposed)
            except TypeError:
                exam.find("D2", f"propose() returned {proposed!r}, no sequence of ids")
                return
            if len(draft) > k:
                exam.find("D2", f"propose() returned {len(draft)} tokens, not at most {k}")
            if wrong := [one for one in draft if int(one) != one or not 0 <= one < SMALL]:
                exam.find("D2", f"propose() returned {wrong[0]!r}, which is no id", "warning")
                draft = []
            view.tokens += draft[: rng.randint(0, len(draft))] + [rng.randrange(97, 101)]


def _schedule(exam: Examination, cls: type[Drafter], rng: random.Random) -> None:
    chain = (Stage(schedules.Draw.name, schedules.Draw, {}),)
    requests = []
    for i, ids in enumerate(schedules.prompts(rng, schedules.N_REQUESTS)):
        given = _given(cls, rng)
        draft = Draft(cls, given["k"], given)
        stops = Stops(max_new_tokens=2 * schedules.N_NEW)
        requests.append(Request(ids, chain, stops, derive(99, i), draft=draft))
    for request in requests:
        with_it = schedules.alone(request)
        if with_it.error is not None:
            exam.find("D3", f"with it a request fails: {with_it.error}")
            return
        if with_it.key != schedules.alone(replace(request, draft=None)).key:
            exam.find("D3", "with it the tokens are others")
    schedules.compare(exam, "D3", requests, rng)


def _cost(exam: Examination, cls: type[Drafter], rng: random.Random) -> None:
    drafter, p = cls(), Params(_given(cls, rng))
    view, best = View(0, [rng.randrange(97, 123) for _ in range(LONG)], 8), float("inf")
    for _ in range(5):
        view.tokens.append(rng.randrange(97, 123))
        start = time.perf_counter()
        drafter.propose(view, MOST, p)
        best = min(best, 1000 * (time.perf_counter() - start))
    exam.costs["1 proposal, ms"] = best
    if best > SLOW_MS:
        exam.find("D4", f"{best:.0f} ms a proposal after {LONG:,} tokens", "warning")
