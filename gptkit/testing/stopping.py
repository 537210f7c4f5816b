"""Examine a stopping criterion: the same answer, however the text is cut and whoever else asks."""

from __future__ import annotations

import math
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from gptkit.decoding.noise import derive
from gptkit.decoding.request import Criterion, Request, Stage, Stops
from gptkit.errors import PluginError
from gptkit.plugin_api import Stop
from gptkit.testing import imports, schedules, streams, values
from gptkit.testing.model import SMALL
from gptkit.testing.report import Examination
from gptkit.testing.rows import Watch, copied, pickled
from gptkit.testing.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gptkit.plugin_api import StoppingCriterion
    from gptkit.testing.report import Report

N_STREAMS = 40
SLOW_MS = 2.0
"""Milliseconds for a token above which a criterion is called slow."""
N_COST = 2000


def examine(cls: type[StoppingCriterion], *, seed: int = 0) -> Report:
    """Examine a criterion class."""
    exam = Examination(cls.name, "stopping", cls.summary(), imports.file_of(cls))
    imports.check(exam, cls)
    rng = random.Random(seed)
    runs: list[tuple[dict[str, Any], Stream]] = []
    if exam.check("S1", "the declaration is complete", _declaration, cls, rng):
        if exam.check("S2", "it answers with a state and a Stop", _answers, cls, rng, runs):
            exam.check("S3", "the same tokens give the same answer", _purity, cls, runs)
            exam.check(
                "S4", "the state is a value: it pickles and goes back", _state, cls, rng, runs
            )
            exam.check("S5", "however the text is cut into tokens", _chunking, cls, rng, runs)
            exam.check("S6", "nothing is cut that was shown", _shown, cls, runs)
            exam.check("S7", "the same text in any schedule", _schedule, cls, rng)
            exam.check("S8", "milliseconds a token", _cost, cls, rng)
    return exam.report()


def _declaration(exam: Examination, cls: type[StoppingCriterion], rng: random.Random) -> None:
    values.check_declared(exam, cls, "S1")
    cls()
    ids = cls.token_ids(values.choose(cls, rng, SMALL))
    if not isinstance(ids, frozenset) or any(type(one) is not int for one in ids):
        exam.find("S1", f"token_ids() is {ids!r}, no frozenset of ids")


# Answers --------------------------------------------------------------------------------------


def _begin(cls: type[StoppingCriterion], rng: random.Random) -> tuple[dict[str, Any], Stream]:
    """Return values that the criterion takes, and tokens for them."""

    def make() -> tuple[dict[str, Any], Stream]:
        given = values.choose(cls, rng, SMALL)
        stream = streams.stream(rng, given)
        cls().init_state(stream.view(given))
        return given, stream

    return values.admitted(make)


def push(
    criterion: StoppingCriterion, state: Any, stream: Stream, n: int
) -> tuple[Any, Stop | None]:
    """Push the n-th token of a stream, counted from 0."""
    token = stream.ids[n]
    seen = {"entropy": stream.entropies[n]} if criterion.observes_entropy else {}
    answer = criterion.push(state, token, stream.tokenizer.token_bytes(token), n + 1, **seen)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise PluginError(f"push() returned {answer!r}, not a pair of state and Stop or None")
    return answer


def run(
    cls: type[StoppingCriterion], given: Mapping[str, Any], stream: Stream, *, to_end: bool = False
) -> list[Stop]:
    """Return the answers up to the first with a reason, or to the end of the stream."""
    criterion, stops = cls(), []
    state = criterion.init_state(stream.view(given))
    for n in range(len(stream.ids)):
        state, stop = push(criterion, state, stream, n)
        stops.append(stop or Stop())
        if stops[-1].reason is not None and not to_end:
            break
    return stops


def _answers(
    exam: Examination,
    cls: type[StoppingCriterion],
    rng: random.Random,
    runs: list[tuple[dict[str, Any], Stream]],
) -> None:
    """Feed streams, a stop not taken included, and look at each answer."""
    for _ in range(N_STREAMS):
        given, stream = _begin(cls, rng)
        runs.append((given, stream))
        size = 0
        for data, stop in zip(stream.data, run(cls, given, stream, to_end=True), strict=True):
            size += len(data)
            if not isinstance(stop, Stop):
                exam.find("S2", f"push() answers {stop!r}, no Stop")
                return
            if stop.reason is not None and (not isinstance(stop.reason, str) or not stop.reason):
                exam.find("S2", f"the reason {stop.reason!r} is no text")
            for name in ("cut_bytes", "hold_bytes"):
                n_bytes = getattr(stop, name)
                if type(n_bytes) is not int or not 0 <= n_bytes <= size:
                    exam.find("S2", f"{name} is {n_bytes!r} of a text of {size} bytes")
            if stop.reason is None and stop.cut_bytes:
                exam.find("S2", "without a reason nothing is cut: give hold_bytes", "warning")
    if cls.observes_entropy:  # a strategy's tokens come without one
        unknown = Stream(stream.tokenizer, stream.ids, (math.nan,) * len(stream.ids))
        run(cls, given, unknown)


def _purity(
    exam: Examination, cls: type[StoppingCriterion], runs: list[tuple[dict[str, Any], Stream]]
) -> None:
    """Run pairs of streams alone, and in turns on one instance."""
    for one, two in zip(runs[::2], runs[1::2], strict=True):
        wanted = [run(cls, *one, to_end=True), run(cls, *two, to_end=True)]
        criterion = cls()
        states = [criterion.init_state(stream.view(given)) for given, stream in (one, two)]
        got: list[list[Stop]] = [[], []]
        for n in range(max(len(one[1].ids), len(two[1].ids))):
            for i, (_, stream) in enumerate((one, two)):
                if n < len(stream.ids):
                    states[i], stop = push(criterion, states[i], stream, n)
                    got[i].append(stop or Stop())
        if got != wanted:
            exam.find("S3", "the answers differ where another sequence runs too: is it on self?")


def _state(
    exam: Examination,
    cls: type[StoppingCriterion],
    rng: random.Random,
    runs: list[tuple[dict[str, Any], Stream]],
) -> None:
    """Go back to an earlier state, as when the rest of a draft was wrong, and go on from a copy."""
    for given, stream in runs:
        criterion = cls()
        states, wanted = [criterion.init_state(stream.view(given))], []
        for n in range(len(stream.ids)):
            watch = Watch(states[-1])
            state, stop = push(criterion, states[-1], stream, n)
            if watch.has_changed:
                exam.find("S4", "push() changes the old state; return a new one")
                return
            states.append(state)
            wanted.append(stop)
        back = rng.randrange(len(stream.ids))
        for state in (states[back], copied(states[back])):
            answers = []
            for n in range(back, len(stream.ids)):
                state, stop = push(criterion, state, stream, n)
                answers.append(stop)
            if answers != wanted[back:]:
                exam.find("S4", "from an earlier state, or a pickled one, it answers otherwise")
        try:
            pickled(states[back])
        except Exception as error:
            exam.find("S4", f"the state does not pickle: {error}")


# Text -----------------------------------------------------------------------------------------


def _chunking(
    exam: Examination,
    cls: type[StoppingCriterion],
    rng: random.Random,
    runs: list[tuple[dict[str, Any], Stream]],
) -> None:
    """Cut the same text otherwise; only what looks at the text alone must not care."""
    if cls.observes_entropy or not _reads_text_alone(cls, rng, runs):
        exam.skip("S5", "however the text is cut into tokens", "it does not go by the text alone")
        return
    for given, stream in runs:
        data = b"".join(stream.data)
        want = result(stream, run(cls, given, stream))
        for other in (
            streams.cut(data, stream.tokenizer),
            streams.cut(data, stream.tokenizer, rng),
        ):
            again = Stream(stream.tokenizer, tuple(other), (0.0,) * len(other))
            got = result(again, run(cls, given, again))
            if got != want:
                exam.find(
                    "S5",
                    f"with {given} the answer is {_short(got)} or {_short(want)}, depending on "
                    "where the tokens cut the text",
                )


def _short(result: tuple[bytes, str | None]) -> str:
    return f"...{result[0][-20:]!r} ({result[1]})"


def _reads_text_alone(
    cls: type[StoppingCriterion], rng: random.Random, runs: list[tuple[dict[str, Any], Stream]]
) -> bool:
    """Whether other ids of the same bytes change nothing, nor a later start, but other bytes do."""
    reads = False
    for given, stream in runs:
        want = run(cls, given, stream)
        if run(cls, given, stream.renamed()) != want or _late(cls, given, stream) != want:
            return False
        scrambled = tuple(rng.sample(stream.ids, len(stream.ids)))
        reads |= run(cls, given, Stream(stream.tokenizer, scrambled, stream.entropies)) != want
    return reads


def _late(cls: type[StoppingCriterion], given: Mapping[str, Any], stream: Stream) -> list[Stop]:
    """Return the answers if these were not the first tokens."""
    criterion, stops = cls(), []
    state = criterion.init_state(stream.view(given))
    for n, (token, data) in enumerate(zip(stream.ids, stream.data, strict=True), start=1001):
        state, stop = criterion.push(state, token, data, n)
        stops.append(stop or Stop())
        if stops[-1].reason is not None:
            break
    return stops


def result(stream: Stream, stops: Sequence[Stop]) -> tuple[bytes, str | None]:
    """Return what is left of the text, and the reason."""
    data = b"".join(stream.data[: len(stops)])
    return data[: len(data) - stops[-1].cut_bytes], stops[-1].reason


def _shown(
    exam: Examination, cls: type[StoppingCriterion], runs: list[tuple[dict[str, Any], Stream]]
) -> None:
    for given, stream in runs:
        size = shown = 0
        for data, stop in zip(stream.data, run(cls, given, stream), strict=False):
            size += len(data)
            if stop.reason is not None and size - stop.cut_bytes < shown:
                exam.find(
                    "S6",
                    f"with {given} it cuts {stop.cut_bytes} bytes, of which "
                    f"{shown - size + stop.cut_bytes} were shown before: hold them back",
                )
            shown = max(shown, size - stop.hold_bytes)


# The engine -----------------------------------------------------------------------------------


def _schedule(exam: Examination, cls: type[StoppingCriterion], rng: random.Random) -> None:
    chain = (Stage(schedules.Draw.name, schedules.Draw, {}),)

    def make(ids: tuple[int, ...], i: int) -> Request:
        given = values.choose(cls, rng, SMALL)
        stops = Stops(max_new_tokens=2 * schedules.N_NEW, criteria=(Criterion(cls, given),))
        request = Request(ids, chain, stops, derive(99, i))
        schedules.check_admission(request)
        return request

    prompts = schedules.prompts(rng, schedules.N_REQUESTS)
    requests = [values.admitted(partial(make, p, i)) for i, p in enumerate(prompts)]
    schedules.compare(exam, "S7", requests, rng)


def _cost(exam: Examination, cls: type[StoppingCriterion], rng: random.Random) -> None:
    """Feed a long answer that it does not end, or that goes on all the same."""
    given, stream = _begin(cls, rng)
    ids = (stream.ids * (N_COST // len(stream.ids) + 1))[:N_COST]
    long = Stream(stream.tokenizer, ids, (3.0,) * N_COST)
    start = time.perf_counter()
    run(cls, given, long, to_end=True)
    each = 1000 * (time.perf_counter() - start) / N_COST
    exam.costs["1 token, ms"] = each
    if each > SLOW_MS:
        exam.find("S8", f"{each:.1f} ms a token over {N_COST:,} tokens", "warning")
