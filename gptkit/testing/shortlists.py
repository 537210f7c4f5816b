"""Examine what a sampler does to a row's best tokens alone: it must be what it does to the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.decoding import shortlist
from gptkit.decoding.rows import PositionRows
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
    shortens = cls.shorten is not Sampler.shorten
    if not shortens:
        exam.find("C23", "there is a most_left(), but no shorten(): nobody asks it", "warning")
    n_said = 0
    for case in cases:
        for row, place in enumerate(case.places):
            if place.is_off:
                continue
            _check_most_left(exam, cls, case, row)
            if shortens:
                n_said += sum(_is_shortened(exam, case, row, n) for n in LENGTHS)
    if shortens and n_said == 0:
        exam.find("C23", "shorten() returns None for every row, so nobody needs it", "warning")


def _check_most_left(exam: Examination, cls: type[Sampler], case: Case, row: int) -> None:
    most = case.sampler.most_left(case.places[row].request.chain[0].rounded)
    if most is None:
        return
    if type(most) is not int or most < 1:
        exam.find("C23", f"most_left() returned {most!r}, no number of tokens from 1 on")
    elif cls.phase != "pick" and int((case.out[row] > NO).sum()) > most:
        n_left = int((case.out[row] > NO).sum())
        exam.find("C23", f"{n_left} tokens are left, and most_left() says {most}")


def _is_shortened(exam: Examination, case: Case, row: int, n: int) -> bool:
    """Whether a stage says what becomes of a row by its n best tokens; find what is wrong."""
    logits, place = case.logits[row : row + 1], case.places[row]
    found = best(logits, n)
    (short,) = shortlist.begin(found, PositionRows([place], vocab(logits.shape[-1]), logits))
    given, ids, stage = list(short.logits), found.ids[0].tolist(), place.request.chain[0]
    left = case.sampler.shorten(short, stage.rounded)
    if short.logits != given:
        exam.find("C23", "shorten() writes into the shortlist; return a new one")
    elif left is None:
        return False
    elif stage.sampler.phase == "pick":
        if type(left) is not int or not 0 <= left < len(given):
            exam.find("C23", f"shorten() returned {left!r}, no index of {len(given)} tokens")
        elif ids[left] != int(case.out[row]):
            exam.find("C23", f"shorten() picks another token than apply() by the {n} best")
    elif not isinstance(left, list) or len(left) > len(given):
        exam.find("C23", f"shorten() returned {left!r}, no part of a list of {len(given)} logits")
    elif not _agrees(case.out[row], ids, given, left, is_all=short.is_all):
        exam.find("C23", f"{stage}: shorten() leaves something else than apply() of the {n} best")
    return True


def _agrees(
    out: Tensor, ids: list[int], given: list[float], left: list[float], *, is_all: bool
) -> bool:
    """Whether a row [V] that a stage made has these logits at the first ids, and no others.

    Where rounding has made equals of the given ones, the chain asks apply(), so it does not matter.
    """
    n = len(left)
    if len(set(left)) < len(set(given[:n])):
        return True
    others = out.index_fill(0, out.new_tensor(ids[:n]).long(), NO)
    is_all = is_all or n < len(given)
    return out[ids[:n]].tolist() == left and not (is_all and bool((others > NO).any()))
