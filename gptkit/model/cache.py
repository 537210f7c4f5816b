"""KVCache: keys and values of sequences, by slot. The model appends and reads; nobody else.

How long a sequence is, the engine knows and says in each span, so going back costs nothing: what
lies beyond a sequence's length is garbage. Sequences that begin alike may share a trunk: a slot
that holds the positions that all of them have, once, and is read for all of them together.

A sequence's arithmetic never depends on its neighbours: its keys are read over its own length,
rounded up so that rows of several lengths go into one product and each begins where a vector of
the processor does, and products take rows in multiples of 4. (torch's fused attention gives a row
other bits on another thread, so single rows are multiplied here.)

Shapes: N new tokens, S positions of a slot, L positions that a row reads, P of a trunk, H heads, D
head size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from gptkit.model.forward import LENGTHS, ROWS, round_up, slot_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gptkit.model.config import GPTConfig
    from gptkit.model.forward import Span

VECTOR = 16
"""Float32 numbers in the longest vector of today's processors: rows of products begin at these."""
_NO = float("-inf")


class KVCache:
    """Keys and values [layer, slot, H, S, D]; memory is reserved here and used as it fills."""

    def __init__(
        self, config: GPTConfig, n_slots: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        room = slot_positions(config.block_size)
        shape = (config.n_layer, n_slots, config.n_head, room, config.head_size)
        # Zeros, since a masked position is read too, and NaN times 0 is NaN.
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values may take."""
        return 2 * self.k.numel() * self.k.element_size()

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Give one slot the positions start .. end - 1 of another."""
        for part in (self.k, self.v):
            part[:, target, :, start:end] = part[:, source, :, start:end]

    def clear(self, slot: int) -> None:
        """Forget what a slot holds, so that numbers that are not finite hurt nobody after it."""
        self.k[:, slot].zero_()
        self.v[:, slot].zero_()

    def view(self, spans: Sequence[Span]) -> View:
        """Return how one step writes and reads: made once, used by every layer."""
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        reads: list[Read] = []
        families: dict[tuple[int, int], Family] = {}
        first = 0
        for span in spans:
            here = range(span.start, span.start + span.n)
            positions.extend(here if span.slot is not None else [0] * span.n)
            if span.slot is not None:
                slots.extend([span.slot] * span.n)
                rows.extend(range(first, first + span.n))
                if span.trunk is None or span.n > 1:
                    _join(reads, Read.of(span, first))
                else:
                    key = (span.trunk, span.shared)
                    family = families.setdefault(key, Family(span.trunk, span.shared))
                    family.rows.append(first)
                    _join(family.reads, Read.of(span, first))
            first += span.n
        position, row, slot = (
            torch.tensor(values, dtype=torch.long, device=self.k.device)
            for values in (positions, rows, slots)
        )
        for read in (*reads, *(read for family in families.values() for read in family.reads)):
            read.close(self.k.device)
        for family in families.values():
            family.close(self.k.device)
        return View(self, position, row, slot, position[row], reads, list(families.values()))


@dataclass(slots=True)
class Read:
    """Rows that read the keys and values of slots side by side, in one call.

    `n` rows a slot; with n = 1 there may be many slots, each with an `end` of its own.
    """

    first: int
    slot: int
    low: int
    """The first position that is read in the slot itself; before it comes the trunk."""
    n: int
    trunk: int | None
    ends: list[int]
    mask: Tensor | None = None
    """Which of the last positions each row does not see, bool [slots, 1, n, M]; every row sees
    those before them. None where it sees all."""

    @classmethod
    def of(cls, span: Span, first: int) -> Read:
        """Return the read of one span whose rows begin at `first`."""
        low = span.shared if span.trunk is not None else 0
        return cls(first, span.slot or 0, low, span.n, span.trunk, [span.start + span.n])

    @property
    def n_slots(self) -> int:
        """Slots that are read."""
        return len(self.ends)

    @property
    def high(self) -> int:
        """Behind the last position that is read."""
        return self.low + round_up(self.ends[0] - self.low, LENGTHS)

    @property
    def rows(self) -> slice:
        """The new tokens that read."""
        return slice(self.first, self.first + self.n_slots * self.n)

    def is_followed_by(self, other: Read) -> bool:
        """Whether another read of a single row continues this one."""
        return (
            self.n == other.n == 1
            and other.slot == self.slot + self.n_slots
            and other.first == self.first + self.n_slots
            and (self.low, self.high) == (other.low, other.high)
        )

    def close(self, device: torch.device) -> None:
        """Make the mask."""
        all_see = min(self.ends) - self.n + 1
        if all_see < self.high:
            ends = torch.tensor(self.ends, device=device)[:, None, None, None]
            at = torch.arange(all_see, self.high, device=device)
            back = torch.arange(self.n - 1, -1, -1, device=device)[:, None]
            self.mask = at >= ends - back

    def scores(self, q: Tensor, keys: Tensor) -> Tensor:
        """Return q k [slots, H, n, L] of q [N, H, D], scaled, and keys [slot, H, S, D]."""
        queries = q[self.rows].view(self.n_slots, self.n, *q.shape[1:]).transpose(1, 2)
        scores: Tensor = queries @ self._part(keys).transpose(-1, -2)
        if self.mask is not None:
            scores[..., -self.mask.shape[-1] :].masked_fill_(self.mask, _NO)
        return scores

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return the mix of values [slots * n, H, D] for weights [slots, H, n, L]."""
        return (weights @ self._part(values)).transpose(1, 2).flatten(0, 1)

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the mix of values [slots * n, H, D] for q [N, H, D], scaled."""
        if self.trunk is not None:
            return self._attend_with_trunk(q, keys, values)
        return self.mix(self.scores(q, keys).softmax(-1), values)

    def _attend_with_trunk(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Several rows of one sequence, part of a prompt: they see all of the trunk."""
        k, v = keys[self.trunk, :, : self.low], values[self.trunk, :, : self.low]
        before = (q[self.rows].transpose(0, 1) @ k.transpose(-1, -2))[None]  # [1, H, n, P]
        weights = torch.cat([before, self.scores(q, keys)], -1).softmax(-1)
        trunk, own = weights[0, :, :, : self.low], weights[..., self.low :]
        return (trunk @ v).transpose(0, 1) + self.mix(own, values)

    def _part(self, cached: Tensor) -> Tensor:
        return cached[self.slot : self.slot + self.n_slots, :, self.low : self.high]


def _join(reads: list[Read], read: Read) -> None:
    """Append a read, or let the last one do its work too."""
    if reads and reads[-1].is_followed_by(read):
        reads[-1].ends += read.ends
    else:
        reads.append(read)


@dataclass(slots=True)
class Family:
    """Single rows of sequences with one trunk, whose keys and values are read once for them all."""

    trunk: int
    shared: int
    rows: list[int] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    index: Tensor | slice = field(default_factory=lambda: slice(0))
    """The rows, the first of them repeated up to a multiple of 4."""
    place: Tensor | slice = field(default_factory=lambda: slice(0))
    """The rows, each once; a slice where they stand side by side, since that copies nothing."""
    mask: Tensor | None = None

    def close(self, device: torch.device) -> None:
        """Make index and mask."""
        first, n = self.rows[0], len(self.rows)
        spare = round_up(n, ROWS) - n
        self.index = torch.tensor(self.rows + self.rows[:1] * spare, device=device)
        self.place = self.index[:n]
        if self.rows == list(range(first, first + n)):
            self.place = slice(first, first + n)
            self.index = self.index if spare else self.place
        if self.shared % VECTOR:
            self.mask = torch.arange(round_up(self.shared, VECTOR), device=device) >= self.shared

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """Write the mixes of values into the rows of `out` [N, H, D], for q [N, H, D], scaled."""
        end = round_up(self.shared, VECTOR)
        k, v = keys[self.trunk, :, :end], values[self.trunk, :, :end]  # [H, P, D]
        scores = q[self.index].transpose(0, 1) @ k.transpose(-1, -2)  # [H, R, P]
        if self.mask is not None:
            scores.masked_fill_(self.mask, _NO)
        weights = torch.zeros_like(scores)
        first = 0
        for read in self.reads:
            here = slice(first, first + read.n_slots)
            before = scores[:, here].transpose(0, 1)[:, :, None]  # [slots, H, 1, P]
            both = torch.cat([before, read.scores(q, keys)], -1).softmax(-1)
            weights[:, here] = both[:, :, 0, :end].transpose(0, 1)
            out[read.rows] = read.mix(both[..., end:].contiguous(), values)
            first = here.stop
        mixed = (weights @ v).transpose(0, 1)  # [R, H, D]
        out[self.place] += mixed[: len(self.rows)]


@dataclass(frozen=True, slots=True)
class View:
    """One step's way into the cache."""

    cache: KVCache
    positions: Tensor
    """Position of each new token [N]; 0 for padding."""
    rows: Tensor
    """Indices of the new tokens that are no padding."""
    slots: Tensor
    """Their slots."""
    at: Tensor
    """Their positions."""
    reads: list[Read]
    families: list[Family]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v [N, H, D]; return the mix of values [N, H, D] that q [N, H, D] attends to.

        Padding gets zeros.
        """
        keys, values = self.cache.k[layer], self.cache.v[layer]  # [slot, H, S, D]
        keys[self.slots, :, self.at] = k[self.rows]
        values[self.slots, :, self.at] = v[self.rows]
        out = torch.zeros_like(q)
        q = q * q.shape[-1] ** -0.5
        for read in self.reads:
            out[read.rows] = read.attend(q, keys, values)
        for family in self.families:
            family.attend(q, keys, values, out)
        return out
