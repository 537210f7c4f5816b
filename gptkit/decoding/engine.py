"""The engine: requests wait, take slots, are prefilled in chunks, and step together.

It owns the cache and every sequence, and knows neither files nor terminals nor registries.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from gptkit.decoding.chain import ChainRunner, Picked
from gptkit.decoding.prefix import CHUNK, SlotTable
from gptkit.decoding.request import Alternative, Event
from gptkit.decoding.sequence import Sequence
from gptkit.errors import (
    ContextOverflow,
    GptkitError,
    NonFiniteLogits,
    RequestError,
    plugin_failure,
)
from gptkit.model.forward import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from gptkit.decoding.request import Request
    from gptkit.model.forward import Forward
    from gptkit.plugin_api import Tokenizer

ROWS = 4
"""Rows of a step come in multiples of this: then a matrix product gives a row the same bits in
whatever place it stands (measured for float32 on CPU, 4 to 64 rows; with 5 it does not)."""


class TokenizerVocab:
    """The vocabulary that samplers and criteria see."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: frozenset[int]) -> None:
        self.name = tokenizer.name
        self.size = tokenizer.vocab_size
        self.eos_ids = eos_ids
        self.special_ids = frozenset(tokenizer.special.values())
        self.token_bytes = tokenizer.token_bytes
        self.encode = tokenizer.encode_ordinary


class Engine:
    """Decodes many requests at once over one model.

    Each step has the same number of rows, padded where slots are empty, and prompts are computed
    in chunks that begin at fixed places: with more than one slot a request's arithmetic does not
    depend on its neighbours. One slot steps with one row.
    """

    def __init__(
        self,
        forward: Forward,
        tokenizer: Tokenizer,
        eos_ids: frozenset[int] = frozenset(),
        *,
        n_slots: int = 1,
    ) -> None:
        self.forward = forward
        self.vocab = TokenizerVocab(tokenizer, eos_ids)
        self.block_size = forward.config.block_size
        self.cache = forward.new_cache(n_slots)
        self.slots = SlotTable(n_slots, whole_chunks=n_slots > 1)
        self.n_rows = 1 if n_slots == 1 else -(-n_slots // ROWS) * ROWS
        self.waiting: deque[Sequence] = deque()
        self.prefilling: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._runners: dict[Any, ChainRunner] = {}
        self._next_id = 0

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        return bool(self.waiting or self.prefilling or self.running)

    @property
    def n_active(self) -> int:
        """Requests that have not ended, those that wait included."""
        return len(self.waiting) + len(self.prefilling) + len(self.running)

    def stream(self, request: Request) -> Iterator[Event]:
        """Yield the events of one request; closing the iterator cancels it.

        Raise RequestError where others are under way: their events would be lost here.
        """
        if self.busy:
            raise RequestError("the engine is busy", hint="use add and step for several requests")
        mine = self.add(request)
        finished = False
        try:
            while not finished:
                for id, event in self.step():
                    if id == mine:
                        finished = event.finish_reason is not None
                        yield event
        finally:
            if not finished:
                self.cancel(mine)

    def add(self, request: Request) -> int:
        """Queue a request and return its id; raise RequestError where it can't be served."""
        n, size = len(request.prompt_ids), self.forward.config.vocab_size
        if n == 0:
            raise RequestError("the prompt is empty", hint="this model has no token to start from")
        if bad := next((i for i in request.prompt_ids if not 0 <= i < size), None):
            raise RequestError(f"token id {bad} is not in the vocabulary of {size:,}")
        if n >= self.block_size and request.stops.max_new_tokens > 0 or n > self.block_size:
            raise ContextOverflow(
                f"the prompt has {n:,} tokens; the model's context is {self.block_size:,} and at "
                "least one token is to follow",
                hint="shorten it, or use --on-overflow truncate_left",
            )
        self._next_id += 1
        self.waiting.append(Sequence.start(self._next_id, request, self.vocab, self.block_size))
        return self._next_id

    def cancel(self, id: int) -> Event:
        """End a request; return its last event, with the text that was held back."""
        for queue in (self.waiting, self.prefilling, self.running):
            for seq in queue:
                if seq.id == id:
                    return self._end(seq, Event(seq.stream.finish(), finish_reason="cancelled"))
        raise KeyError(id)

    def step(self) -> list[tuple[int, Event]]:
        """Admit what fits, compute one chunk of one prompt, then one token of each sequence."""
        events = self._admit()
        if self.prefilling:
            events += self._prefill(self.prefilling[0])
        if self.running:
            events += self._decode()
        return events

    def _admit(self) -> list[tuple[int, Event]]:
        events = []
        while self.waiting:
            seq = self.waiting[0]
            if seq.request.stops.max_new_tokens == 0:
                events.append((seq.id, self._end(seq, Event(finish_reason="length"))))
                continue
            taken = self.slots.take(seq.tokens)
            if taken is None:
                break
            seq.slot, seq.n_reused = taken
            seq.n_cached = seq.n_reused
            self.prefilling.append(self.waiting.popleft())
        return events

    def _prefill(self, seq: Sequence) -> list[tuple[int, Event]]:
        start = seq.n_cached
        end = min(start // CHUNK * CHUNK + CHUNK, seq.prompt_len)
        last = end == seq.prompt_len
        ids = seq.tokens[start:end]
        wanted = [len(ids) - 1] if last else []
        logits = self.forward.step(ids, [Span(seq.slot, start, len(ids))], self.cache, wanted)
        seq.n_cached = end
        if not last:
            return []
        self.prefilling.popleft()
        self.running.append(seq)
        return self._pick([seq], torch.as_tensor(logits))

    def _decode(self) -> list[tuple[int, Event]]:
        # A sequence that has just been prefilled has a new token too, which is not cached yet.
        ids, spans = [0] * self.n_rows, [Span(None, 0, 1)] * self.n_rows
        for seq in self.running:
            ids[seq.slot] = seq.tokens[-1]
            spans[seq.slot] = Span(seq.slot, seq.n_cached, 1)
        logits = self.forward.step(ids, spans, self.cache, range(self.n_rows))
        for seq in self.running:
            seq.n_cached += 1
        rows = [seq.slot for seq in self.running]
        logits = torch.as_tensor(logits)
        return self._pick(list(self.running), logits[rows] if self.n_rows > 1 else logits)

    def _pick(self, sequences: list[Sequence], logits: Tensor) -> list[tuple[int, Event]]:
        """Run each row's chain, commit what it picks, and return the events."""
        if logits.shape[-1] > self.vocab.size:  # a padded vocabulary: nobody can read those ids
            logits = logits.clone()
            logits[:, self.vocab.size :] = float("-inf")
        finite = logits.amax(-1).isfinite().tolist()
        groups: dict[Any, list[int]] = {}
        events = []
        for row, seq in enumerate(sequences):
            if finite[row]:
                key = tuple((stage.label, stage.sampler) for stage in seq.request.chain)
                groups.setdefault(key, []).append(row)
            else:
                n = len(seq.tokens) - seq.prompt_len + 1
                error = NonFiniteLogits(
                    f"logits are not finite at step {n} (model or dtype problem)",
                    hint="try --dtype float32",
                )
                events.append((seq.id, self._fail(seq, error)))
        for key, rows in groups.items():
            runner = self._runners.get(key)
            if runner is None:
                runner = self._runners[key] = ChainRunner(sequences[rows[0]].request.chain)
            chosen = logits if len(rows) == len(sequences) else logits[rows]
            picked = runner.run(chosen, [sequences[row] for row in rows], self.vocab)
            for row, one in zip(rows, picked, strict=True):
                events.append((sequences[row].id, self._commit(sequences[row], one, logits[row])))
        return events

    def _commit(self, seq: Sequence, picked: Picked, logits: Tensor) -> Event:
        if picked.error is not None:
            return self._fail(seq, picked.error)
        token = picked.token
        seq.tokens.append(token)
        seq.states = picked.states
        try:
            data = self._bytes(token)
            stop = seq.stopper.push(token, data, len(seq.tokens) - seq.prompt_len)
        except GptkitError as error:
            return self._fail(seq, error)
        text = seq.stream.push(data, hold=max(stop.hold_bytes, stop.cut_bytes))
        reason = stop.reason or ("time" if seq.is_late else None)
        if reason is not None:
            text += seq.stream.finish(cut=stop.cut_bytes)
        logprob, others = _logprobs(logits, token, seq.request.logprobs)
        event = Event(text, token, logprob, others, picked.trace, reason, n_reused=seq.n_reused)
        return self._end(seq, event) if reason is not None else event

    def _bytes(self, token: int) -> bytes:
        try:
            return self.vocab.token_bytes(token)
        except GptkitError:
            raise
        except Exception as error:
            raise plugin_failure(f"tokenizer '{self.vocab.name}'", error) from error

    def _fail(self, seq: Sequence, error: GptkitError) -> Event:
        event = Event(seq.stream.finish(), finish_reason="error", error=error)
        return self._end(seq, event)

    def _end(self, seq: Sequence, event: Event) -> Event:
        for queue in (self.waiting, self.prefilling, self.running):
            if seq in queue:
                queue.remove(seq)
        if seq.slot >= 0:
            n_prefilled = min(seq.n_cached, seq.prompt_len)
            self.slots.give_back(seq.slot, seq.tokens[: seq.n_cached], n_prefilled)
        return event


def _logprobs(
    logits: Tensor, token: int, n: int | None
) -> tuple[float | None, tuple[Alternative, ...]]:
    """Return the token's log-probability and the n best, in nats, before the chain."""
    if n is None:
        return None, ()
    logprobs = logits.log_softmax(-1)
    best = logprobs.topk(min(n, len(logprobs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return float(logprobs[token]), tuple(Alternative(i, lp) for i, lp in pairs)
