"""Strategies at work: branches of one request, computed by the engine like other sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any

import torch

from gptkit.decoding.chain import Picked
from gptkit.decoding.sequence import first_states
from gptkit.decoding.stopping import request_view
from gptkit.errors import (
    GptkitError,
    PluginError,
    RequestError,
    Terminated,
    plugin_code,
    plugin_failure,
)
from gptkit.plugin_api import Params

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

    from gptkit.decoding.chain import ChainRunner
    from gptkit.decoding.prefix import Trunk
    from gptkit.decoding.request import Event, Request
    from gptkit.decoding.sequence import Sequence as Answer
    from gptkit.plugin_api import Branch, RequestView, Vocab


@dataclass(slots=True, eq=False)
class Twig:
    """A branch: the `Branch` of the plugin api, and its place in the cache."""

    group: Group
    tokens: list[int]
    prompt_len: int
    states: list[Any] | None
    """Those of the chain's stages; None where one of them needs a draw and there was none."""
    parent: Twig | None = None
    slot: int = -1
    trunk: Trunk | None = None
    n_cached: int = 0
    logits: Tensor | None = None
    hidden: list[Tensor] = field(default_factory=list)
    """The last layer's states of its tokens, in pieces [n, C]."""

    @property
    def request(self) -> Request:
        """The request that it belongs to."""
        return self.group.answer.request

    @property
    def n_out(self) -> int:
        """Tokens after the prompt."""
        return len(self.tokens) - self.prompt_len

    @property
    def n_shared(self) -> int:
        """Tokens that lie in the trunk."""
        return len(self.trunk.tokens) if self.trunk is not None else 0


class Group:
    """One request that a strategy serves; the `Loop` of the plugin api.

    It never touches the cache: it says which branches it wants, and the engine finds them a place.
    """

    def __init__(
        self,
        answer: Answer,
        runner: ChainRunner,
        vocab: Vocab,
        commit: Callable[[Answer, Picked, None], Event],
    ) -> None:
        choice = answer.request.strategy
        assert choice is not None
        self.answer = answer
        self.runner = runner
        self.vocab = vocab
        self.name = choice.plugin.name
        self.needs_hidden = choice.plugin.needs_hidden
        self.request: RequestView = request_view(answer.request, choice.values, vocab)
        self.max_new_tokens = min(answer.request.stops.max_new_tokens, answer.stopper.room)
        self.slots: list[int] = []
        self.wanted: list[Twig] = []
        self.events: list[Event] = []
        """What came of the tokens that were committed; the engine takes them."""
        self.ended = False
        self._commit = commit
        self._picked: dict[tuple[int, int], list[Any]] = {}
        self._root = Twig(self, list(answer.tokens), answer.prompt_len, answer.states)
        strategy, p = choice.plugin(), Params(choice.values)
        self.width: int = self._guarded(lambda: strategy.width(p))
        self._loop: Generator[Sequence[Branch], Tensor, None] = strategy.run(self, p)

    @property
    def root(self) -> Twig:
        """The prompt's own branch."""
        return self._root

    def branch(self, prompt: Sequence[int]) -> Twig:
        """Return a branch with another prompt."""
        tokens = list(map(index, prompt))
        own = set(self.answer.request.prompt_ids)  # which may have padded ids of the model
        self._check_tokens([token for token in tokens if token not in own])
        states = first_states(self.answer.request, self.vocab)
        return Twig(self, tokens, len(tokens), states)

    def fork(self, parent: Any, token: int) -> Twig:
        """Return `parent` with one more token."""
        self._check_tokens([token])
        states = self._picked.get((id(parent), token))
        if states is None and parent.states is not None:
            observed = self.runner.unseen(parent, token)
            states = self.runner.after(parent, observed) if observed is not None else None
        return Twig(self, [*parent.tokens, token], parent.prompt_len, states, parent)

    def process(self, logits: Tensor, branches: Sequence[Any]) -> Tensor:
        """Return logits [R, V] after the chain's stages, all but the picker."""
        self._check_states(branches)
        return self.runner.process(logits, branches, self.vocab)

    def pick(self, logits: Tensor, branches: Sequence[Any]) -> list[int]:
        """Return what the whole chain picks for each row of logits [R, V]."""
        self._check_states(branches)
        picks = self.runner.pick(logits, branches, self.vocab)
        for branch, picked in zip(branches, picks, strict=True):
            if picked.error is not None:
                raise picked.error
            self._picked[id(branch), picked.token] = picked.states
        return [picked.token for picked in picks]

    def hidden(self, branch: Any) -> Tensor:
        """Return the last layer's states of all its computed tokens [T, C]."""
        return torch.cat(branch.hidden)

    def commit(self, token: int) -> bool:
        """Append a token to the answer; return False when that ended it."""
        self._check_tokens([token])
        if not self.ended:
            event = self._commit(self.answer, Picked(token), None)
            self.events.append(event)
            self.ended = event.finish_reason is not None
        return not self.ended

    def advance(self, logits: Tensor | None) -> bool:
        """Go on to the next branches that it wants; return whether there are any."""
        self._picked.clear()
        for twig in self.wanted:
            twig.logits = None
        try:
            wanted = self._loop.send(logits)  # type: ignore[arg-type]
        except StopIteration:
            self.wanted = []
            return False
        except (GptkitError, Terminated):
            raise
        except (Exception, SystemExit) as error:
            raise plugin_failure(f"strategy '{self.name}'", error) from error
        self.wanted = self._checked(wanted)
        return True

    def end(self) -> None:
        """Let the generator clean up."""
        self._loop.close()

    def _check_states(self, branches: Sequence[Any]) -> None:
        if any(branch.states is None for branch in branches):
            raise RequestError(
                f"strategy '{self.name}' draws no tokens, and a stage of the chain needs that",
                hint="leave out mirostat, or the strategy",
            )

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        for token in map(index, tokens):
            if not 0 <= token < self.vocab.size:
                raise PluginError(
                    f"strategy '{self.name}' went on with {token}, no token of {self.vocab.size:,}"
                )

    def _checked(self, wanted: Any) -> list[Twig]:
        branches = list(wanted)
        if not branches or not all(isinstance(b, Twig) and b.group is self for b in branches):
            raise PluginError(f"strategy '{self.name}' yielded no branches of its own")
        if len(branches) > self.width:
            raise PluginError(
                f"strategy '{self.name}' yielded {len(branches)} branches, not at most {self.width}"
            )
        limit = self.answer.stopper.room + self.answer.prompt_len
        if any(len(b.tokens) > limit for b in branches):
            raise RequestError(f"strategy '{self.name}' went beyond the context of {limit:,}")
        return branches

    def _guarded(self, call: Any) -> Any:
        with plugin_code(f"strategy '{self.name}'"):
            return call()
