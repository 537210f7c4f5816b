"""The end of a chain over the best tokens of each row alone, in plain numbers.

Most chains cut to a few tokens soon. To find these takes one look at the logits; all that follows
is arithmetic on some dozen numbers, for which a call of torch or NumPy takes longer than Python.
R rows, V vocabulary, n tokens of a shortlist.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from gptkit.decoding.noise import PICK
from gptkit.errors import PluginError, plugin_code
from gptkit.plugin_api import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from gptkit.decoding.request import Chain
    from gptkit.decoding.rows import PositionRows
    from gptkit.ranking import Found

    Noise = Callable[[int, int], list[float]]
    """The noise of a row's first tokens, of which there are so many."""

LONGEST = 256
"""Tokens of a shortlist, at most: to find more takes as long as to run the stages over all."""
SPARE = 8
"""Tokens besides those that a stage may leave: logits of bfloat16 have some equals each."""
_NO = float("-inf")


class Short:
    """The best tokens of one row that are allowed; the `Shortlist` of the plugin api."""

    def __init__(self, row: int, logits: list[float], *, is_all: bool, noise: Noise) -> None:
        self.row = row
        self.logits = logits
        self.is_all = is_all
        self.is_sure = True
        """Whether all that was asked so far follows from these tokens."""
        self.is_scaled = False
        """Whether a stage has changed logits."""
        self._noise = noise

    @property
    def noise(self) -> list[float]:
        """The noise of each token."""
        return self._noise(self.row, len(self.logits))

    def become(self, logits: Any, label: str) -> None:
        """Take over what a stage has left; raise PluginError for what can't be that."""
        if logits is None:
            self.is_sure = False
            return
        if not isinstance(logits, list) or len(logits) > len(self.logits):
            raise PluginError(f"sampler '{label}' shortened a row to what is no part of it")
        n = len(logits)
        is_cut, is_scaled = n < len(self.logits), logits != self.logits[:n]
        if n == 0:
            self.is_sure = False  # what comes of a row without tokens is for its phase to say
        elif is_scaled:
            self.is_sure = self._keeps_order(logits) and (self.is_all or not is_cut)
        elif is_cut:
            self.is_sure = self.is_apart(n - 1)
        self.is_scaled = self.is_scaled or is_scaled
        self.is_all = self.is_all or is_cut
        self.logits = logits

    def _keeps_order(self, logits: list[float]) -> bool:
        """Whether these tokens stand as before: ids decide on equals, and rounding makes some."""
        n_different = len(set(self.logits[: len(logits)]))
        return all(map(math.isfinite, logits)) and len(set(logits)) == n_different

    def is_apart(self, at: int) -> bool:
        """Whether no other token, made its equal by rounding, may stand before this one.

        Those that are not here are not above the last one that is.
        """
        return self.is_all or not self.is_scaled or self.logits[at] > self.logits[-1]


def plan(samplers: Sequence[Sampler], chains: Collection[Chain]) -> tuple[int, int] | None:
    """Return from which stage on shortlists serve rows of these chains, and how long they must be.

    None where a row would need a long one, or where that can't be told. Raise PluginError for a
    stage that does not say how many tokens it leaves.
    """
    first = max(_first_stage(samplers, chain) for chain in chains)
    n = max(_length(samplers, chain, first) for chain in chains)
    return (first, n) if n <= LONGEST else None


def _is_on(chain: Chain, i: int) -> bool:
    return not chain[i].is_off or i == len(chain) - 1  # somebody has to pick


def _first_stage(samplers: Sequence[Sampler], chain: Chain) -> int:
    """Return from which stage on all that are on know shortlists."""
    for i in reversed(range(len(samplers))):
        if _is_on(chain, i) and type(samplers[i]).shorten is Sampler.shorten:
            return i + 1
    return 0


def _length(samplers: Sequence[Sampler], chain: Chain, first: int) -> int:
    """Return how many tokens the stages from `first` on have to see of a row.

    Of what a stage leaves at most it is some more: so it is seen to have left out others, and which
    of them are the equals of what it leaves.
    """
    least = LONGEST + 1
    on = [i for i in range(first, len(samplers)) if _is_on(chain, i)]
    for i in on:
        with plugin_code(f"sampler '{chain[i].label}'"):
            most = samplers[i].most_left(chain[i].rounded)
        if most is None:
            continue
        if type(most) is not int or most < 1:
            raise PluginError(f"sampler '{chain[i].label}' leaves at most {most!r} tokens")
        least = min(least, most + (SPARE if len(on) > 1 else 0))
    return least


def begin(found: Found, rows: PositionRows) -> list[Short]:
    """Return the shortlists of rows, whose best tokens were found."""
    rows.domain = PICK
    ids, n = found.ids, found.ids.shape[1]
    of_all = cache(lambda: rows.uniforms(ids).tolist())

    @cache
    def noise(row: int, n: int) -> list[float]:
        if rows.R == 1:
            return rows.few_uniforms(row, ids[row, :n].tolist())
        some: list[float] = of_all()[row][:n]
        return some

    return [
        Short(row, some, is_all=n == rows.V or len(some) < n, noise=noise)
        for row, some in enumerate(map(_allowed, found.scores.tolist()))
    ]


def pick(
    samplers: Sequence[Sampler], first: int, found: Found, rows: PositionRows
) -> list[int | None]:
    """Return the token of each row by its best tokens, which are those before the first stage.

    None where that depends on others.
    """
    shorts = begin(found, rows)
    chains = [one.request.chain for one in rows.positions]
    for i in range(first, len(samplers) - 1):
        label = chains[0][i].label
        with plugin_code(f"sampler '{label}'"):
            for short, chain in zip(shorts, chains, strict=True):
                if short.is_sure and not chain[i].is_off:
                    short.become(samplers[i].shorten(short, chain[i].rounded), label)
    label = chains[0][-1].label
    tokens: list[int | None] = []
    with plugin_code(f"sampler '{label}'"):
        for short, chain in zip(shorts, chains, strict=True):
            at = samplers[-1].shorten(short, chain[-1].rounded) if short.is_sure else None
            if at is not None and not (type(at) is int and 0 <= at < len(short.logits)):
                raise PluginError(f"picker '{label}' picked no token of its row")
            is_sure = at is not None and short.is_apart(at)
            tokens.append(int(found.ids[short.row, at]) if is_sure else None)
    return tokens


def _allowed(logits: list[float]) -> list[float]:
    """Return those of logits, which are in order, that are above -inf."""
    return logits if logits[-1] > _NO else logits[: logits.index(_NO)]
