"""Examine what a sampler does to a row's best tokens alone: it must be what it does to the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.decoding import shortlist
from gptkit.decoding.chain import PositionRows
from gptkit.plugin_api import Sampler, best
from gptkit.testing.model import vocab
from gptkit.testing.rows import NO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gptkit.testing.report import Examination
    from gptkit.testing.rows import Case

LENGTHS = (1, 2, 5, 20, 64, 10**6)


def check(exam: Examination, cls: type[Sampler], cases: Sequence[Case]) -> None:
    """Find rows of the cases that come out otherwise by a shortlist of any length."""
    n_said = 0
    for case in cases:
        for row, place in enumerate(case.places):
            if place.is_off:
                continue
            most = case.sampler.most_left(place.request.chain[0].rounded)
            if most is not None and cls.phase != "pick":
                n_left = int((case.out[row] > NO).sum())
                if n_left > most:
                    exam.find("C23", f"{n_left} tokens are left, and most_left() says {most}")
            if cls.shorten is not Sampler.shorten:
                n_said += sum(_is_shortened(exam, case, row, n) for n in LENGTHS)
    if cls.shorten is not Sampler.shorten and n_said == 0:
        exam.find("C23", "shorten() returns None for every row, so nobody needs it", "warning")


def _is_shortened(exam: Examination, case: Case, row: int, n: int) -> bool:
    """Whether a stage says what becomes of a row by its n best tokens; find what is wrong."""
    logits, place = case.logits[row : row + 1], case.places[row]
    rows = PositionRows([place], vocab(logits.shape[-1]), logits)
    found = best(logits, min(n, rows.V))
    (short,) = shortlist.begin(found, rows)
    ids = found.ids[0].tolist()
    given, stage = list(short.logits), place.request.chain[0]
    left = case.sampler.shorten(short, stage.rounded)
    if left is None:
        return False
    if isinstance(left, int):
        if ids[left] != int(case.out[row]):
            exam.find("C23", f"shorten() picks another token than apply() by the {n} best")
        return True
    if len(set(left)) < len(set(given[: len(left)])):
        return True  # rounding has made equals: then the chain asks apply()
    if not _agrees(case.out[row], ids, left, is_all=_is_all(short, left)):
        exam.find("C23", f"{stage}: shorten() leaves something else than apply() of the {n} best")
    return True


def _is_all(short: shortlist.Short, left: list[float]) -> bool:
    """Whether a stage that returned these says that no other token is left."""
    return short.is_all or len(left) < len(short.logits)


def _agrees(out: Tensor, ids: list[int], left: list[float], *, is_all: bool) -> bool:
    """Whether a row [V] that a stage made has these logits at the first ids, and no others."""
    n = len(left)
    others = out.index_fill(0, out.new_tensor(ids[:n]).long(), NO)
    return out[ids[:n]].tolist() == left and not (is_all and bool((others > NO).any()))
