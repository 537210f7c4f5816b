"""The sampler chain: gather parameters, run the stages, pick. One code path for every mode.

Where the best tokens of a row decide, its end runs over them alone (`shortlist`), to the same end.

Shapes: R rows, V vocabulary, K token ids.
"""

from __future__ import annotations

import math
import zlib
from contextlib import contextmanager
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gptkit.decoding import noise, shortlist
from gptkit.decoding.request import StageTrace
from gptkit.decoding.rows import LogitStats, PositionRows
from gptkit.errors import GptkitError, PluginError, RequestError, plugin_code
from gptkit.plugin_api import Observed, Params
from gptkit.ranking import Found, best

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from gptkit.decoding.request import Chain, Request, Stage
    from gptkit.decoding.rows import Position
    from gptkit.plugin_api import Sampler, Vocab

_DTYPES = {float: torch.float32, int: torch.int64, bool: torch.bool}
_NO = float("-inf")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread of the processor.

    What a chain does takes microseconds: the others come too late to help, and where something else
    runs on their processors, everybody waits for them. And no sum depends on how many there are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_plain(logits: Tensor) -> bool:
    """Whether NumPy can read logits, as float32."""
    is_here = logits.device.type == "cpu" and not logits.requires_grad
    return is_here and logits.dtype == torch.float32


def bests(logits: Tensor) -> list[float]:
    """Return the best logit of each row of logits [R, V]; NaN where there is one."""
    if _is_plain(logits):
        found: list[float] = logits.numpy().max(-1).tolist()
        return found  # NumPy's calls take less time than torch's
    found = logits.amax(-1).tolist()
    return found


class Scored(NamedTuple):
    """Logits [R, V], and the best tokens of each row where somebody has found them already."""

    logits: Tensor
    found: Found | None = None

    def of(self, rows: list[int]) -> Scored:
        """Return some of the rows."""
        if rows == list(range(self.logits.shape[0])):
            return self
        found = self.found and Found(self.found.ids[rows], self.found.scores[rows])
        with one_thread():
            return Scored(self.logits[rows], found)

    def are_finite(self) -> list[bool]:
        """Return whether the best logit of each row is a finite number."""
        best = bests(self.logits) if self.found is None else self.found.scores[:, 0].tolist()
        return [math.isfinite(one) for one in best]


class ChainRunner:
    """Runs the chains of rows that have the same stages in the same order; values are the row's."""

    def __init__(self, chain: Chain) -> None:
        self.labels = [stage.label for stage in chain]
        self.samplers: list[Sampler] = [stage.sampler() for stage in chain]
        self.remembers = any(sampler.state_from is not None for sampler in self.samplers)
        self._dtypes = [_dtypes(sampler) for sampler in self.samplers]
        self._columns: dict[int, tuple[list[Stage], dict[str, Tensor]]] = {}
        self._planned: tuple[list[Chain], tuple[int, int] | None] = [], None

    def n_best(self, request: Request) -> int:
        """Return how many of the best tokens `pick` looks at for a request, 0 where at all."""
        if self.remembers or request.asks_for_final:
            return 0
        first, n = shortlist.plan(self.samplers, [request.chain]) or (0, 0)
        return n if first == 0 else 0

    def pick(
        self,
        logits: Tensor,
        positions: Sequence[Position],
        vocab: Vocab,
        found: Found | None = None,
    ) -> list[Picked]:
        """Do as `run`, by the best tokens of a row alone where that is enough.

        What is picked has no final logits then: no request has asked for them. `found` are the best
        tokens of float32 logits on the CPU, where they are known.
        """
        scored = Scored(logits, found)
        asked = any(one.request.asks_for_final for one in positions)
        # A strategy may hand over what it has made itself, a drafter's model anything.
        is_plain = found is not None or _is_plain(logits)
        if self.remembers or asked or not (is_plain and all(scored.are_finite())):
            return self.run(logits, positions, vocab)
        return self._alone_where_it_fails(self._pick_by_best, scored, positions, vocab)

    def run(self, logits: Tensor, positions: Sequence[Position], vocab: Vocab) -> list[Picked]:
        """Pick a token for each row of finite logits [R, V]; a row that fails carries its error."""
        return self._alone_where_it_fails(self._run, Scored(logits), positions, vocab)

    def process(self, logits: Tensor, positions: Sequence[Position], vocab: Vocab) -> Tensor:
        """Return logits [R, V] after all stages but the picker."""
        return self._stages(PositionRows(positions, vocab, logits), logits)[-1]

    def after(self, one: Position, observed: Mapping[int, Observed]) -> list[Any]:
        """Return the states that follow those of a position, by what each stage has observed."""
        states = list(one.states)
        for i, at in observed.items():
            values = Params(one.request.chain[i].values)
            states[i] = self._guarded(
                i, lambda i=i, v=values, at=at: self.samplers[i].advance(states[i], v, at)
            )
        return states

    def unseen(self, one: Position, token: int) -> dict[int, Observed] | None:
        """Return what the stages observe of a token that the chain did not pick.

        None where one of them wants to know how likely it was.
        """
        observed = {}
        for i, sampler in enumerate(self.samplers):
            if sampler.state_from == "sample" and not one.request.chain[i].is_off:
                return None
            if sampler.state_from == "token":
                observed[i] = _observed(one, token, [math.nan] * 3)
        return observed

    def is_done(self, states: Sequence[Any]) -> bool:
        """Whether a stage says that nothing more may follow."""
        return any(
            sampler.state_from is not None and sampler.is_done(state)
            for sampler, state in zip(self.samplers, states, strict=True)
        )

    @staticmethod
    def _alone_where_it_fails(
        run: Callable[[Scored, Sequence[Position], Vocab], list[Picked]],
        scored: Scored,
        positions: Sequence[Position],
        vocab: Vocab,
    ) -> list[Picked]:
        """Run rows together, or one by one where that fails: only those at fault fail then."""
        try:
            return run(scored, positions, vocab)
        except GptkitError as error:
            if len(positions) == 1:
                return [Picked(error=error)]
        picked = []
        for i, one in enumerate(positions):
            try:
                picked += run(scored.of([i]), [one], vocab)
            except GptkitError as error:
                picked.append(Picked(error=error))
        return picked

    def _pick_by_best(
        self, scored: Scored, positions: Sequence[Position], vocab: Vocab
    ) -> list[Picked]:
        """Pick from the best tokens, or from all where that does not do."""
        plan = self._plan([one.request.chain for one in positions])
        if plan is None:
            return self._run(scored, positions, vocab)
        first, n = plan
        rows = PositionRows(positions, vocab, scored.logits)
        if first or scored.found is None or scored.found.ids.shape[1] < min(n, rows.V):
            left = self._stages(rows, scored.logits, first)[-1]
            found = best(left, n)
        else:
            found = Found(scored.found.ids[:, :n], scored.found.scores[:, :n])
        tokens = shortlist.pick(self.samplers, first, found, rows)
        picked = [Picked(-1 if token is None else token) for token in tokens]
        for one, position in zip(picked, positions, strict=True):
            one.states = list(position.states)
        if unsure := [row for row, token in enumerate(tokens) if token is None]:
            whole = self._run(scored.of(unsure), [positions[row] for row in unsure], vocab)
            for row, one in zip(unsure, whole, strict=True):
                picked[row] = one
        return picked

    def _plan(self, chains: list[Chain]) -> tuple[int, int] | None:
        """Return from which stage on shortlists serve, and of which length; see `shortlist.plan`.

        It is that of the last step, where the rows' chains are the same.
        """
        before, plan = self._planned
        if len(before) != len(chains) or not all(map(is_, before, chains)):
            plan = shortlist.plan(self.samplers, {id(one): one for one in chains}.values())
            self._planned = chains, plan
        return plan

    @one_thread()
    def _run(self, scored: Scored, positions: Sequence[Position], vocab: Vocab) -> list[Picked]:
        logits = scored.logits
        rows = PositionRows(positions, vocab, logits)
        entered = self._stages(rows, logits)
        ids = self._pick(entered[-1], rows)
        picked = [Picked(token) for token in ids]
        for row, (one, position) in enumerate(zip(picked, positions, strict=True)):
            one.observed = self._observe(row, position, one.token, entered)
            one.states = self.after(position, one.observed)
            one.final = entered[-1][row]
            if position.request.trace:
                one.trace = self._trace(position, one.token, [x[row] for x in entered])
        return picked

    @one_thread()
    def _stages(self, rows: PositionRows, logits: Tensor, end: int = -1) -> list[Tensor]:
        """Return the logits that enter each stage, up to stage `end`; -1 is the picker."""
        entered = [logits]
        for i in range(len(self.samplers))[:end]:
            rows.domain = zlib.crc32(self.labels[i].encode())
            rows.state = [one.states[i] for one in rows.positions]
            entered.append(self._apply(i, entered[-1], logits, rows))
        return entered

    def _apply(self, i: int, logits: Tensor, raw: Tensor, rows: PositionRows) -> Tensor:
        """Return what a stage makes of `logits` [R, V]; `raw` are the model's own."""
        off = [one.request.chain[i].is_off for one in rows.positions]
        if all(off):
            return logits
        sampler, p = self.samplers[i], self._gather(i, rows)

        def apply(logits: Tensor) -> Tensor:
            out: Tensor = self._guarded(i, lambda: sampler.apply(logits, p, rows))
            self._check(i, out, logits)
            return out.detach() if out.requires_grad else out

        out = apply(logits)
        best = bests(out)
        if any(off):
            out = torch.where(torch.tensor(off, device=logits.device)[:, None], logits, out)
            best = [0.0 if is_off else one for is_off, one in zip(off, best, strict=True)]
        if all(map(math.isfinite, best)):
            return out
        empty = torch.tensor([one == _NO for one in best], device=logits.device)[:, None]
        if not all(one == _NO or math.isfinite(one) for one in best):
            raise PluginError(f"sampler '{self.labels[i]}' made logits that are not finite")
        if sampler.phase != "constraint":
            return torch.where(empty, logits, out)  # a stage that leaves nothing changes nothing
        # What it allows, other stages have forbidden: it wins, over all that the model offered.
        out = torch.where(empty, apply(raw), out)
        if bool((out.amax(-1) == _NO).any()):
            raise RequestError(f"'{self.labels[i]}' allows no token here")
        return out

    def _check(self, i: int, out: Any, logits: Tensor) -> None:
        if not isinstance(out, torch.Tensor):
            raise PluginError(
                f"sampler '{self.labels[i]}' returned {type(out).__name__}, no tensor"
            )
        if out.shape != logits.shape or out.dtype != logits.dtype:
            got, want = (f"{t.dtype} {list(t.shape)}" for t in (out, logits))
            raise PluginError(f"sampler '{self.labels[i]}' returned {got}, not {want}")

    def _pick(self, logits: Tensor, rows: PositionRows) -> list[int]:
        i = len(self.samplers) - 1  # a resolved chain ends in a picker
        rows.domain, rows.state = noise.PICK, [one.states[i] for one in rows.positions]
        p = self._gather(i, rows)
        out = self._guarded(i, lambda: self.samplers[i].apply(logits, p, rows))
        if not isinstance(out, torch.Tensor) or out.shape != (rows.R,) or out.is_floating_point():
            raise PluginError(f"picker '{self.labels[i]}' did not return token ids [{rows.R}]")
        ids: list[int] = out.tolist()
        is_known = all(0 <= token < rows.V for token in ids)
        there = out if is_known else out.clamp(0, rows.V - 1)
        picked = logits.gather(-1, there[:, None])[:, 0].tolist()
        for token, logit in zip(ids, picked, strict=True):
            if logit == _NO or not 0 <= token < rows.V:
                raise PluginError(f"picker '{self.labels[i]}' picked forbidden token {token}")
        return ids

    def _guarded(self, i: int, call: Any) -> Any:
        with plugin_code(f"sampler '{self.labels[i]}'"):
            return call()

    def _gather(self, i: int, rows: PositionRows) -> Params:
        """Return the values of a stage, a column for each.

        The tensors are those of the last step, where its rows were the same and nobody has written
        to them: to make them takes longer than what some stages do.
        """
        stages = [one.request.chain[i] for one in rows.positions]
        before, columns = self._columns.get(i, ([], {}))
        is_same = len(before) == len(stages) and all(map(is_, before, stages))
        if not is_same or any(one.is_inference() or one._version for one in columns.values()):
            columns = {
                key: torch.tensor(
                    [stage.values[key] for stage in stages], dtype=dtype, device=rows.device
                )[:, None]
                for key, dtype in self._dtypes[i].items()
            }
            self._columns[i] = stages, columns
        others = self.samplers[i].params.keys() - columns.keys()
        lists = {key: [stage.values[key] for stage in stages] for key in others}
        return Params(columns | lists)

    def _observe(
        self, row: int, one: Position, token: int, entered: list[Tensor]
    ) -> dict[int, Observed]:
        """Return what each stage with memory learns of the token."""
        observed = {}
        for i, sampler in enumerate(self.samplers):
            if sampler.state_from is not None:
                logprobs = [math.nan] * 3
                if sampler.state_from == "sample":
                    at = min(i, len(entered) - 1)
                    seen = (entered[-1], entered[0], entered[at])
                    logprobs = [float(x[row].log_softmax(-1)[token]) for x in seen]
                observed[i] = _observed(one, token, logprobs)
        return observed

    def _trace(self, one: Position, token: int, entered: list[Tensor]) -> tuple[StageTrace, ...]:
        """Return what each stage that is on did to one row, the model's own logits [V] first."""
        first = entered[0]
        out = [_traced("model", first, first, token)]
        for i in range(len(entered) - 1):
            if not one.request.chain[i].is_off:
                out.append(_traced(self.labels[i], entered[i], entered[i + 1], token))
        return tuple(out)


class Runners:
    """The runners of all chains so far: those with the same stages are run together."""

    def __init__(self) -> None:
        self._by_stages: dict[tuple[Any, ...], ChainRunner] = {}

    def of(self, chain: Chain) -> ChainRunner:
        """Return the runner of a chain; chains that differ in values alone have the same."""
        stages = tuple((stage.label, stage.sampler) for stage in chain)
        if stages not in self._by_stages:
            self._by_stages[stages] = ChainRunner(chain)
        return self._by_stages[stages]


class Picked:
    """What a chain run decided for one row: a token and the states after it, or an error."""

    __slots__ = ("error", "final", "observed", "states", "token", "trace")

    def __init__(self, token: int = -1, *, error: GptkitError | None = None) -> None:
        self.token = token
        self.error = error
        self.states: list[Any] = []
        self.observed: dict[int, Observed] = {}
        self.final: Tensor | None = None
        """The logits [V] that the picker saw."""
        self.trace: tuple[StageTrace, ...] = ()


def _observed(one: Position, token: int, logprobs: list[float]) -> Observed:
    return Observed(token, len(one.tokens), len(one.tokens) - one.prompt_len, *logprobs)


def _dtypes(sampler: Sampler) -> dict[str, torch.dtype]:
    """Return the parameters whose values are a tensor."""
    of_numbers = {key: one for key, one in sampler.params.items() if one.items is None}
    return {key: _DTYPES[one.kind] for key, one in of_numbers.items() if one.kind in _DTYPES}


def _traced(label: str, before: Tensor, after: Tensor, token: int) -> StageTrace:
    """Return what a stage did to a row of logits [V], in float64."""
    p, q = before.double().softmax(-1), after.double().softmax(-1)
    gone = (after == _NO) & (before > _NO)
    best = int(p.where(gone, -torch.ones_like(p)).argmax())
    return StageTrace(
        label,
        survivors=int((after > _NO).sum()),
        removed_mass=float(p[gone].sum()),
        entropy=float(LogitStats(after[None]).entropy),
        rank_before=rank(before, token),
        rank_after=rank(after, token),
        p_before=float(p[token]),
        p_after=float(q[token]),
        best_removed=best if bool(gone.any()) else None,
    )


def rank(logits: Tensor, token: int) -> int | None:
    """Return the token's place, from 1, by logit, descending, then by id; None if forbidden."""
    mine = logits[token]
    if float(mine) == _NO:
        return None
    return 1 + int((logits > mine).sum()) + int((logits[:token] == mine).sum())
