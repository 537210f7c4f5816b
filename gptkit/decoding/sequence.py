"""One sequence being generated: its tokens, its place in the cache, its states, its text."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit.decoding.stopping import Stopper, request_view
from gptkit.errors import plugin_code
from gptkit.text.stream import TextStream

if TYPE_CHECKING:
    from gptkit.decoding.chain import ChainRunner
    from gptkit.decoding.prefix import Trunk
    from gptkit.decoding.request import Request
    from gptkit.plugin_api import Observed, Vocab


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way; `n_cached` of its tokens have their keys and values in the cache.

    The first `n_shared` of them are those of its trunk, the others are in `slot`.
    """

    id: int
    request: Request
    runner: ChainRunner
    tokens: list[int]
    stopper: Stopper
    states: list[Any]
    deadline: float | None
    slot: int = -1
    trunk: Trunk | None = None
    n_cached: int = 0
    n_reused: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    stream: TextStream = field(default_factory=TextStream)
    n_best: int = field(init=False)
    """How many of the best tokens its chain looks at; 0 where it looks at all."""
    observed: list[dict[int, Observed]] = field(default_factory=list)
    """What the stages with memory learned of each new token, by stage."""

    def __post_init__(self) -> None:
        self.n_best = self.runner.n_best(self.request)

    @classmethod
    def start(
        cls, id: int, request: Request, runner: ChainRunner, vocab: Vocab, block_size: int
    ) -> Sequence:
        """Return a sequence that has not computed anything yet; its clock starts now."""
        limit = request.stops.max_time_s
        return cls(
            id,
            request,
            runner,
            list(request.prompt_ids),
            Stopper(request, vocab, block_size),
            first_states(request, vocab),
            time.monotonic() + limit if limit else None,
        )

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def n_out(self) -> int:
        """Tokens after the prompt."""
        return len(self.tokens) - self.prompt_len

    @property
    def reads_logits(self) -> bool:
        """Whether more is asked of the model's logits than a token."""
        return self.request.logprobs is not None or self.stopper.observes_entropy

    @property
    def n_shared(self) -> int:
        """Tokens that lie in the trunk."""
        return len(self.trunk.tokens) if self.trunk is not None else 0

    @property
    def is_late(self) -> bool:
        """Whether the time that the request was given is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline


@dataclass(frozen=True, slots=True)
class Ahead:
    """A sequence as it would be if the first tokens of its draft were right."""

    sequence: Sequence
    draft: list[int]

    @property
    def request(self) -> Request:
        """The request."""
        return self.sequence.request

    @property
    def tokens(self) -> list[int]:
        """Prompt, output and the draft's tokens."""
        return self.sequence.tokens + self.draft

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return self.sequence.prompt_len

    @property
    def states(self) -> list[Any]:
        """The states of a chain without memory: those of the start."""
        return self.sequence.states


def first_states(request: Request, vocab: Vocab) -> list[Any]:
    """Return the states of a chain's stages before the first token."""
    states = []
    for stage in request.chain:
        with plugin_code(f"sampler '{stage.label}'"):
            states.append(stage.sampler().init_state(request_view(request, stage.values, vocab)))
    return states
