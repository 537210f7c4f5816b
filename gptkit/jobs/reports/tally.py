"""Counting in a stream: lengths, different n-grams and repeats, in memory that stays small."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

KEPT = 2**15
"""Hashes that an estimate of n-grams keeps: up to so many different ones it is exact."""
_MASK = 2**64 - 1


def text_hash(text: str) -> int:
    """Return 64 bits that are the same on every machine and day."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


_word_hash = lru_cache(2**16)(text_hash)


@dataclass(slots=True)
class Spread:
    """How often each whole number was seen; lengths are bounded, and so is this."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, value: int) -> None:
        """Count a value."""
        self.counts[value] += 1

    def __len__(self) -> int:
        return self.counts.total()

    @property
    def total(self) -> int:
        """The sum of all values."""
        return sum(value * times for value, times in self.counts.items())

    @property
    def mean(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / len(self) if self else math.nan

    def at(self, share: float) -> int:
        """Return the smallest value that at least this share of the values don't exceed.

        `share` is 0 to 1: the minimum, nearest-rank quantiles, the maximum.
        """
        rank, seen = max(1, math.ceil(share * len(self))), 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            if seen >= rank:
                return value
        raise ValueError("no value was counted")

    @classmethod
    def joined(cls, spreads: Iterable[Spread]) -> Spread:
        """Return the values of all."""
        made = cls()
        for one in spreads:
            made.counts.update(one.counts)
        return made

    def bins(self, n: int, low: int, high: int) -> tuple[int, list[int]]:
        """Return the width of at most n equal bins from `low` to `high`, and the counts in them."""
        width = -(-(high - low + 1) // n)
        counts = [0] * ((high - low) // width + 1)
        for value, times in self.counts.items():
            counts[(value - low) // width] += times
        return width, counts


@dataclass(slots=True)
class Different:
    """How many different things a stream has: exact up to KEPT, then an estimate, 1 % off or so.

    Adaptive sampling (Flajolet 1990, after Wegman): keep what hashes below 2^-depth, and go a step
    deeper whenever that is too much.
    """

    kept: set[int] = field(default_factory=set)
    depth: int = 0

    def add(self, hashed: int) -> None:
        """Note a thing by 64 bits of hash."""
        if hashed >> (64 - self.depth):
            return
        self.kept.add(hashed)
        while len(self.kept) > KEPT:
            self.depth += 1
            self.kept = {one for one in self.kept if not one >> (64 - self.depth)}

    @property
    def count(self) -> int:
        """How many different things there were."""
        return len(self.kept) << self.depth


@dataclass(slots=True)
class Grams:
    """Distinct-1 and distinct-2 of a stream of texts (Li et al. 2016, arXiv:1510.03055).

    Words are what blanks separate. The share of different n-grams among all n-grams falls with the
    amount of text: compare equal amounts.
    """

    n_words: int = 0
    n_pairs: int = 0
    words: Different = field(default_factory=Different)
    pairs: Different = field(default_factory=Different)

    def add(self, text: str) -> None:
        """Count the words of a text, and its pairs of words."""
        hashes = [_word_hash(word) for word in text.split()]
        self.n_words += len(hashes)
        self.n_pairs += max(0, len(hashes) - 1)
        for one in hashes:
            self.words.add(one)
        for first, second in pairwise(hashes):
            self.pairs.add(_mixed(first, second))

    @property
    def is_exact(self) -> bool:
        """Whether no count is an estimate."""
        return not (self.words.depth or self.pairs.depth)

    def distinct(self, n: int) -> float:
        """Return distinct-n for n of 1 or 2; NaN where there is no n-gram."""
        seen, different = ((self.n_words, self.words), (self.n_pairs, self.pairs))[n - 1]
        return different.count / seen if seen else math.nan


def _mixed(first: int, second: int) -> int:
    """Return one hash of two, in which their order counts: the end of splitmix64."""
    x = (first * 0x9E3779B97F4A7C15 + second) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@dataclass(frozen=True, slots=True)
class Repeated:
    """Texts that several rows have: `n_rows` have one of them, and they are `n_texts` different.

    The most common is that of `most` rows, known by its `hashed`.
    """

    n_rows: int = 0
    n_texts: int = 0
    most: int = 0
    hashed: int | None = None


@dataclass(slots=True)
class Repeats:
    """Finds texts that occur in several rows, in 8 bytes a text."""

    hashes: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, texts: Iterable[str]) -> None:
        """Add the texts of a row; the same one twice in it is no repeat."""
        self.hashes.extend({text_hash(text) for text in texts})

    def found(self) -> Repeated:
        """Return what is repeated so far."""
        import numpy as np

        hashes, first, times = np.unique(
            np.array(self.hashes, dtype=np.uint64), return_index=True, return_counts=True
        )
        again = times[times > 1]
        if not again.size:
            return Repeated()
        most = int(again.max())
        best = np.flatnonzero(times == most)
        earliest = best[first[best].argmin()]  # of those that are equally common
        return Repeated(int(again.sum()), int(again.size), most, int(hashes[earliest]))
