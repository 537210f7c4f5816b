"""KVCache: keys and values of sequences, by slot. The model appends and reads; nobody else.

How long a sequence is, the engine knows and says in each span, so going back costs nothing: what
lies beyond a sequence's length is garbage.

Shapes: N new tokens, S positions of a slot, L positions of one sequence, H heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gptkit.model.config import GPTConfig
    from gptkit.model.forward import Span


class KVCache:
    """Keys and values [layer, slot, H, S, D]; memory is reserved here and used as it fills."""

    def __init__(
        self, config: GPTConfig, n_slots: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.n_layer, n_slots, config.n_head, config.block_size, config.head_size)
        self.k = torch.empty(shape, dtype=dtype, device=device)
        self.v = torch.empty(shape, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values may take."""
        return 2 * self.k.numel() * self.k.element_size()

    def view(self, spans: Sequence[Span]) -> View:
        """Return how one step writes and reads: made once, used by every layer."""
        device = self.k.device
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        reads: list[Read] = []
        first = 0
        for span in spans:
            here = range(span.start, span.start + span.n)
            positions.extend(here if span.slot is not None else [0] * span.n)
            if span.slot is not None:
                slots.extend([span.slot] * span.n)
                rows.extend(range(first, first + span.n))
                last = reads[-1] if reads else None
                if last is not None and last.is_followed_by(first, span):
                    last.n_slots += 1
                else:
                    reads.append(Read(first, span.slot, span.start, span.n, _mask(span, device)))
            first += span.n
        position, row, slot = (
            torch.tensor(values, dtype=torch.long, device=device)
            for values in (positions, rows, slots)
        )
        return View(self, position, row, slot, position[row], reads)


@dataclass(slots=True)
class Read:
    """Sequences of one length in slots side by side, which are read in one call.

    A call costs more than the arithmetic of a short sequence. Which others are in it changes no
    bit of a sequence: each is computed apart, over its own length.
    """

    first: int
    slot: int
    start: int
    n: int
    mask: Tensor | None
    n_slots: int = 1

    def is_followed_by(self, first: int, span: Span) -> bool:
        """Whether a span whose rows begin at `first` is one more of these."""
        return (
            span.slot == self.slot + self.n_slots
            and first == self.first + self.n_slots * self.n
            and (span.start, span.n) == (self.start, self.n)
        )


def _mask(span: Span, device: torch.device) -> Tensor | None:
    """Return which positions each of several new tokens sees, bool [n, L]; one sees them all."""
    if span.n == 1:
        return None
    length = span.start + span.n
    return torch.ones(span.n, length, dtype=torch.bool, device=device).tril(span.start)


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

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v [N, H, D]; return the mix of values [N, H, D] that q [N, H, D] attends to.

        Each sequence attends over its own length alone, whoever its neighbours are, so that its
        arithmetic does not depend on them. Padding gets zeros.
        """
        keys, values = self.cache.k[layer], self.cache.v[layer]  # [slots, H, S, D]
        keys[self.slots, :, self.at] = k[self.rows]
        values[self.slots, :, self.at] = v[self.rows]
        out = torch.zeros_like(q)
        for read in self.reads:
            rows = slice(read.first, read.first + read.n_slots * read.n)
            slots = slice(read.slot, read.slot + read.n_slots)
            length = read.start + read.n
            y = F.scaled_dot_product_attention(
                q[rows]
                .reshape(read.n_slots, read.n, *q.shape[1:])
                .transpose(1, 2),  # [slots, H, n, D]
                keys[slots, :, :length],
                values[slots, :, :length],
                attn_mask=read.mask,
            )
            out[rows] = y.transpose(1, 2).flatten(0, 1)
        return out
