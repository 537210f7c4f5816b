"""A smaller model that guesses for a larger one.

Whoever guesses, the engine checks by sample-and-match: it computes what the chain would have picked
and keeps the draft for as long as it is the same, so that the tokens are those of a run without a
draft ("drafter-invariant", Daliri et al. 2024, arXiv:2408.07978). This drafter draws with the very
noise of the position that it guesses for, through the request's own chain, which makes it right
more often than an independent draw would be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.decoding.prefix import CHUNK
from gptkit.model.forward import ROWS, Span
from gptkit.plugin_api import Drafter, param

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gptkit.decoding.request import Request
    from gptkit.model.forward import Forward
    from gptkit.plugin_api import DraftView, Params, Vocab


@dataclass(slots=True)
class Held:
    """What a slot of the smaller model's cache holds."""

    sequence: int
    tokens: list[int]
    used_at: int


@dataclass(frozen=True, slots=True)
class Guess:
    """A position in a draft: a row of the chain."""

    request: Request
    tokens: list[int]
    prompt_len: int
    states: list[Any]


class DraftModel(Drafter):
    """A smaller model with the same tokenizer, which draws with the same noise."""

    name = "model"
    model = param("", help="name or path of the smaller model")

    def __init__(self, forward: Forward, vocab: Vocab, n_slots: int) -> None:
        from gptkit.decoding.chain import Runners

        self.forward = forward
        self.vocab = vocab
        self.cache = forward.new_cache(n_slots)
        self.held = [Held(-1, [], 0) for _ in range(n_slots)]
        self.clock = 0
        self._runners = Runners()

    def propose(self, view: DraftView, k: int, p: Params) -> Sequence[int]:
        """Return what the smaller model says next, k tokens or as many as it has room for."""
        from gptkit.decoding.sequence import Sequence as Seq

        assert isinstance(view, Seq)
        tokens, states = list(view.tokens), view.states
        slot = self._slot(view.id)
        for _ in range(min(k, self.forward.config.block_size - len(tokens))):
            logits = self._next(slot, tokens)
            guess = Guess(view.request, tokens, view.prompt_len, states)
            (picked,) = self._runners.of(view.request.chain).pick(logits, [guess], self.vocab)
            if picked.error is not None:
                break
            states = picked.states
            tokens = [*tokens, picked.token]
        return tokens[len(view.tokens) :]

    def _slot(self, sequence: int) -> int:
        """Return the sequence's slot, or the one that was not used for longest."""
        self.clock += 1
        own = [i for i, held in enumerate(self.held) if held.sequence == sequence]
        slot = own[0] if own else min(range(len(self.held)), key=lambda i: self.held[i].used_at)
        if not own:
            self.held[slot] = Held(sequence, [], 0)
        self.held[slot].used_at = self.clock
        return slot

    def _next(self, slot: int, tokens: list[int]) -> Tensor:
        """Return the logits [1, V] of what follows, computing what the slot does not hold."""
        import torch

        from gptkit.decoding.chain import one_thread

        held = self.held[slot].tokens
        n = min(len(held), len(tokens) - 1)
        start = next((i for i in range(n) if held[i] != tokens[i]), n)
        logits = torch.empty(0)
        while start < len(tokens):
            part = tokens[start : start // CHUNK * CHUNK + CHUNK]
            spare = -len(part) % ROWS
            spans = [Span(slot, start, len(part)), *[Span(None, 0, 1)] * spare]
            start += len(part)
            wanted = [len(part) - 1] if start == len(tokens) else []
            ids = [*part, *[0] * spare]
            logits = torch.as_tensor(self.forward.step(ids, spans, self.cache, wanted))
        self.held[slot].tokens = list(tokens)
        if logits.shape[-1] == self.vocab.size:
            return logits
        with one_thread():
            logits = logits.clone()
            logits[:, self.vocab.size :] = float("-inf")
        return logits
