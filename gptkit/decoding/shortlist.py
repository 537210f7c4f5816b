"""The end of a chain over the best tokens of each row alone, in plain numbers.

Most chains cut to a few tokens soon. To find these takes one look at the logits; all that follows
is arithmetic on some dozen numbers, for which a call of torch or NumPy takes longer than Python.
R rows, V vocabulary, n tokens of a shortlist.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

from gptkit.decoding.noise import PICK
from gptkit.errors import PluginError, plugin_code
from gptkit.plugin_api import Sampler

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gptkit.decoding.chain import PositionRows
    from gptkit.decoding.request import Chain
    from gptkit.ranking import Found, Ints

LONGEST = 256
"""Tokens of a shortlist, at most: to find more takes as long as to run the stages over all."""
_NO = float("-inf")


class Short:
    """The best tokens of one row that are allowed; the `Shortlist` of the plugin api."""

    def __init__(self, row: int, logits: list[float], *, is_all: bool, noise: _Noise) -> None:
        self.row = row
        self.logits = logits
        self.is_all = is_all
        self.is_sure = True
        """Whether all that was asked so far follows from these tokens."""
        self._noise = noise

    @property
    def noise(self) -> list[float]:
        """The noise of each token."""
        return self._noise.of_rows[self.row][: len(self.logits)]

    def become(self, logits: list[float] | int | None, label: str) -> None:
        """Take over what a stage has left; raise PluginError for what can't be that."""
        if not logits:  # where a stage would leave nothing, its phase decides what comes of it
            self.is_sure = False
            return
        if not isinstance(logits, list) or len(logits) > len(self.logits):
            raise PluginError(f"sampler '{label}' shortened a row to what is no part of it")
        before = self.logits[: len(logits)]
        if logits != before and (
            not all(map(math.isfinite, logits)) or len(set(logits)) < len(set(before))
        ):
            self.is_sure = False  # rounding has made equals, which stand in the order of their ids
        else:
            self.is_all = self.is_all or len(logits) < len(self.logits)
            self.logits = logits


class _Noise:
    """The noise of the shortlists' tokens, made for all rows when the first one asks."""

    def __init__(self, rows: PositionRows, ids: Ints) -> None:
        self.rows, self.ids = rows, ids
        self.shorts: list[Short] = []

    @cached_property
    def of_rows(self) -> list[list[float]]:
        """The noise of the tokens that are left of each row, and of others behind them."""
        width = max(len(short.logits) for short in self.shorts)
        found: list[list[float]] = self.rows.uniforms(self.ids[:, :width]).tolist()
        return found


def plan(samplers: Sequence[Sampler], chains: Collection[Chain]) -> tuple[int, int] | None:
    """Return from which stage on shortlists serve rows of these chains, and how long they must be.

    None where a row would need a long one, or where that can't be told.
    """
    first = max(_first_stage(samplers, chain) for chain in chains)
    n = max(_length(samplers, chain, first) for chain in chains)
    return (first, n) if n <= LONGEST else None


def _first_stage(samplers: Sequence[Sampler], chain: Chain) -> int:
    """Return from which stage on all that are on know shortlists."""
    for i in reversed(range(len(samplers))):
        if not chain[i].is_off and type(samplers[i]).shorten is Sampler.shorten:
            return i + 1
    return 0


def _length(samplers: Sequence[Sampler], chain: Chain, first: int) -> int:
    """Return how many tokens the stages from `first` on have to see of a row.

    Of what a stage leaves at most it is one more, for it is seen to have left out the others by
    what it leaves of these.
    """
    least = LONGEST + 1
    for sampler, stage in zip(samplers[first:], chain[first:], strict=True):
        if not stage.is_off:
            with plugin_code(f"sampler '{stage.label}'"):
                most = sampler.most_left(stage.rounded)
            if most is not None:
                least = min(least, most + (sampler.phase != "pick"))
    return least


def begin(found: Found, rows: PositionRows) -> list[Short]:
    """Return the shortlists of rows, whose best tokens were found."""
    rows.domain = PICK
    n = found.ids.shape[1]
    noise = _Noise(rows, found.ids)
    noise.shorts = [
        Short(row, some, is_all=n == rows.V or len(some) < n, noise=noise)
        for row, some in enumerate(map(_allowed, found.scores.tolist()))
    ]
    return noise.shorts


def pick(
    samplers: Sequence[Sampler], first: int, found: Found, rows: PositionRows
) -> list[int | None]:
    """Return the token of each row by its best tokens, which are those before the first stage.

    None where that depends on others.
    """
    shorts = begin(found, rows)
    chains = [one.request.chain for one in rows.positions]
    for i in range(first, len(samplers) - 1):
        with plugin_code(f"sampler '{chains[0][i].label}'"):
            for short, chain in zip(shorts, chains, strict=True):
                if short.is_sure and not chain[i].is_off:
                    left = samplers[i].shorten(short, chain[i].rounded)
                    short.become(left, chain[i].label)
    label = chains[0][-1].label
    tokens: list[int | None] = []
    with plugin_code(f"sampler '{label}'"):
        for short, chain in zip(shorts, chains, strict=True):
            at = samplers[-1].shorten(short, chain[-1].rounded) if short.is_sure else None
            if at is not None and not (isinstance(at, int) and 0 <= at < len(short.logits)):
                raise PluginError(f"picker '{label}' picked no token of its row")
            tokens.append(None if at is None else int(found.ids[short.row, at]))
    return tokens


def _allowed(logits: list[float]) -> list[float]:
    """Return those of logits, which are in order, that are above -inf."""
    return logits if logits[-1] > _NO else logits[: logits.index(_NO)]
