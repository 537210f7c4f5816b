"""Which cached tokens a new request can reuse: the slots, the trunks, and what each holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CHUNK = 64
"""Positions that a prefill computes at once. Chunks begin at multiples of it."""
LEAST_SHARED = 32
"""A shorter prefix is not worth a trunk: reading it apart costs more than it saves."""


@dataclass(slots=True, eq=False)
class Slot:
    """A place in the cache; `n_prefilled` of its tokens were computed in chunks of a prompt."""

    tokens: Sequence[int] = field(default_factory=list)
    n_prefilled: int = 0
    used_at: int = 0
    busy: bool = False


@dataclass(slots=True, eq=False)
class Trunk:
    """A prefix that several sequences share by reference; its keys and values are stored once."""

    slot: int
    tokens: tuple[int, ...]
    n_cached: int = 0
    n_users: int = 0

    trunk: None = None
    """What a sequence has and a trunk has not; so both can be computed by the same code."""

    @property
    def n_shared(self) -> int:
        """Positions that lie elsewhere."""
        return 0


@dataclass(frozen=True, slots=True)
class Place:
    """A slot for a request: its first `n_reused` tokens are there, or in the slot `source`."""

    slot: int
    n_reused: int = 0
    source: int | None = None


class SlotTable:
    """Hands out slots, the one with the longest common prefix first, else the longest unused.

    With `whole_chunks` only whole chunks of a prompt are reused: their bits are those that a
    computation from the start would give, whatever the slot held before. Where `copies`, the
    prefix may also come from a slot that is in use.
    """

    def __init__(
        self, n_slots: int, n_trunks: int = 0, *, whole_chunks: bool, copies: bool = False
    ) -> None:
        self.n_slots = n_slots
        self.slots = [Slot() for _ in range(n_slots + n_trunks)]
        self.trunks: dict[tuple[int, ...], Trunk] = {}
        self.whole_chunks = whole_chunks
        self.copies = copies
        self._clock = 0

    @property
    def n_free(self) -> int:
        """Slots for sequences that nobody uses."""
        return sum(not slot.busy for slot in self.slots[: self.n_slots])

    def take(self, tokens: Sequence[int]) -> Place | None:
        """Return a free slot and how many of the tokens it need not compute; None if all are busy.

        At least one token is left to compute, or there would be no logits.
        """
        return self._place(tokens, range(self.n_slots), len(tokens) - 1)

    def take_empty(self) -> int:
        """Return a free slot for tokens that nobody else has, of which there must be one."""
        place = self._place((), range(self.n_slots), 0)
        assert place is not None
        return place.slot

    def take_trunk(self, tokens: tuple[int, ...]) -> tuple[Trunk, Place | None] | None:
        """Return the trunk of these tokens with one user more; a new one with its place.

        None when no trunk can be added now: those that there are have users.
        """
        trunk = self.trunks.pop(tokens, None)
        if trunk is not None:
            self.trunks[tokens] = trunk  # the last to be given up
            trunk.n_users += 1
            return trunk, None
        spare = range(self.n_slots, len(self.slots))
        if all(self.slots[i].busy for i in spare):
            unused = next((t for t in self.trunks.values() if not t.n_users), None)
            if unused is None:
                return None
            del self.trunks[unused.tokens]
            self.give_back(unused.slot)
        place = self._place(tokens, spare, len(tokens))
        assert place is not None
        trunk = Trunk(place.slot, tokens, place.n_reused, n_users=1)
        self.trunks[tokens] = trunk
        return trunk, place

    def holds(self, slot: int, tokens: Sequence[int], n_prefilled: int) -> None:
        """Note what a slot holds by now."""
        self.slots[slot].tokens, self.slots[slot].n_prefilled = tokens, n_prefilled

    def give_back(self, slot: int, *, empty: bool = False) -> None:
        """Free a slot; what it holds may be reused unless it is `empty` now."""
        self._clock += 1
        freed = self.slots[slot]
        freed.busy, freed.used_at = False, self._clock
        if empty:
            self.holds(slot, (), 0)

    def _place(self, tokens: Sequence[int], among: Iterable[int], limit: int) -> Place | None:
        free = [i for i in among if not self.slots[i].busy]
        if not free:
            return None
        shared = {i: self._reusable(self.slots[i], tokens, limit) for i in free}
        best = max(free, key=lambda i: (shared[i], -self.slots[i].used_at))
        place = Place(best, shared[best])
        if self.copies:
            everyone = [self._reusable(slot, tokens, limit) for slot in self.slots]
            source = max(range(len(everyone)), key=everyone.__getitem__)
            if everyone[source] > shared[best]:
                best = min(free, key=lambda i: self.slots[i].used_at)
                place = Place(best, everyone[source], source)
        self.slots[best].busy = True
        self.holds(best, list(tokens[: place.n_reused]), place.n_reused)
        return place

    def _reusable(self, slot: Slot, tokens: Sequence[int], limit: int) -> int:
        n = min(slot.n_prefilled if self.whole_chunks else len(slot.tokens), len(tokens), limit)
        same = next((i for i in range(n) if slot.tokens[i] != tokens[i]), n)
        return same // CHUNK * CHUNK if self.whole_chunks else same
