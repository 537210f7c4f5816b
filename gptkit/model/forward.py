"""The protocol that decoding knows: new tokens and a cache in, logits out.

The new tokens of several sequences lie end to end, so that one call serves a step of many
sequences, a chunk of a prompt, or several drafted positions of one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gptkit.model.config import GPTConfig
    from gptkit.ranking import Found


ROWS = 4
"""Rows of a step come in multiples of this: then a matrix product gives a row the same bits in
whatever place it stands, among however many (measured for float32 on CPU, 4 to 512 rows)."""


def round_up(n: int, unit: int) -> int:
    """Return the next multiple of `unit` that is not below n."""
    return -(-n // unit) * unit


LENGTHS = 64
"""Cached positions are read in multiples of this, what is too many masked."""


def slot_positions(block_size: int) -> int:
    """Return how many positions a slot of the cache has, so that any read can be rounded up."""
    return round_up(block_size, LENGTHS) + LENGTHS


@dataclass(frozen=True, slots=True)
class Span:
    """`n` new tokens of one sequence: they take positions start .. start + n - 1 of `slot`.

    The first `shared` positions are not in `slot` but in `trunk`, another slot, where there is one.
    A span whose slot is None is padding: it keeps the shape fixed and touches no slot.
    """

    slot: int | None
    start: int
    n: int
    trunk: int | None = None
    shared: int = 0


class Cache(Protocol):
    """Keys and values of sequences, by slot. What lies beyond a sequence's length is garbage."""

    @property
    def nbytes(self) -> int:
        """Bytes that the cache may take; they are reserved, not yet used."""
        ...


class Forward(Protocol):
    """A model that can decode. Implemented by `gpt.GPT` and `reference.ReferenceGPT`."""

    config: GPTConfig
    shares_prefixes: bool
    """Whether it is a SharingForward, and serves spans with a trunk."""
    ranks: bool
    """Whether it is a RankingForward."""

    def new_cache(self, n_slots: int) -> Cache:
        """Return an empty cache of `n_slots` sequences, each of up to block_size positions."""
        ...

    def step(
        self, ids: Sequence[int], spans: Sequence[Span], cache: Any, wanted: Sequence[int]
    ) -> Any:
        """Append the spans' tokens to the cache; return logits [len(wanted), V] as an array.

        `ids` are the N tokens of all spans, end to end; `wanted` are indices into them. The
        logits of index i are those of the token that follows ids[i].
        """
        ...


class SharingCache(Cache, Protocol):
    """A cache whose slots can take from each other."""

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Give one slot the positions start .. end - 1 of another."""
        ...

    def clear(self, slot: int) -> None:
        """Forget what a slot holds."""
        ...


class SharingForward(Forward, Protocol):
    """A model that strategies can use, and whose sequences share what they have in common."""

    def new_cache(self, n_slots: int) -> SharingCache:
        """Return an empty cache of `n_slots` sequences, each of up to block_size positions."""
        ...

    def hidden(self, ids: Sequence[int], spans: Sequence[Span], cache: Any) -> Any:
        """Append the spans' tokens to the cache; return the last layer's states [N, C]."""
        ...

    def head(self, hidden: Any, wanted: Sequence[int]) -> Any:
        """Return logits [len(wanted), V] of the rows `wanted` of states [N, C]."""
        ...


class RankingForward(Forward, Protocol):
    """A model that finds the best tokens where it computes them, while they are in its caches."""

    def step_ranked(
        self, ids: Sequence[int], spans: Sequence[Span], cache: Any, wanted: Sequence[int], n: int
    ) -> tuple[Any, Found | None]:
        """Do as `step`; return the n best tokens of each row too, n of 0 to V; None if it is 0.

        The first logit found of a row is NaN where any is.
        """
        ...
