"""Which cached tokens a new request can reuse: the slots, and what each holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK = 64
"""Positions that a prefill computes at once. Chunks begin at multiples of it."""


@dataclass(slots=True)
class Slot:
    """A place in the cache; `n_prefilled` of its tokens were computed in chunks of a prompt."""

    tokens: list[int] = field(default_factory=list)
    n_prefilled: int = 0
    used_at: int = 0
    busy: bool = False


class SlotTable:
    """Hands out slots, the one with the longest common prefix first, else the longest unused.

    With `whole_chunks` only whole chunks of a prompt are reused: their bits are those that a
    computation from the start would give, whatever the slot held before.
    """

    def __init__(self, n_slots: int, *, whole_chunks: bool) -> None:
        self.slots = [Slot() for _ in range(n_slots)]
        self.whole_chunks = whole_chunks
        self._clock = 0

    def take(self, prompt_ids: Sequence[int]) -> tuple[int, int] | None:
        """Return a free slot and how many of its tokens begin the prompt; None when all are busy.

        At least one token of the prompt is left to compute, or there would be no logits.
        """
        free = [i for i, slot in enumerate(self.slots) if not slot.busy]
        if not free:
            return None
        shared = {i: self._reusable(self.slots[i], prompt_ids) for i in free}
        best = max(free, key=lambda i: (shared[i], -self.slots[i].used_at))
        self.slots[best].busy = True
        return best, shared[best]

    def give_back(self, slot: int, tokens: Sequence[int], n_prefilled: int) -> None:
        """Free a slot that now holds keys and values of `tokens`."""
        self._clock += 1
        self.slots[slot] = Slot(list(tokens), n_prefilled, self._clock)

    def _reusable(self, slot: Slot, prompt_ids: Sequence[int]) -> int:
        held = slot.tokens[: slot.n_prefilled] if self.whole_chunks else slot.tokens
        limit = min(len(held), len(prompt_ids) - 1)
        same = next((i for i in range(limit) if held[i] != prompt_ids[i]), limit)
        return same // CHUNK * CHUNK if self.whole_chunks else same
