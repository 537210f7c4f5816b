"""What a stage may look at of its rows: positions of sequences, and figures of their logits.

Shapes: R rows, V vocabulary, K token ids.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from gptkit.decoding import noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gptkit.decoding.request import Request
    from gptkit.plugin_api import Vocab
    from gptkit.ranking import Floats, Ints

_NO = float("-inf")
_NEXT_TO_NO = -1e3  # exp of it is 0 in float64 too, and 0 times it is no NaN


class LogitStats:
    """Figures of each row of logits [R, V]; the `Stats` of the plugin api."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @cached_property
    def max(self) -> Tensor:
        """The best logit [R, 1]."""
        return self.logits.amax(-1, keepdim=True)

    @cached_property
    def support(self) -> Tensor:
        """How many tokens are not forbidden [R, 1]."""
        return (self.logits > _NO).sum(-1, keepdim=True)

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy in nats [R, 1], never below 0."""
        below = self._below.clamp_min(_NEXT_TO_NO)
        weights = below.exp()
        total = weights.sum(-1, keepdim=True)
        entropy: Tensor = total.log() - (weights * below).sum(-1, keepdim=True) / total
        return entropy.clamp_min(0.0).float()

    @cached_property
    def std(self) -> Tensor:
        """Population standard deviation over the support [R, 1]."""
        below = self._below.masked_fill(self.logits == _NO, 0.0)
        mean, square = (x.sum(-1, keepdim=True) / self.support for x in (below, below.square()))
        std: Tensor = (square - mean.square()).clamp_min(0.0).sqrt().float()
        return std

    @property
    def _below(self) -> Tensor:
        """How far each logit is from the best, in float64."""
        return self.logits.double() - self.max


class Position(Protocol):
    """One position of one sequence: what a row stands for."""

    @property
    def request(self) -> Request:
        """The request."""
        ...

    @property
    def tokens(self) -> Sequence[int]:
        """Prompt, output, and what a draft puts before this position."""
        ...

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        ...

    @property
    def states(self) -> Any:
        """The states of the chain's stages at this position, a list."""
        ...


class PositionRows:
    """What a stage may look at, made from positions; the `Rows` of the plugin api."""

    def __init__(self, positions: Sequence[Position], vocab: Vocab, logits: Tensor) -> None:
        self.positions = positions
        self.vocab = vocab
        self.R, self.V = logits.shape
        self.device = logits.device
        self.state: list[Any] = []
        self.domain = noise.PICK
        self._stats: LogitStats | None = None
        self._seeds = [one.request.seed for one in positions]
        self._positions = [len(one.tokens) for one in positions]

    @property
    def position(self) -> Tensor:
        """Absolute index of the token being chosen [R]."""
        return torch.tensor(self._positions, device=self.device)

    @property
    def prompt_len(self) -> Tensor:
        """Tokens of the prompt [R]."""
        return torch.tensor([one.prompt_len for one in self.positions], device=self.device)

    @property
    def n_out(self) -> Tensor:
        """Tokens generated so far [R]."""
        return self.position - self.prompt_len

    def tokens(self, row: int) -> Sequence[int]:
        """Return prompt and output of one row."""
        return self.positions[row].tokens

    def seen(self, scope: Literal["all", "output"] = "all", window: int = 0) -> Tensor:
        """Return which tokens have occurred, bool [R, V]."""
        return self.counts(scope, window) > 0

    def counts(self, scope: Literal["all", "output"] = "output", window: int = 0) -> Tensor:
        """Return how often each token has occurred, float32 [R, V]."""
        counts = [
            np.bincount(self._history(one, scope, window), minlength=self.V)
            for one in self.positions
        ]
        return torch.as_tensor(np.stack(counts), dtype=torch.float32, device=self.device)

    def suffix(self, n: int) -> Tensor:
        """Return the last n tokens [R, n], -1 where a row is shorter."""
        last = [([-1] * n + list(one.tokens))[-n:] for one in self.positions]
        return torch.tensor(last, device=self.device)

    def stats(self, logits: Tensor) -> LogitStats:
        """Return figures of logits [R, V], once for the same tensor."""
        if self._stats is None or self._stats.logits is not logits:
            self._stats = LogitStats(logits)
        return self._stats

    def uniform(self, stream: int = 0) -> Tensor:
        """Return one keyed coin for each row, float32 [R, 1]."""
        return torch.as_tensor(self.uniforms(np.zeros(1, np.int64), stream), device=self.device)

    def noise(self, ids: Tensor | None = None, stream: int = 0) -> Tensor:
        """Return keyed uniforms for all tokens [R, V], or for `ids` [R, K]."""
        known = np.arange(self.V) if ids is None else ids.cpu().numpy()
        return torch.as_tensor(self.uniforms(known, stream), device=self.device)

    def uniforms(self, ids: Ints, stream: int = 0) -> Floats:
        """Return keyed uniforms for `ids` [K] or [R, K]."""
        domain = (self.domain + stream) & 0xFFFFFFFF
        return noise.uniform(self._seeds, domain, self._positions, ids)

    def few_uniforms(self, row: int, ids: list[int]) -> list[float]:
        """Return what `uniforms` does, for a few tokens of one row."""
        return noise.few_uniforms(self._seeds[row], self.domain, self._positions[row], ids)

    @staticmethod
    def _history(one: Position, scope: str, window: int) -> Any:
        tokens = one.tokens[one.prompt_len :] if scope == "output" else one.tokens
        return np.asarray(tokens[-window:] if window else tokens, np.int64)
