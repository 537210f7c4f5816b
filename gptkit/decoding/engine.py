"""The engine: requests wait, take slots, are prefilled in chunks, and step together.

It owns the cache and every sequence, and knows neither files nor terminals nor registries.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import torch

from gptkit.decoding.chain import Picked, Runners, Scored, one_thread
from gptkit.decoding.plan import StepPlan, Work
from gptkit.decoding.prefix import LEAST_SHARED, SlotTable
from gptkit.decoding.request import Alternative, Event
from gptkit.decoding.rows import LogitStats
from gptkit.decoding.sequence import Ahead, Sequence, first_states
from gptkit.decoding.strategies import Group, Twig
from gptkit.errors import (
    ContextOverflow,
    GptkitError,
    NonFiniteLogits,
    RequestError,
    plugin_code,
)
from gptkit.plugin_api import Params, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from gptkit.decoding.chain import ChainRunner
    from gptkit.decoding.prefix import Place
    from gptkit.decoding.request import Choice, Request
    from gptkit.decoding.rows import Position
    from gptkit.model.forward import Forward, RankingForward, SharingCache, SharingForward
    from gptkit.plugin_api import Drafter, Tokenizer

PREFILL_ALONE, PREFILL_BESIDE = 512, 128
"""Prompt tokens of one step, at most a chunk more: with nobody waiting for his next token, and
beside those who do."""


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

    The rows of a step come in multiples of 4, and prompts are computed in chunks that begin at
    fixed places, so that with more than one slot a request's arithmetic does not depend on its
    neighbours. The cache is reserved at the start, for `n_slots` sequences that fill the context,
    and for as many trunks as are worth their memory; more requests wait, in order.
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
        self.prefill = PREFILL_ALONE
        """Prompt tokens of a step while nobody waits for a token: fewer make shorter steps."""
        self.shares = forward.shares_prefixes and n_slots > 1
        self._ranks = forward.ranks and forward.config.vocab_size <= tokenizer.vocab_size
        n_trunks = n_trunk_slots(n_slots) if self.shares else 0
        self.cache = forward.new_cache(n_slots + n_trunks)
        self.slots = SlotTable(n_slots, n_trunks, whole_chunks=n_slots > 1, copies=self.shares)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.groups: list[Group] = []
        self._runners = Runners()
        self._drafters: dict[Any, Drafter] = {}
        self._next_id = 0

    @property
    def _sharing_cache(self) -> SharingCache:
        return cast("SharingCache", self.cache)

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        return self.n_active > 0

    @property
    def n_active(self) -> int:
        """Requests that have not ended, those that wait included."""
        return len(self.waiting) + len(self.running) + len(self.groups)

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
        if request.strategy is not None:
            self._check_strategy(request.strategy)
        self._next_id += 1
        runner = self._runners.of(request.chain)
        seq = Sequence.start(self._next_id, request, runner, self.vocab, self.block_size)
        self.waiting.append(seq)
        return self._next_id

    def cancel(self, id: int) -> Event:
        """End a request; return its last event, with the text that was held back."""
        seq = self._find(id)
        return self._end(seq, Event(seq.stream.finish(), finish_reason="cancelled"))

    def preempt(self, id: int) -> None:
        """Take a running request's place away: it waits again, first in line.

        What it has written stays; its keys and values, and the memory of its stages, are computed
        again from its tokens. A strategy's request can't be preempted.
        """
        seq = next((one for one in self.running if one.id == id), None)
        if seq is None:
            raise RequestError(f"request {id} is not running, so it can't be preempted")
        self._leave(seq)
        self.waiting.appendleft(seq)

    def step(self) -> list[tuple[int, Event]]:
        """Admit what fits, then compute a token of each sequence, and some of the prompts."""
        events = self._admit()
        drafts, failed = self._drafts()
        events += failed
        plan = self._plan(drafts)
        if plan.spans:
            plan.pad()
            if any(group.needs_hidden for group in self.groups):
                scored = Scored(_plain(self._compute_hidden(plan)))
            else:
                scored = self._compute(plan)
            events += self._settle(plan, scored)
        return events

    # Who runs ---------------------------------------------------------------------------------

    def _admit(self) -> list[tuple[int, Event]]:
        events: list[tuple[int, Event]] = []
        while self.waiting:
            seq = self.waiting[0]
            if seq.request.stops.max_new_tokens == 0:
                events.append((seq.id, self._end(seq, Event(finish_reason="length"))))
                continue
            try:
                started = self._form_group(seq) if seq.request.strategy else self._enter(seq)
            except GptkitError as error:
                events.append((seq.id, self._fail(seq, error)))
                continue
            if started is None:
                break
            events += started
        return events

    def _enter(self, seq: Sequence) -> list[tuple[int, Event]] | None:
        """Find a place for a sequence; None where there is none."""
        if not self.slots.n_free or not self._find_trunk(seq, seq.request.n_shared):
            return None
        if seq.trunk is not None:
            seq.slot = self.slots.take_empty()
        else:
            place = self.slots.take(seq.tokens)
            assert place is not None
            self._copy(place, 0)
            seq.slot, seq.n_cached = place.slot, place.n_reused
            seq.n_reused = max(seq.n_reused, min(place.n_reused, seq.prompt_len))
        if seq.n_out:  # it was preempted
            self._replay(seq)
        self.waiting.popleft()
        self.running.append(seq)
        return []

    def _find_trunk(self, seq: Sequence | Twig, n_shared: int) -> bool:
        """Give a sequence its trunk, if it is to have one; return False where it must wait."""
        n = min(n_shared, seq.prompt_len - 1)
        if not self.shares or n < LEAST_SHARED:
            return True
        taken = self.slots.take_trunk(tuple(seq.tokens[:n]))
        if taken is None:
            return False
        seq.trunk, place = taken
        if place is not None:
            self._copy(place, 0)
        seq.n_cached = n
        if isinstance(seq, Sequence):  # who comes second waits for the first to compute it
            seq.n_reused = max(seq.n_reused, n if place is None else seq.trunk.n_cached)
        return True

    def _copy(self, place: Place, start: int) -> None:
        if place.source is not None:
            self._sharing_cache.copy(place.source, place.slot, start, place.n_reused)

    def _replay(self, seq: Sequence) -> None:
        """Compute the states of a sequence again, from what was observed of its tokens."""
        tokens, observed = seq.tokens, seq.observed
        seq.states = first_states(seq.request, self.vocab)
        seq.tokens = tokens[: seq.prompt_len]
        for token, seen in zip(tokens[seq.prompt_len :], observed, strict=True):
            seq.states = seq.runner.after(seq, seen)
            seq.tokens.append(token)

    def _find(self, id: int) -> Sequence:
        everyone = (*self.waiting, *self.running, *(group.answer for group in self.groups))
        for seq in everyone:
            if seq.id == id:
                return seq
        raise KeyError(id)

    def _leave(self, seq: Sequence | Twig, *, broken: bool = False) -> None:
        """Take a sequence out of the cache; numbers that are not finite are wiped out."""
        if seq.slot >= 0:
            if broken and self.shares:
                self._sharing_cache.clear(seq.slot)
            held = self.slots.slots[seq.slot]
            n_prefilled = min(held.n_prefilled, seq.n_cached)
            self.slots.holds(seq.slot, seq.tokens[: seq.n_cached], n_prefilled)
            self.slots.give_back(seq.slot, empty=broken or seq.trunk is not None)
        if seq.trunk is not None:
            seq.trunk.n_users -= 1
        seq.slot, seq.trunk, seq.n_cached = -1, None, 0
        if isinstance(seq, Sequence) and seq in self.running:
            self.running.remove(seq)

    # One step ---------------------------------------------------------------------------------

    def _plan(self, drafts: dict[int, list[int]]) -> StepPlan:
        """Choose the new tokens of this step: one of each sequence, its draft, parts of prompts."""
        plan = StepPlan()
        everyone: list[Sequence | Twig] = [*self.running]
        everyone += (twig for group in self.groups for twig in group.wanted)
        todo = [one for one in everyone if one.n_cached < len(one.tokens)]
        for one in sorted(todo, key=lambda one: one.slot):
            if len(one.tokens) - one.n_cached == 1 and one.n_cached > one.n_shared:
                plan.decode(one, drafts.get(id(one), []))
        budget = PREFILL_BESIDE if plan.spans else self.prefill
        trunks = [one.trunk for one in todo if one.trunk is not None]
        ready: set[int] = set()
        for trunk in dict.fromkeys(trunks):
            if trunk.n_cached < len(trunk.tokens):
                budget = plan.prefill(trunk, budget)
            if trunk.n_cached + plan.n_planned(trunk) == len(trunk.tokens):
                ready.add(id(trunk))
        for one in todo:
            waits = one.trunk is not None and id(one.trunk) not in ready
            if not plan.n_planned(one) and not waits:
                budget = plan.prefill(one, budget)
        return plan

    def _drafts(self) -> tuple[dict[int, list[int]], list[tuple[int, Event]]]:
        """Return the drafts of this step, and the ends of sequences whose drafter failed."""
        drafts: dict[int, list[int]] = {}
        failed: list[tuple[int, Event]] = []
        for seq in [one for one in self.running if one.request.draft is not None]:
            if len(seq.tokens) - seq.n_cached == 1:
                try:
                    drafts[id(seq)] = self._draft(seq)
                except GptkitError as error:
                    failed.append((seq.id, self._fail(seq, error)))
        return drafts, failed

    def _draft(self, seq: Sequence) -> list[int]:
        """Return what may follow, as many tokens as there is room for, from whoever guesses."""
        draft = seq.request.draft
        if draft is None:
            return []
        room = min(
            draft.k,
            self.block_size - len(seq.tokens),
            seq.request.stops.max_new_tokens - seq.n_out - 1,
        )
        if room <= 0:
            return []
        if draft.drafter not in self._drafters:
            self._drafters[draft.drafter] = draft.drafter()
        drafter = self._drafters[draft.drafter]
        with plugin_code(f"drafter '{drafter.name}'"):
            guess = [int(token) for token in drafter.propose(seq, room, Params(draft.values))]
        known = itertools.takewhile(lambda token: 0 <= token < self.vocab.size, guess[:room])
        return list(known)

    def _compute(self, plan: StepPlan) -> Scored:
        """Return the logits of a step, with the best ones where a chain looks at no others."""
        step = (plan.ids, plan.spans, self.cache, plan.wanted)
        if not self._ranks:
            return Scored(_plain(self.forward.step(*step)))
        ones = (work.one for work in plan.works if work.rows)
        n = max((one.n_best for one in ones if isinstance(one, Sequence)), default=0)
        forward = cast("RankingForward", self.forward)
        logits, found = forward.step_ranked(*step, min(n, self.forward.config.vocab_size))
        return Scored(_plain(logits), found)

    def _compute_hidden(self, plan: StepPlan) -> Any:
        """Return the logits of a step, and leave the states behind them with the branches."""
        forward = cast("SharingForward", self.forward)
        hidden = forward.hidden(plan.ids, plan.spans, self.cache)  # [N, C]
        for work in plan.works:
            if isinstance(work.one, Twig):
                work.one.hidden.append(hidden[work.first : work.first + work.n])
        return forward.head(hidden, plan.wanted)

    def _settle(self, plan: StepPlan, scored: Scored) -> list[tuple[int, Event]]:
        """Note what is cached by now, and pick where there are logits."""
        if scored.logits.shape[-1] > self.vocab.size:  # a padded vocabulary: nobody can read those
            with one_thread():
                logits = scored.logits.clone()
                logits[:, self.vocab.size :] = float("-inf")
            scored = Scored(logits)
        finite = scored.are_finite()
        chains: dict[ChainRunner, list[Work]] = {}
        events: list[tuple[int, Event]] = []
        for work in plan.works:
            one = work.one
            one.n_cached = max(one.n_cached, work.start + work.n)
            if work.draft is None and not one.n_shared and not isinstance(one, Twig):
                self.slots.holds(one.slot, one.tokens, one.n_cached)
            if not work.rows:
                continue
            if isinstance(one, Sequence):
                chains.setdefault(one.runner, []).append(work)
            elif isinstance(one, Twig):
                one.logits = scored.logits[work.rows[0]] if finite[work.rows[0]] else None
                if one.logits is None:
                    events.append((one.group.answer.id, self._non_finite(one.group.answer)))
        for runner, works in chains.items():
            events += self._verify(runner, works, scored, finite)
        for group in list(self.groups):
            events += self._advance(group)
        return events

    def _verify(
        self, runner: ChainRunner, works: list[Work], scored: Scored, finite: list[bool]
    ) -> list[tuple[int, Event]]:
        """Pick for each sequence, and go on along its draft for as long as that is right.

        Where no stage remembers, one run of the chain serves all positions of all drafts.
        """
        ahead = {} if runner.remembers else self._look_ahead(runner, works, scored, finite)
        events: list[tuple[int, Event]] = []
        depth = 0
        while works:
            good = [work for work in works if finite[work.rows[depth]]]
            for work in works:
                if not finite[work.rows[depth]]:
                    events.append((work.seq.id, self._non_finite(work.seq)))
            if runner.remembers:
                rows = scored.of([work.rows[depth] for work in good]).logits
                picks = runner.run(rows, [work.seq for work in good], self.vocab) if good else []
            else:
                picks = [ahead[work.rows[depth]] for work in good]
            works = []
            for work, picked in zip(good, picks, strict=True):
                seq, draft = work.seq, work.draft or []
                right = depth < len(draft) and picked.token == draft[depth]
                seq.n_drafted += depth < len(draft)
                seq.n_accepted += right
                seq.n_cached = len(seq.tokens)  # what lies beyond was drafted in vain
                logits = scored.logits[work.rows[depth]] if seq.reads_logits else None
                event = self._commit(seq, picked, logits)
                events.append((seq.id, event))
                if right and event.finish_reason is None:
                    works.append(work)
            depth += 1
        return events

    def _look_ahead(
        self, runner: ChainRunner, works: list[Work], scored: Scored, finite: list[bool]
    ) -> dict[int, Picked]:
        """Return what is picked at each row of the works, as if every draft were right so far."""
        rows: list[int] = []
        positions: list[Position] = []
        for work in works:
            for depth, row in enumerate(work.rows):
                if finite[row]:
                    rows.append(row)
                    draft = (work.draft or [])[:depth]
                    positions.append(Ahead(work.seq, draft) if draft else work.seq)
        if not rows:
            return {}
        chosen = scored.of(rows)
        picks = runner.pick(chosen.logits, positions, self.vocab, chosen.found)
        return dict(zip(rows, picks, strict=True))

    def _commit(self, seq: Sequence, picked: Picked, logits: Tensor | None) -> Event:
        """Append a token and return its event; the last one ends the sequence."""
        event = self._decide(seq, picked, logits)
        return self._end(seq, event) if event.finish_reason is not None else event

    def _decide(self, seq: Sequence, picked: Picked, logits: Tensor | None) -> Event:
        """Append a token; return its event. `logits` [V] are the model's own, if they are read."""
        if picked.error is not None:
            return _failure(seq, picked.error)
        token = picked.token
        seq.tokens.append(token)
        if picked.states:
            seq.states = picked.states
        seq.observed.append(picked.observed)
        try:
            data = self._bytes(token)
            entropy = math.nan
            if logits is not None and seq.stopper.observes_entropy:
                with one_thread():
                    entropy = float(LogitStats(logits[None]).entropy)
            stop = seq.stopper.push(token, data, seq.n_out, entropy)
            done = seq.runner.is_done(seq.states)
        except GptkitError as error:
            return _failure(seq, error)
        if done and stop.reason not in ("eos", "stop_token"):
            stop = Stop("constraint_done", hold_bytes=stop.hold_bytes)
        text = seq.stream.push(data, hold=max(stop.hold_bytes, stop.cut_bytes))
        reason = stop.reason or ("time" if seq.is_late else None)
        if reason is not None:
            text += seq.stream.finish(cut=stop.cut_bytes)
        of = picked.final if seq.request.logprobs_of == "final" else logits
        logprob, others = _logprobs(of, token, seq.request.logprobs)
        return Event(
            text,
            token,
            logprob,
            others,
            picked.trace,
            reason,
            n_reused=seq.n_reused,
            n_drafted=seq.n_drafted,
            n_accepted=seq.n_accepted,
        )

    def _bytes(self, token: int) -> bytes:
        with plugin_code(f"tokenizer '{self.vocab.name}'"):
            return self.vocab.token_bytes(token)

    def _non_finite(self, seq: Sequence) -> Event:
        error = NonFiniteLogits(
            f"logits are not finite at step {seq.n_out + 1} (model or dtype problem)",
            hint="try --dtype float32",
        )
        self._leave(seq, broken=True)
        return self._fail(seq, error)

    def _fail(self, seq: Sequence, error: GptkitError) -> Event:
        return self._end(seq, _failure(seq, error))

    def _end(self, seq: Sequence, event: Event) -> Event:
        if seq in self.waiting:
            self.waiting.remove(seq)
        self._leave(seq)
        for group in self.groups:
            if group.answer is seq:
                self._dissolve(group)
                break
        return event

    # Strategies -------------------------------------------------------------------------------

    def _check_strategy(self, choice: Choice) -> None:
        name, width = choice.plugin.name, choice.plugin().width(Params(choice.values))
        if width > self.slots.n_slots:
            raise RequestError(
                f"strategy '{name}' needs {width} sequences at once, the engine has room for "
                f"{self.slots.n_slots}"
            )
        if not self.forward.shares_prefixes and width > 1:
            raise RequestError(f"strategy '{name}' does not work on this backend")

    def _form_group(self, seq: Sequence) -> list[tuple[int, Event]] | None:
        """Give a strategy the slots that it may need, and begin; None where there are too few."""
        group = Group(seq, seq.runner, self.vocab, self._decide)
        if self.slots.n_free < group.width:
            return None
        if not group.needs_hidden and not self._find_trunk(group.root, group.root.prompt_len):
            return None
        group.slots = [self.slots.take_empty() for _ in range(group.width)]
        self.waiting.popleft()
        self.groups.append(group)
        return self._advance(group)

    @one_thread()
    def _advance(self, group: Group) -> list[tuple[int, Event]]:
        """Hand a strategy its logits when all are there, and place the branches it wants next."""
        if group not in self.groups or any(twig.logits is None for twig in group.wanted):
            return []
        answer, before = group.answer, group.wanted
        rows = [twig.logits for twig in before if twig.logits is not None]
        try:
            goes_on = group.advance(torch.stack(rows) if rows else None)
            if goes_on and not group.ended:
                self._place(group, before)
        except GptkitError as error:
            group.events.append(_failure(answer, error))
            group.ended = True
        else:
            if not goes_on and not group.ended:
                text = answer.stream.finish()
                group.events.append(Event(text, finish_reason="strategy_done"))
                group.ended = True
        events, group.events = group.events, []
        if group.ended:
            self._end(answer, events[-1])
        return [(answer.id, event) for event in events]

    def _place(self, group: Group, before: list[Twig]) -> None:
        """Find a slot for each new branch: its parent's, or another with a copy of it."""
        new = [twig for twig in group.wanted if twig.slot < 0]
        parents = {id(twig.parent) for twig in new if twig.parent is not None}
        spare = set(group.slots) - {twig.slot for twig in (*before, *group.wanted)}
        for twig in before:
            if twig not in group.wanted and id(twig) not in parents:
                spare.add(twig.slot)
        heirs: set[int] = set()
        for twig in new:
            parent = twig.parent
            if parent is not None and parent.slot >= 0 and parent not in group.wanted:
                if id(parent) not in heirs:
                    heirs.add(id(parent))
                    self._inherit(twig, parent, parent.slot)
        for twig in new:
            if twig.slot < 0:
                slot = min(spare)
                spare.remove(slot)
                self._inherit(twig, twig.parent, slot)
        for twig in new:
            twig.parent = None
        for twig in before:
            if twig not in group.wanted:
                self._forget(twig)

    def _inherit(self, twig: Twig, parent: Twig | None, slot: int) -> None:
        twig.slot = slot
        if parent is None or parent.slot < 0:  # a prompt of its own, or of a branch long gone
            return
        twig.trunk, twig.n_cached = parent.trunk, parent.n_cached
        twig.hidden = list(parent.hidden)
        if twig.trunk is not None:
            twig.trunk.n_users += 1
        if slot != parent.slot:
            self._sharing_cache.copy(parent.slot, slot, twig.n_shared, twig.n_cached)

    def _forget(self, twig: Twig) -> None:
        if twig.trunk is not None:
            twig.trunk.n_users -= 1
        twig.slot, twig.trunk = -1, None

    def _dissolve(self, group: Group) -> None:
        self.groups.remove(group)
        for twig in {id(twig): twig for twig in (group.root, *group.wanted)}.values():
            self._forget(twig)
        for slot in group.slots:
            self.slots.give_back(slot, empty=True)
        group.end()


def n_trunk_slots(n_slots: int) -> int:
    """Return how many prefixes can be shared at a time, where `n_slots` sequences are computed."""
    return max(1, n_slots // 4) if n_slots > 1 else 0


def _plain(logits: Any) -> Tensor:
    """Return a model's logits in float32, without a gradient's history."""
    if isinstance(logits, torch.Tensor) and logits.dtype == torch.float32:
        return logits.detach() if logits.requires_grad else logits
    return torch.as_tensor(logits).detach().float()


def _failure(seq: Sequence, error: GptkitError) -> Event:
    """Return the last event of a sequence that failed."""
    return Event(seq.stream.finish(), finish_reason="error", error=error)


def _logprobs(
    logits: Tensor | None, token: int, n: int | None
) -> tuple[float | None, tuple[Alternative, ...]]:
    """Return the log-probabilities of the token and of the n best, in nats, by logits [V]."""
    if n is None or logits is None:
        return None, ()
    with one_thread():
        logprobs = logits.log_softmax(-1)
        best = logprobs.topk(min(n, len(logprobs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return float(logprobs[token]), tuple(Alternative(i, lp) for i, lp in pairs)
