"""What is asked of a picker alone: that it takes what is allowed, as often as it should.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gptkit.decoding.request import Request, Stops
from gptkit.testing import values
from gptkit.testing.rows import NO, Place

if TYPE_CHECKING:
    from gptkit.testing.report import Examination
    from gptkit.testing.rows import Bench, Case

N_DRAWS = 20_000
N_TOKENS = 12
UNLIKELY = 1e-7
"""A picker that is right is reported once in so many runs."""


def forbidden(exam: Examination, cases: list[Case]) -> None:
    """Look at what was picked."""
    for case in cases:
        size = case.logits.shape[-1]
        outside = (case.out < 0) | (case.out >= size)
        if bool(outside.any()):
            exam.find("C4", f"it picked {int(case.out[outside][0])}, which is no id below {size}")
            continue
        picked = case.logits.gather(-1, case.out[:, None])[:, 0]
        if bool((picked == NO).any()):
            exam.find("C4", "it picked a forbidden token")


def chi_square(exam: Examination, bench: Bench) -> None:
    """Compare draws of many seeds with softmax; one that does not draw has nothing to compare.

    A picker may mean to draw otherwise, so that a difference is a warning.
    """
    given = values.off_values(bench.cls, bench.rng, N_TOKENS)
    row = torch.randn(N_TOKENS, generator=bench.generator, dtype=torch.float64) * 1.5
    tokens, stage = bench.history(4, N_TOKENS), bench.stage(given)
    state = bench.place(tokens, given, N_TOKENS).states[0]
    places = [
        Place(Request(tuple(tokens), (stage,), Stops(), seed), tokens, [state])
        for seed in (bench.rng.getrandbits(62) for _ in range(N_DRAWS))
    ]
    ids = bench.apply(row.float().expand(N_DRAWS, -1).contiguous(), places)
    counts = torch.bincount(ids, minlength=N_TOKENS).double()
    if int((counts > 0).sum()) == 1:
        return
    expected = row.softmax(-1) * N_DRAWS
    statistic = float(((counts - expected).square() / expected).sum())
    if chance(statistic, N_TOKENS - 1) < UNLIKELY:
        exam.find(
            "C18",
            f"{N_DRAWS:,} draws of {N_TOKENS} tokens do not look like softmax "
            f"(chi-square {statistic:.0f}); if they should not, all is well",
            "warning",
        )


def chance(statistic: float, degrees: int) -> float:
    """Return how likely a chi-square above this is (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    z = ((statistic / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(z / math.sqrt(2)) / 2
