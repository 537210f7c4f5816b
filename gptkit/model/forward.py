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


@dataclass(frozen=True, slots=True)
class Span:
    """`n` new tokens of one sequence: they take positions start .. start + n - 1 of `slot`.

    A span whose slot is None is padding: it keeps the shape fixed and touches no slot.
    """

    slot: int | None
    start: int
    n: int


class Cache(Protocol):
    """Keys and values of sequences, by slot. What lies beyond a sequence's length is garbage."""

    @property
    def nbytes(self) -> int:
        """Bytes that the cache may take; they are reserved, not yet used."""
        ...


class Forward(Protocol):
    """A model that can decode. Implemented by `gpt.GPT` and `reference.ReferenceGPT`."""

    config: GPTConfig

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
