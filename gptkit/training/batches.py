"""Blocks of tokens: the batch of a step is a function of seed and step, so resuming needs no state.

Shapes: A micro-batches of a step, B blocks of a micro-batch, T block size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor


class Blocks:
    """Where blocks of T + 1 tokens may begin in a stream of tokens."""

    def __init__(
        self, tokens: NDArray[np.uint32], block_size: int, starts: NDArray[np.int64] | None = None
    ) -> None:
        """Blocks begin anywhere, or only at `starts` as far as a whole block follows."""
        self.tokens = tokens
        self.block_size = block_size
        self.n_starts = len(tokens) - block_size
        assert self.n_starts > 0
        if starts is not None:
            starts = starts[starts < self.n_starts]
            # The one block that ends the stream stands in where no start has room behind it.
            starts = starts if len(starts) else np.array([self.n_starts - 1])
        self.starts = starts

    def at_random(self, seed: int, step: int, n_micro: int, n_blocks: int) -> Iterator[_Batch]:
        """Yield the A micro-batches of a step: inputs and targets [B, T]."""
        chance = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step))))
        n_choices = self.n_starts if self.starts is None else len(self.starts)
        chosen = chance.integers(n_choices, size=(n_micro, n_blocks))
        for row in chosen if self.starts is None else self.starts[chosen]:
            yield self._batch(row)

    def spread(self, n_batches: int, n_blocks: int) -> Iterator[_Batch]:
        """Yield up to `n_batches` of blocks that lie evenly over the stream, the same ones always.

        A stream that is shorter than that is covered once.
        """
        whole = max(1, (len(self.tokens) - 1) // self.block_size)
        n = min(n_batches * n_blocks, whole)
        offsets = (np.arange(n) * whole // n) * self.block_size
        for first in range(0, n, n_blocks):
            yield self._batch(offsets[first : first + n_blocks])

    def _batch(self, offsets: NDArray[np.int64]) -> _Batch:
        index = offsets[:, None] + np.arange(self.block_size + 1)  # [B, T + 1]
        block = torch.from_numpy(self.tokens[index].astype(np.int64))
        return block[:, :-1], block[:, 1:]


if TYPE_CHECKING:
    _Batch = tuple[Tensor, Tensor]
