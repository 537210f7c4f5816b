"""One sequence being generated: its tokens, its place in the cache, its states, its text."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit.decoding.stopping import Stopper, request_view
from gptkit.errors import GptkitError, plugin_failure
from gptkit.text.stream import TextStream

if TYPE_CHECKING:
    from gptkit.decoding.request import Request, Stage
    from gptkit.plugin_api import Vocab


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way; `n_cached` of its tokens have their keys and values in `slot`."""

    id: int
    request: Request
    tokens: list[int]
    stopper: Stopper
    states: list[Any]
    deadline: float | None
    slot: int = -1
    n_cached: int = 0
    n_reused: int = 0
    stream: TextStream = field(default_factory=TextStream)

    @classmethod
    def start(cls, id: int, request: Request, vocab: Vocab, block_size: int) -> Sequence:
        """Return a sequence that has not computed anything yet; its clock starts now."""
        states = [_begin(stage, request, vocab) for stage in request.chain]
        limit = request.stops.max_time_s
        return cls(
            id,
            request,
            list(request.prompt_ids),
            Stopper(request, vocab, block_size),
            states,
            time.monotonic() + limit if limit else None,
        )

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def is_late(self) -> bool:
        """Whether the time that the request was given is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def _begin(stage: Stage, request: Request, vocab: Vocab) -> Any:
    """Return a stage's state before the first token."""
    try:
        return stage.sampler().init_state(request_view(request, stage.values, vocab))
    except GptkitError:
        raise
    except Exception as error:
        raise plugin_failure(f"sampler '{stage.label}'", error) from error
