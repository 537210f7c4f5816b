"""Stopping: the criteria of one sequence, asked in order for each committed token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptkit.errors import GptkitError, plugin_failure
from gptkit.plugin_api import RequestView, Stop

if TYPE_CHECKING:
    from gptkit.decoding.request import Request
    from gptkit.plugin_api import StoppingCriterion, Vocab


class Stopper:
    """Asks eos, then the criteria by rank, then length and context; the first reason counts."""

    def __init__(self, request: Request, vocab: Vocab, block_size: int) -> None:
        self.vocab = vocab
        self.stops = request.stops
        self.room = block_size - len(request.prompt_ids)
        ranked = sorted(request.stops.criteria, key=lambda c: c.criterion.rank)
        self.criteria = [c.criterion() for c in ranked]
        self.states = [
            self._begin(one, RequestView(request.prompt_ids, c.values, vocab, request.seed))
            for one, c in zip(self.criteria, ranked, strict=True)
        ]

    @staticmethod
    def _begin(criterion: StoppingCriterion, request: RequestView) -> Any:
        try:
            return criterion.init_state(request)
        except GptkitError:
            raise
        except Exception as error:
            raise plugin_failure(f"stopping criterion '{criterion.name}'", error) from error

    def push(self, token_id: int, data: bytes, n_out: int) -> Stop:
        """Return whether the sequence ends with its `n_out`-th token, and what to cut or hold."""
        if token_id in self.vocab.eos_ids and not self.stops.ignore_eos:
            return Stop("eos", cut_bytes=len(data))
        hold, end = 0, None
        for i, criterion in enumerate(self.criteria):  # all of them: each keeps a state
            try:
                self.states[i], stop = criterion.push(self.states[i], token_id, data, n_out)
            except GptkitError:
                raise
            except Exception as error:
                raise plugin_failure(f"stopping criterion '{criterion.name}'", error) from error
            if stop is not None and stop.reason is not None and end is None:
                end = stop
            elif stop is not None:
                hold = max(hold, stop.hold_bytes)
        if end is not None:
            return end
        if n_out >= self.stops.max_new_tokens:
            return Stop("length")
        if n_out >= self.room:
            return Stop("context")
        return Stop(hold_bytes=hold)
