"""How likely a model finds given texts: log-probabilities, many texts at once.

Steps have the engine's shapes: chunks that begin at multiples of 64, rows in multiples of 4. So the
figures of a text do not depend on its neighbours, nor on who computed a prefix before it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch

from gptkit.decoding.prefix import CHUNK, SlotTable
from gptkit.errors import ConfigError, NonFiniteLogits
from gptkit.model.forward import ROWS, Span, round_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gptkit.errors import GptkitError
    from gptkit.model.forward import Forward, SharingCache

LOGITS_BYTES = 48 * 2**20
"""Logits of a step at most; their log-probabilities take as much again."""
MOST_LOSS = 700.0
"""Nats in the mean; of more the perplexity is no float."""
MOST_ROWS = 512
"""New tokens of a step at most, whatever their logits take."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A text to score: each token of `scored_ids`, given those before it and `prompt_ids`.

    Texts whose first `n_shared` tokens are equal share what is computed of them. `n_bytes` is for
    who asks: what the scored tokens spell.
    """

    prompt_ids: tuple[int, ...]
    scored_ids: tuple[int, ...]
    n_shared: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """What came of a request: a log-probability in nats for each token, or an error."""

    logprobs: tuple[float, ...] = ()
    error: GptkitError | None = None
    n_reused: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens first .. end - 1 of a text are scored given those from `start` on."""

    start: int
    first: int
    end: int


def windows(n: int, first: int, size: int) -> Iterator[Window]:
    """Yield the windows that score tokens first .. n - 1 of a text, each once.

    A text that is longer than a context of `size` is read in windows of that size, which move on by
    half of it; of each but the first only what the one before did not reach is scored. So there is
    at least half a context before a token, but in the first window. This is sliding-window
    evaluation (Press, Smith and Lewis 2021, arXiv:2012.15832, section 2), with the same windows as
    transformers' guide (https://huggingface.co/docs/transformers/perplexity) has for this stride.
    """
    stride, start = size // 2, 0
    assert stride
    while first < n:
        end = min(start + size, n)
        if first < end:
            yield Window(start, first, end)
            first = end
        start += stride


@dataclass(slots=True)
class _Work:
    """A request on its way: the window that it is in, and how much of that is cached."""

    id: int
    ids: tuple[int, ...]
    left: Iterator[Window]
    window: Window
    slot: int
    n_cached: int
    n_reused: int
    logprobs: list[float] = field(default_factory=list)

    @property
    def n_inputs(self) -> int:
        """Tokens of the window that others are scored by: all but the last."""
        return self.window.end - self.window.start - 1


@dataclass(slots=True)
class _Plan:
    """New tokens end to end, their spans, which logits are wanted, and of which token each."""

    ids: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    parts: list[tuple[_Work, int, int]] = field(default_factory=list)
    """Each work in it, with its numbers of new tokens and of wanted logits."""

    def take(self, work: _Work, most_rows: int) -> None:
        """Take chunks of a work's window while there is room for them."""
        window, at, n_wanted = work.window, work.n_cached, len(self.wanted)
        while at < work.n_inputs:
            n = min(at // CHUNK * CHUNK + CHUNK, work.n_inputs) - at
            if len(self.ids) + n > most_rows:
                break
            self.spans.append(Span(work.slot, at, n))
            for i in range(window.start + at, window.start + at + n):
                if i + 1 >= window.first:
                    self.wanted.append(len(self.ids))
                    self.targets.append(work.ids[i + 1])
                self.ids.append(work.ids[i])
            at += n
        if at > work.n_cached:
            self.parts.append((work, at - work.n_cached, len(self.wanted) - n_wanted))

    def pad(self) -> None:
        """Fill up to the next multiple of rows that makes arithmetic independent of them."""
        for _ in range(round_up(len(self.ids), ROWS) - len(self.ids)):
            self.ids.append(0)
            self.spans.append(Span(None, 0, 1))


class Scorer:
    """Scores many texts at once over one model; more than `n_slots` wait, in order.

    Of a prefix that several texts share, whole chunks are computed once and copied.
    """

    def __init__(self, forward: Forward, vocab_size: int, *, n_slots: int) -> None:
        self.forward, self.vocab_size = forward, vocab_size
        self.cache = forward.new_cache(n_slots)
        self.slots = SlotTable(n_slots, whole_chunks=True, copies=forward.shares_prefixes)
        self.waiting: deque[tuple[int, ScoreRequest]] = deque()
        self.running: list[_Work] = []
        fit = LOGITS_BYTES // (4 * forward.config.vocab_size)
        self.most_rows = min(max(fit // CHUNK * CHUNK, CHUNK), MOST_ROWS)
        self._next_id = 0

    def add(self, request: ScoreRequest) -> int:
        """Queue a request, which has at least a token on either side; return its id."""
        assert request.prompt_ids and request.scored_ids
        self._next_id += 1
        self.waiting.append((self._next_id, request))
        return self._next_id

    def step(self) -> list[tuple[int, Score]]:
        """Admit what fits, compute some chunks, and return the requests that have ended."""
        self._admit()
        plan = _Plan()
        for work in self.running:
            plan.take(work, self.most_rows)
        if not plan.parts:
            return []
        plan.pad()
        logits = self.forward.step(plan.ids, plan.spans, self.cache, plan.wanted)
        known = torch.as_tensor(logits)[:, : self.vocab_size]  # nobody can read padded ids
        found = iter(_logprobs(known, plan.targets))
        ended: list[tuple[int, Score]] = []
        for work, n_new, n_wanted in plan.parts:
            work.n_cached += n_new
            new = [next(found) for _ in range(n_wanted)]
            work.logprobs += new
            score = self._go_on(work, all(map(math.isfinite, new)))
            if score is not None:
                ended.append((work.id, score))
        return ended

    def _admit(self) -> None:
        while self.waiting and self.slots.n_free:
            id, request = self.waiting[0]
            ids = (*request.prompt_ids, *request.scored_ids)
            first = len(request.prompt_ids)
            left = windows(len(ids), first, self.forward.config.block_size)
            window = next(left)
            start = ids[window.start : window.first]
            n_shared = max(0, min(request.n_shared - window.start, len(start) - 1))
            prefix = start[: n_shared // CHUNK * CHUNK]
            if any(_will_have(work, prefix) for work in self.running):
                return  # in a moment it is there to be copied
            place = self.slots.take(start)
            assert place is not None
            if place.source is not None:
                cache = cast("SharingCache", self.cache)
                cache.copy(place.source, place.slot, 0, place.n_reused)
            self.waiting.popleft()
            n = place.n_reused
            self.running.append(_Work(id, ids, left, window, place.slot, n, n))

    def _go_on(self, work: _Work, finite: bool) -> Score | None:
        """Note what is cached, and move on to the next window; return the score at the end."""
        window = work.window
        self.slots.holds(work.slot, work.ids[window.start : window.end], work.n_cached)
        if not finite:
            return self._end(work, _non_finite())
        if work.n_cached < work.n_inputs:
            return None
        following = next(work.left, None)
        if following is None:
            return self._end(work, None)
        work.window, work.n_cached = following, 0
        self.slots.holds(work.slot, (), 0)
        return None

    def _end(self, work: _Work, error: GptkitError | None) -> Score:
        if error is not None and self.forward.shares_prefixes:
            # Numbers that are not finite would hurt whoever comes after, though they are masked.
            cast("SharingCache", self.cache).clear(work.slot)
        self.slots.give_back(work.slot, empty=error is not None)
        self.running.remove(work)
        return Score(() if error else tuple(work.logprobs), error, work.n_reused)


def pieces(ids: Sequence[int], size: int) -> list[ScoreRequest]:
    """Cut a long text into contexts of `size` tokens, each scored but for its first token.

    Raise ConfigError where nothing would be scored.
    """
    if size < 2:
        raise ConfigError("the model has a context of one token: nothing stands before it")
    if len(ids) < 2:
        raise ConfigError("the text has no two tokens", hint="give some thousand words")
    return [
        ScoreRequest((ids[i],), tuple(ids[i + 1 : i + size])) for i in range(0, len(ids) - 1, size)
    ]


def perplexity(
    scorer: Scorer, requests: Sequence[ScoreRequest], show: Callable[[int, int], None]
) -> float:
    """Return exp of the mean of -log p(token | those before it) over all scored tokens.

    `show` is told how many tokens of how many are scored.
    """
    total, n_done, n_tokens = 0.0, 0, sum(len(request.scored_ids) for request in requests)
    for request in requests:
        scorer.add(request)
    while n_done < n_tokens:
        for _, score in scorer.step():
            if score.error:
                raise score.error
            total += math.fsum(score.logprobs)
            n_done += len(score.logprobs)
            show(n_done, n_tokens)
    if -total / n_tokens > MOST_LOSS:
        raise NonFiniteLogits("the perplexity is too large a number")
    return math.exp(-total / n_tokens)


def _will_have(work: _Work, prefix: Sequence[int]) -> bool:
    """Whether a work begins with this prefix, and is about to have computed it."""
    n = len(prefix)
    return work.window.start == 0 and work.n_cached < n and work.ids[:n] == prefix


def _logprobs(logits: torch.Tensor, targets: Sequence[int]) -> list[float]:
    """Return the log-probability in nats of a target for each row of logits [N, V]."""
    if not targets:
        return []
    index = torch.tensor(targets, device=logits.device)[:, None]
    # The engine's own function: a row has the same bits among however many.
    found: list[float] = logits.log_softmax(-1).gather(1, index)[:, 0].tolist()
    return found


def _non_finite() -> NonFiniteLogits:
    return NonFiniteLogits(
        "logits are not finite (model or dtype problem)", hint="try --dtype float32"
    )
