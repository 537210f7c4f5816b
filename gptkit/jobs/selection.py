"""Which of a job's examples a row gets: the first, random ones, each label in turn, the nearest."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gptkit.jobs.spec import Select

K1, B = 1.2, 0.75
"""Of BM25: how soon a word that comes again says no more, and how much length matters."""

_DOMAIN = zlib.crc32(b"examples")
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Kana and Han, which are written without spaces: each character counts as a word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples of a job, the best first, and how many of them a row gets.

    Without an index they are the same for all rows, so that what was computed for one row serves
    the next. With one, each row has its own order.
    """

    pool: tuple[Mapping[str, str], ...] = ()
    k: int | Literal["auto"] | None = None
    index: BM25 | None = None

    @property
    def most(self) -> int:
        """How many a row gets where all of them fit."""
        return self.k if isinstance(self.k, int) else len(self.pool)

    def best(self, fields: Mapping[str, str], n: int) -> Sequence[Mapping[str, str]]:
        """Return the n best examples for a row, the best first; fewer where there are no more."""
        if self.index is None:
            return self.pool[:n]
        return [self.pool[i] for i in self.index.ranked(fields)[:n]]


def choose(
    pool: Sequence[Mapping[str, str]],
    select: Select,
    k: int | Literal["auto"] | None,
    *,
    inputs: Iterable[str],
    output: str,
    seed: int,
) -> Examples:
    """Return the examples in the order that `select` means, for a template with these fields."""
    if select == "random":
        pool = shuffled(pool, seed)
    elif select == "balanced":
        pool = in_turn(pool, output)
    index = BM25(pool, inputs) if select == "nearest" else None
    return Examples(tuple(pool), k, index)


def shuffled(pool: Sequence[Any], seed: int) -> list[Any]:
    """Return the pool in an order that the seed alone decides: each item's noise sorts it."""
    from gptkit.decoding.noise import hash32

    keys = hash32([seed], _DOMAIN, [0], range(len(pool)))[0].tolist() if pool else []
    return [pool[i] for i in sorted(range(len(pool)), key=keys.__getitem__)]


def in_turn(pool: Sequence[Mapping[str, str]], output: str) -> list[Mapping[str, str]]:
    """Return the pool with its labels in turn, the values of `output`: A B C A B C ...

    Labels and the examples of one label keep their order; a label that has no more is passed over.
    """
    groups: dict[str, list[Mapping[str, str]]] = {}
    for example in pool:
        groups.setdefault(example[output], []).append(example)
    turns = zip_longest(*groups.values())
    return [example for example in chain.from_iterable(turns) if example is not None]


class BM25:
    """Ranks examples by how much their inputs have in common with those of a row.

    The score of an example is the sum over the row's distinct words of
    `idf * tf / (tf + K1 * (1 - B + B * length / mean length))` (Robertson and Zaragoza 2009,
    equation 3.15), with `idf = log(1 + (N - n + 0.5) / (n + 0.5))` for a word that n of N examples
    have: their weight with 1 added in the logarithm, as Lucene does, or a word that more than half
    of the examples have would count against them.
    """

    def __init__(self, pool: Sequence[Mapping[str, str]], inputs: Iterable[str]) -> None:
        import numpy as np

        self.inputs = sorted(inputs)
        self._texts = [self._values(example) for example in pool]
        counts = [Counter(words(text)) for text in self._texts]
        lengths = [count.total() for count in counts]
        mean = sum(lengths) / max(len(lengths), 1) or 1.0
        postings: dict[str, list[tuple[int, int]]] = {}
        for i, count in enumerate(counts):
            for word, tf in count.items():
                postings.setdefault(word, []).append((i, tf))
        norms = [K1 * (1 - B + B * length / mean) for length in lengths]
        self._weights = {}
        for word, found in postings.items():
            idf = math.log(1 + (len(pool) - len(found) + 0.5) / (len(found) + 0.5))
            places = np.array([i for i, _ in found])
            weights = np.array([idf * tf / (tf + norms[i]) for i, tf in found])
            self._weights[word] = places, weights

    def ranked(self, fields: Mapping[str, str]) -> list[int]:
        """Return the numbers of the examples, the nearest first; the first ones where scores tie.

        An example with the same inputs as the row is left out: it would give the answer away.
        """
        import numpy as np

        mine = self._values(fields)
        scores = np.zeros(len(self._texts))
        for word in dict.fromkeys(words(mine)):  # in order: sums of floats depend on it
            if word in self._weights:
                places, weights = self._weights[word]
                scores[places] += weights
        order = np.argsort(-scores, kind="stable").tolist()
        return [i for i in order if self._texts[i] != mine]

    def _values(self, fields: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(fields[name] for name in self.inputs)


def words(texts: Iterable[str]) -> list[str]:
    """Return the words of some texts, without regard to case; punctuation parts them."""
    return [word for text in texts for word in _WORD.findall(text.casefold())]
