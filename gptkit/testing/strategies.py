"""Examine a strategy: its own loop gives the same answer beside other requests."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from gptkit.decoding.noise import derive
from gptkit.decoding.request import Choice, Request, Stage, Stops
from gptkit.errors import RequestError
from gptkit.plugin_api import Params
from gptkit.testing import imports, schedules, values
from gptkit.testing.model import SMALL
from gptkit.testing.report import Examination

if TYPE_CHECKING:
    from gptkit.plugin_api import Strategy
    from gptkit.testing.report import Report

WIDEST = 8
"""Branches that are tried at most."""
N_REQUESTS = 5


def examine(cls: type[Strategy], *, seed: int = 0) -> Report:
    """Examine a strategy class."""
    exam = Examination(cls.name, "strategy", cls.summary(), imports.file_of(cls))
    imports.check(exam, cls)
    rng = random.Random(seed)
    requests: list[Request] = []
    if exam.check("G1", "the declaration is complete", values.check_declared, cls, "G1"):
        if exam.check("G2", "it runs", _running, cls, rng, requests):
            exam.check("G3", "the same tokens in any schedule", _schedule, rng, requests)
    return exam.report()


def _running(
    exam: Examination, cls: type[Strategy], rng: random.Random, requests: list[Request]
) -> None:
    """Run it twice on engines of its own, and note requests that it takes."""
    for i, ids in enumerate(schedules.prompts(rng, N_REQUESTS)):
        request = values.admitted(partial(_request, cls, rng, ids, i))
        width = cls().width(Params(request.strategy.values)) if request.strategy else 0
        if type(width) is not int or width < 1:
            exam.find("G2", f"width() is {width!r}, no whole number above 0")
            return
        one, two = (schedules.alone(request, WIDEST) for _ in range(2))
        if one.error is not None:
            exam.find("G2", f"{request.strategy}: {one.error}")
        elif one.key != two.key:
            exam.find("G2", "the second time it gives another answer")
        elif len(one.tokens) > request.stops.max_new_tokens:
            exam.find("G2", f"it gives {len(one.tokens)} tokens, more than were asked for")
        requests.append(request)


def _request(cls: type[Strategy], rng: random.Random, ids: tuple[int, ...], i: int) -> Request:
    """Return a request that an engine takes and can serve."""
    plan = Choice(cls, values.choose(cls, rng, SMALL))
    if cls().width(Params(plan.values)) > WIDEST:
        raise RequestError(f"'{cls.name}' is too wide for the kit")
    chain = (Stage(schedules.Draw.name, schedules.Draw, {}),)
    request = Request(
        ids, chain, Stops(max_new_tokens=schedules.N_NEW), derive(99, i), strategy=plan
    )
    outcome = schedules.alone(request, WIDEST)
    if isinstance(outcome.error, RequestError):
        raise outcome.error
    return request


def _schedule(exam: Examination, rng: random.Random, requests: list[Request]) -> None:
    """Run it beside itself and beside requests without a strategy."""
    plain = [
        Request(ids, requests[0].chain, requests[0].stops, derive(98, i))
        for i, ids in enumerate(schedules.prompts(rng, N_REQUESTS))
    ]
    schedules.compare(exam, "G3", [*requests, *plain], rng, WIDEST)
