"""Stopping: the criteria of one sequence, asked in order for each committed token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gptkit.errors import plugin_code
from gptkit.plugin_api import RequestView, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gptkit.decoding.request import Request
    from gptkit.plugin_api import StoppingCriterion, Vocab


def request_view(request: Request, params: Mapping[str, Any], vocab: Vocab) -> RequestView:
    """Return what a stage or criterion with these parameters may know of a request."""
    stop_ids = request.stops.token_ids(vocab.eos_ids)
    return RequestView(request.prompt_ids, params, vocab, request.seed, stop_ids)


class Stopper:
    """Asks eos, then the criteria by rank, then length and context; the first reason counts."""

    def __init__(self, request: Request, vocab: Vocab, block_size: int) -> None:
        self.vocab = vocab
        self.stops = request.stops
        self.room = block_size - len(request.prompt_ids)
        delays = [
            stage.values[stage.sampler.delays_stops]
            for stage in request.chain
            if stage.sampler.delays_stops is not None
        ]
        self.n_least = max(delays, default=0)
        ranked = sorted(request.stops.criteria, key=lambda c: c.criterion.rank)
        self.criteria = [c.criterion() for c in ranked]
        self.states = [
            self._begin(one, request_view(request, c.values, vocab))
            for one, c in zip(self.criteria, ranked, strict=True)
        ]

    @staticmethod
    def _begin(criterion: StoppingCriterion, request: RequestView) -> Any:
        with plugin_code(f"stopping criterion '{criterion.name}'"):
            return criterion.init_state(request)

    @property
    def observes_entropy(self) -> bool:
        """Whether any criterion wants to know the entropy."""
        return any(criterion.observes_entropy for criterion in self.criteria)

    def push(self, token_id: int, data: bytes, n_out: int, entropy: float = math.nan) -> Stop:
        """Return whether the sequence ends with its `n_out`-th token, and what to cut or hold."""
        may_end = n_out >= self.n_least
        if token_id in self.vocab.eos_ids and not self.stops.ignore_eos and may_end:
            return Stop("eos", cut_bytes=len(data))
        hold, end = 0, None
        for i, criterion in enumerate(self.criteria):  # all of them: each keeps a state
            seen = {"entropy": entropy} if criterion.observes_entropy else {}
            with plugin_code(f"stopping criterion '{criterion.name}'"):
                self.states[i], stop = criterion.push(self.states[i], token_id, data, n_out, **seen)
            if stop is not None and stop.reason is not None:
                end = end or (stop if may_end else None)
            elif stop is not None:
                hold = max(hold, stop.hold_bytes)
        if end is not None:
            return end
        if n_out >= self.stops.max_new_tokens:
            return Stop("length")
        if n_out >= self.room:
            return Stop("context")
        return Stop(hold_bytes=hold)
