"""Examine a sampler: what it promises to the engine, one function for each promise.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from gptkit.errors import ConfigError, RequestError
from gptkit.plugin_api import Sampler
from gptkit.testing import cuda, imports, pickers, schedules, shortlists, values
from gptkit.testing.model import REAL
from gptkit.testing.report import Examination
from gptkit.testing.rows import NO, Bench, Watch, other_randomness, pickled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gptkit.testing.report import Report
    from gptkit.testing.rows import Case, Place

N_CASES = 12
N_ROWS = 5
N_MANY = 16
"""Rows over the real vocabulary: that a sum rounds otherwise shows in every third of them."""
SHIFT = 4.0
SLOW_MS = 30.0
"""Milliseconds for one row of 50,257 above which a sampler is called slow."""
PATIENCE_S = 1.0
"""Seconds in which rows are compared one by one."""


def examine(cls: type[Sampler], *, seed: int = 0) -> Report:
    """Examine a sampler class; a picker is a sampler that returns ids."""
    exam = Examination(cls.name, "sampler", cls.summary(), imports.file_of(cls))
    imports.check(exam, cls)
    if exam.check("C1", "the declaration is complete", _declaration, cls):
        bench = Bench(cls, seed)
        cases: list[Case] = []
        if exam.check("C3", "shape, type and finite numbers", _output, bench, cases):
            _examine_further(exam, bench, cases)
    return exam.report()


def _examine_further(exam: Examination, bench: Bench, cases: list[Case]) -> None:
    exam.check("C2", "the input is not written into", _input, cases)
    if bench.cls.phase == "pick":
        exam.check("C4", "a forbidden token is never picked", pickers.forbidden, cases)
    else:
        exam.check("C4", "a forbidden token stays forbidden", _resurrection, cases)
        exam.check("C5", "at least one token is left", _survivors, bench, cases)
    exam.check("C6", "the same input gives the same output", _purity, bench, cases)
    exam.check("C7", "a row alone is the row in any batch, bitwise", _rows, bench, cases)
    if bench.cls.phase != "pick" and not bench.cls.gauge_dependent:
        exam.check("C8", "a constant added to the logits changes nothing", _gauge, bench, cases)
    exam.check("C9", "a vocabulary of one token", _one_token, bench)
    exam.check("C21", "finite at the ends of the ranges", _ends, bench)
    exam.check("C10", "the state is a value and pickles", _state, bench)
    exam.check("C12", "V=50,257 and 2 threads: a row alone is the row, bitwise", _real, bench)
    exam.check("C13", "milliseconds a step at V=50,257", _cost, bench)
    cuda.check(exam, bench)
    if bench.cls.phase == "pick":
        exam.check("C18", "draws have the probabilities of softmax", pickers.chi_square, bench)
    elif any(p.off is not None for p in bench.cls.params.values()):
        exam.check("C22", "off changes no token", schedules.off_is_off, bench)
    if bench.cls.shorten is not Sampler.shorten or bench.cls.most_left is not Sampler.most_left:
        exam.check(
            "C23", "a row's best tokens alone come to the same", shortlists.check, bench.cls, cases
        )
    exam.check("C11", "the same tokens in any schedule", schedules.sampler, bench)


def _declaration(exam: Examination, cls: type[Sampler]) -> None:
    values.check_declared(exam, cls, "C1")
    cls()
    if cls.phase != "pick" and not any(p.off is not None for p in cls.params.values()):
        exam.find("C1", "no parameter has an `off` value, so nobody can switch it off", "warning")
    remembers = cls.state_from is not None
    if remembers != (cls.advance is not Sampler.advance):
        said = "has no advance()" if remembers else "is None, so advance() is never called"
        exam.find("C1", f"state_from is {cls.state_from!r}, but it {said}")
    if cls.delays_stops is not None and cls.delays_stops not in cls.params:
        exam.find("C1", f"delays_stops names no parameter: {cls.delays_stops!r}")


# Over the cases -------------------------------------------------------------------------------


def _output(exam: Examination, bench: Bench, cases: list[Case]) -> None:
    """Make the cases, and look at the form of what comes out."""
    for trial in range(N_CASES):
        logits, is_plain = _logits(bench, trial)
        case = bench.case(logits, is_plain=is_plain)
        if not _has_form(exam, bench, case.out, case.logits):
            return
        cases.append(case)


def _logits(bench: Bench, trial: int) -> tuple[Tensor, bool]:
    """Return logits [R, V], and whether they are ordinary ones."""
    logits = bench.grid(N_ROWS)
    if trial % 3 == 1:  # most tokens are forbidden by an earlier stage
        gone = torch.rand(logits.shape, generator=bench.generator) < 0.8
        logits = logits.masked_fill(gone, NO)
        logits[:, 3] = 0.5
    elif trial % 3 == 2:
        logits[0] = 0.0
        logits[1], logits[1, 7] = NO, 1.0  # one survivor
        logits[2] *= 2000  # up to 1e4
        logits[3] *= -1e-3
        logits[4] *= 1e-39  # subnormal numbers
        return logits, False
    return logits, trial % 3 == 0


def _has_form(exam: Examination, bench: Bench, out: Any, logits: Tensor) -> bool:
    is_picker = bench.cls.phase == "pick"
    shape, dtype = (logits.shape[:1], torch.int64) if is_picker else (logits.shape, logits.dtype)
    if not isinstance(out, torch.Tensor):
        exam.find("C3", f"apply() returned {type(out).__name__}, no tensor")
    elif out.shape != shape or out.dtype != dtype:
        exam.find(
            "C3", f"apply() returned {out.dtype} {list(out.shape)}, not {dtype} {list(shape)}"
        )
    elif not is_picker and bool((out.isnan() | (out == -NO)).any()):
        exam.find("C3", f"NaN or +inf in the output, {_what(logits, ~(out < -NO))}")
    else:
        return True
    return False


def _what(logits: Tensor, wrong: Tensor) -> str:
    """Say what is special in the first row with something wrong [R, V]."""
    row = logits[wrong.any(-1)][0]
    if bool((row == NO).any()):
        return f"where {int((row == NO).sum())} of {len(row)} tokens are forbidden"
    return f"of logits from {float(row.min()):g} to {float(row.max()):g}"


def _input(exam: Examination, cases: list[Case]) -> None:
    if any(case.has_changed for case in cases):
        exam.find("C2", "apply() writes into its input; return new logits")


def _resurrection(exam: Examination, cases: list[Case]) -> None:
    for case in cases:
        raised = (case.logits == NO) & (case.out > NO)
        if bool(raised.any()):
            value = float(case.out[raised][0])
            exam.find("C4", f"a forbidden token has the logit {value:g} now; it must stay -inf")


def _survivors(exam: Examination, bench: Bench, cases: list[Case]) -> None:
    """A constraint may forbid all; a ban may take the last token, but not all of many."""
    if bench.cls.phase == "constraint":
        return
    truncates = bench.cls.phase in ("scale", "truncate")
    for case in cases:
        open_rows = (case.logits > NO).float().mean(-1) > 0.5
        empty = (case.out == NO).all(-1) & (open_rows | truncates)
        if bool(empty.any()):
            given = case.places[int(empty.int().argmax())].request.chain[0]
            exam.find("C5", f"{given} forbids every token of a row; keep the best one at least")


def _purity(exam: Examination, bench: Bench, cases: list[Case]) -> None:
    for case in cases:
        watched = [Watch(place.states[0]) for place in case.places]
        with other_randomness(2):
            again = bench.apply(case.logits.clone(), case.places, case.sampler)
        again = bench.restored(again, case.logits, case.places)
        if any(watch.has_changed for watch in watched):
            exam.find("C6", "apply() changes the state; that belongs into advance()")
        if not torch.equal(again, case.out):
            exam.find(
                "C6",
                "the same input gives another output: something is kept on self, or drawn from a "
                "global random generator instead of rows.uniform() or rows.noise()",
            )


def _rows(exam: Examination, bench: Bench, cases: list[Case]) -> None:
    for case in cases:
        mixed = list(range(len(case.places)))
        bench.rng.shuffle(mixed)
        if not _agrees(bench, case, mixed):
            exam.find("C7", "a row's result depends on its place among the rows")
        for i in range(len(case.places)):
            if not _agrees(bench, case, [i]):
                exam.find(
                    "C7",
                    "a row alone differs from the row in a batch: a parameter, a coin, a length "
                    "or a sum of another row gets in",
                )


def _agrees(bench: Bench, case: Case, chosen: list[int]) -> bool:
    """Whether some rows of a case, in this order and in a new instance, come out the same."""
    places, logits = [case.places[i].copied() for i in chosen], case.logits[chosen].clone()
    out = bench.restored(bench.apply(logits.clone(), places), logits, places)
    return torch.equal(out, case.out[chosen])


def _gauge(exam: Examination, bench: Bench, cases: list[Case]) -> None:
    for case in cases:
        if not case.is_plain:
            continue
        raised = case.logits + SHIFT
        out = bench.restored(bench.apply(raised, case.places), raised, case.places)
        one, two = out.double().log_softmax(-1), case.out.double().log_softmax(-1)
        near = 1e-3 + 1e-5 * case.out.masked_fill(case.out == NO, 0.0).abs().max().item()
        same = torch.equal(out == NO, case.out == NO)
        if not same or bool((one - two)[two > NO].abs().gt(near).any()):
            exam.find(
                "C8",
                f"adding {SHIFT:g} to all logits changes the result; compare with the best logit "
                "or with log-probabilities, or declare gauge_dependent = True",
            )


# Special rows ---------------------------------------------------------------------------------


def _one_token(exam: Examination, bench: Bench) -> None:
    logits = torch.zeros(N_MANY, 1)
    try:
        places = bench.places(N_MANY, size=1)
    except (ConfigError, RequestError):
        return  # a text that this vocabulary can't say may be refused
    out = bench.apply(logits.clone(), places)
    if _has_form(exam, bench, out, logits) and bench.cls.phase in ("scale", "truncate"):
        if bool((bench.restored(out, logits, places) == NO).any()):
            exam.find("C9", "with a vocabulary of one token it forbids that one")


def _ends(exam: Examination, bench: Bench) -> None:
    """Each parameter at each end of its range, the others inside theirs."""
    for key, declared in bench.cls.params.items():
        for end in values.ends(declared):
            for scale in (1.0, 2000.0, 1e-39):
                logits = bench.grid(3) * scale
                logits[1, 5:] = NO
                places = []
                for row in range(3):
                    given = values.choose(bench.cls, bench.rng, logits.shape[-1])
                    try:
                        place = bench.place(bench.history(9 * row + 3), {**given, key: end})
                    except (ConfigError, RequestError):
                        continue  # refused when it is asked for, which is fine
                    places.append(place)
                some = logits[: len(places)]
                if not places or all(place.is_off for place in places):
                    continue
                out = bench.apply(some.clone(), places)
                if isinstance(out, torch.Tensor) and out.shape == some.shape:
                    out = bench.restored(out, some, places)
                probe = Examination(exam.name, exam.kind, "")
                if not _has_form(probe, bench, out, some):
                    exam.find("C21", f"{key}={end}: {probe.findings[0].message}")
                elif bench.cls.phase in ("scale", "truncate") and bool((out == NO).all(-1).any()):
                    exam.find("C21", f"{key}={end} forbids every token of a row")


def _state(exam: Examination, bench: Bench) -> None:
    """Advance once from one state, twice over: nothing but a value gives the same again."""
    for place in bench.places(3):
        if bench.cls.state_from is not None:
            before, watch = place.copied(), Watch(place.states[0])
            logits = bench.grid(1)
            token = int(bench.restored(bench.apply(logits, [place]), logits, [place]).argmax())
            sampler = bench.cls()
            after = bench.after(place, token, sampler)
            if watch.has_changed:
                exam.find("C10", "advance() changes the old state; return a new one")
            if after.states[0] is None:
                exam.find("C10", "advance() returns no state")
            again = bench.after(before, token, sampler)
            if not _acts_alike(bench, after, again):
                exam.find("C10", "advance() from equal states leads to different results")
            place = after
        try:
            pickled(place.states[0])
        except Exception as error:
            exam.find("C10", f"the state does not pickle: {error}")
            continue
        if not _acts_alike(bench, place, place.copied()):
            exam.find("C10", "a state that was pickled and read again does something else")


def _acts_alike(bench: Bench, one: Place, two: Place) -> bool:
    logits = bench.grid(1)
    return torch.equal(bench.apply(logits.clone(), [one]), bench.apply(logits.clone(), [two]))


# The real vocabulary --------------------------------------------------------------------------


def _real(exam: Examination, bench: Bench) -> None:
    """Sums of float32 over one row are split over threads, those over rows of several are not."""
    logits = torch.randn(N_MANY, REAL, generator=bench.generator) * 3
    places = bench.places(N_MANY, REAL)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    end = time.monotonic() + PATIENCE_S
    try:
        full = bench.apply(logits.clone(), places)
        for i in range(N_MANY):
            alone = bench.apply(logits[i : i + 1].clone(), places[i : i + 1])
            if not torch.equal(alone[0], full[i]):
                exam.find(
                    "C12",
                    "a row alone differs from the row in a batch in its last bits: take sums in "
                    "float64, or from rows.stats() or log_softmax()",
                )
                break
            if time.monotonic() > end:
                break
    finally:
        torch.set_num_threads(n_threads)


def _cost(exam: Examination, bench: Bench) -> None:
    logits = torch.randn(64, REAL, generator=bench.generator) * 3
    places = bench.places(64, REAL, length=200)
    one = _milliseconds(bench, logits[:1], places[:1], 5)
    exam.costs["1 row, ms"] = one
    if one > SLOW_MS:
        exam.find(
            "C13", f"{one:.0f} ms for a row of {REAL:,}: is there a loop over tokens?", "warning"
        )
    else:
        exam.costs["64 rows, ms"] = _milliseconds(bench, logits, places, 2)


def _milliseconds(bench: Bench, logits: Tensor, places: Sequence[Place], n: int) -> float:
    """Return the best of n calls; of a busy machine's only the time at work."""
    sampler, best = bench.cls(), float("inf")
    for _ in range(n):
        wall, work = time.perf_counter(), time.process_time()
        bench.apply(logits, places, sampler)
        taken = min(time.perf_counter() - wall, time.process_time() - work)
        best = min(best, 1000 * taken)
    return best
