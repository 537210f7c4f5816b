"""The sampler chain: gather parameters, run the stages, pick. One code path for every mode.

Shapes: R rows, V vocabulary, K token ids.
"""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from gptkit.decoding import noise
from gptkit.decoding.request import StageTrace
from gptkit.errors import GptkitError, PluginError, RequestError, plugin_failure
from gptkit.plugin_api import Observed, Params

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gptkit.decoding.request import Chain
    from gptkit.decoding.sequence import Sequence as Seq
    from gptkit.plugin_api import Param, Sampler, Vocab

_DTYPES = {float: torch.float32, int: torch.int64, bool: torch.bool}
_NO = float("-inf")


class LogitStats:
    """Figures of each row of logits [R, V]; the `Stats` of the plugin api."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @cached_property
    def max(self) -> Tensor:
        """The best logit [R, 1]."""
        return self.logits.amax(-1, keepdim=True)

    @cached_property
    def support(self) -> Tensor:
        """How many tokens are not forbidden [R, 1]."""
        return (self.logits > _NO).sum(-1, keepdim=True)

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy in nats [R, 1], never below 0."""
        logprobs = self.logits.double().log_softmax(-1)
        terms = (logprobs.exp() * logprobs).masked_fill(self.logits == _NO, 0.0)
        entropy: Tensor = -terms.sum(-1, keepdim=True)
        return entropy.clamp_min(0.0).float()

    @cached_property
    def std(self) -> Tensor:
        """Population standard deviation over the support [R, 1]."""
        out = self.logits == _NO
        values = self.logits.double().masked_fill(out, 0.0)
        mean = values.sum(-1, keepdim=True) / self.support
        square = (values - mean).square().masked_fill(out, 0.0)
        std: Tensor = (square.sum(-1, keepdim=True) / self.support).sqrt().float()
        return std


class SequenceRows:
    """What a stage may look at, made from sequences; the `Rows` of the plugin api."""

    def __init__(self, sequences: Sequence[Seq], vocab: Vocab, logits: Tensor) -> None:
        self.sequences = sequences
        self.vocab = vocab
        self.R, self.V = logits.shape
        self.device = logits.device
        self.state: list[Any] = []
        self.domain = noise.PICK
        self._stats: LogitStats | None = None
        self._seeds = np.array([seq.request.seed for seq in sequences], np.int64)
        self._positions = np.array([len(seq.tokens) for seq in sequences], np.int64)

    @property
    def position(self) -> Tensor:
        """Absolute index of the token being chosen [R]."""
        return torch.as_tensor(self._positions, device=self.device)

    @property
    def prompt_len(self) -> Tensor:
        """Tokens of the prompt [R]."""
        return torch.tensor([seq.prompt_len for seq in self.sequences], device=self.device)

    @property
    def n_out(self) -> Tensor:
        """Tokens generated so far [R]."""
        return self.position - self.prompt_len

    def tokens(self, row: int) -> Sequence[int]:
        """Return prompt and output of one row."""
        return self.sequences[row].tokens

    def seen(self, scope: Literal["all", "output"] = "all", window: int = 0) -> Tensor:
        """Return which tokens have occurred, bool [R, V]."""
        return self.counts(scope, window) > 0

    def counts(self, scope: Literal["all", "output"] = "output", window: int = 0) -> Tensor:
        """Return how often each token has occurred, float32 [R, V]."""
        counts = [
            np.bincount(self._history(seq, scope, window), minlength=self.V)
            for seq in self.sequences
        ]
        return torch.as_tensor(np.stack(counts), dtype=torch.float32, device=self.device)

    def suffix(self, n: int) -> Tensor:
        """Return the last n tokens [R, n], -1 where a row is shorter."""
        last = [([-1] * n + seq.tokens)[-n:] for seq in self.sequences]
        return torch.tensor(last, device=self.device)

    def stats(self, logits: Tensor) -> LogitStats:
        """Return figures of logits [R, V], once for the same tensor."""
        if self._stats is None or self._stats.logits is not logits:
            self._stats = LogitStats(logits)
        return self._stats

    def uniform(self, stream: int = 0) -> Tensor:
        """Return one keyed coin for each row, float32 [R, 1]."""
        return self._noise(np.zeros(1, np.int64), stream)

    def noise(self, ids: Tensor | None = None, stream: int = 0) -> Tensor:
        """Return keyed uniforms for all tokens [R, V], or for `ids` [R, K]."""
        return self._noise(np.arange(self.V) if ids is None else ids.cpu().numpy(), stream)

    def _noise(self, ids: Any, stream: int) -> Tensor:
        domain = (self.domain + stream) & 0xFFFFFFFF
        u = noise.uniform(self._seeds, domain, self._positions, ids)
        return torch.as_tensor(u, device=self.device)

    @staticmethod
    def _history(seq: Seq, scope: str, window: int) -> Any:
        tokens = seq.tokens[seq.prompt_len :] if scope == "output" else seq.tokens
        return np.asarray(tokens[-window:] if window else tokens, np.int64)


class ChainRunner:
    """Runs the chains of rows that have the same stages in the same order; values are the row's."""

    def __init__(self, chain: Chain) -> None:
        self.labels = [stage.label for stage in chain]
        self.samplers: list[Sampler] = [stage.sampler() for stage in chain]

    def run(self, logits: Tensor, sequences: Sequence[Seq], vocab: Vocab) -> list[Picked]:
        """Pick a token for each row of finite logits [R, V]; a row that fails carries its error.

        When a stage raises, each row is run alone, so that only the rows at fault fail.
        """
        try:
            return self._run(logits, sequences, vocab)
        except GptkitError as error:
            if len(sequences) == 1:
                return [Picked(error=error)]
        alone = (self.run(logits[i : i + 1], [seq], vocab) for i, seq in enumerate(sequences))
        return [picked for one in alone for picked in one]

    def _run(self, logits: Tensor, sequences: Sequence[Seq], vocab: Vocab) -> list[Picked]:
        rows = SequenceRows(sequences, vocab, logits)
        raw, entered = logits, []
        traces: list[list[StageTrace]] = [[] for _ in sequences]
        tracing = any(seq.request.trace for seq in sequences)
        ids = None
        for i, sampler in enumerate(self.samplers):
            rows.domain = zlib.crc32(self.labels[i].encode())
            rows.state = [seq.states[i] for seq in sequences]
            entered.append(logits)
            if sampler.phase == "pick":
                rows.domain = noise.PICK
                ids = self._pick(i, logits, self._gather(i, sequences, rows.device), rows)
                break
            left = self._apply(i, logits, sequences, rows)
            if tracing:
                _trace(traces, self.labels[i], logits, left)
            logits = left
        assert ids is not None, "a resolved chain ends in a picker"
        picked = [Picked(token, trace=tuple(t)) for token, t in zip(ids, traces, strict=True)]
        self._advance(picked, sequences, raw, entered)
        return picked

    def _apply(
        self, i: int, logits: Tensor, sequences: Sequence[Seq], rows: SequenceRows
    ) -> Tensor:
        off = [seq.request.chain[i].is_off for seq in sequences]
        if all(off):
            return logits
        sampler, p = self.samplers[i], self._gather(i, sequences, rows.device)
        out: Tensor = self._guarded(i, lambda: sampler.apply(logits, p, rows))
        self._check(i, out, logits)
        best = out.amax(-1, keepdim=True)
        if any(off):
            kept = torch.tensor(off, device=logits.device)[:, None]
            out, best = torch.where(kept, logits, out), best.masked_fill(kept, 0.0)
        if bool(best.isfinite().all()):
            return out
        empty = best == _NO
        if not bool((empty | best.isfinite()).all()):
            raise PluginError(f"sampler '{self.labels[i]}' made logits that are not finite")
        if sampler.phase == "constraint":
            raise RequestError(f"'{self.labels[i]}' allows no token here")
        return torch.where(empty, logits, out)  # a stage that leaves nothing changes nothing

    def _check(self, i: int, out: Any, logits: Tensor) -> None:
        if not isinstance(out, torch.Tensor):
            raise PluginError(
                f"sampler '{self.labels[i]}' returned {type(out).__name__}, no tensor"
            )
        if out.shape != logits.shape or out.dtype != logits.dtype:
            got, want = (f"{t.dtype} {list(t.shape)}" for t in (out, logits))
            raise PluginError(f"sampler '{self.labels[i]}' returned {got}, not {want}")

    def _pick(self, i: int, logits: Tensor, p: Params, rows: SequenceRows) -> list[int]:
        out = self._guarded(i, lambda: self.samplers[i].apply(logits, p, rows))
        if not isinstance(out, torch.Tensor) or out.shape != (rows.R,) or out.is_floating_point():
            raise PluginError(f"picker '{self.labels[i]}' did not return token ids [{rows.R}]")
        ids: list[int] = out.tolist()
        for row, token in enumerate(ids):
            if not 0 <= token < rows.V or float(logits[row, token]) == _NO:
                raise PluginError(f"picker '{self.labels[i]}' picked forbidden token {token}")
        return ids

    def _guarded(self, i: int, call: Any) -> Any:
        try:
            return call()
        except GptkitError:
            raise
        except Exception as error:
            raise plugin_failure(f"sampler '{self.labels[i]}'", error) from error

    def _gather(self, i: int, sequences: Sequence[Seq], device: torch.device) -> Params:
        stages = [seq.request.chain[i] for seq in sequences]
        declared = self.samplers[i].params
        return Params(
            {
                key: _column(d, [s.values[key] for s in stages], device)
                for key, d in declared.items()
            }
        )

    def _advance(
        self, picked: list[Picked], sequences: Sequence[Seq], raw: Tensor, entered: list[Tensor]
    ) -> None:
        """Give each picked token the states that follow it."""
        after = [list(seq.states) for seq in sequences]
        for i, sampler in enumerate(self.samplers):
            if sampler.state_from is None:
                continue
            for row, seq in enumerate(sequences):
                token = picked[row].token
                logprobs = [float("nan")] * 3
                if sampler.state_from == "sample":
                    seen = (entered[-1], raw, entered[i])
                    logprobs = [float(x[row].log_softmax(-1)[token]) for x in seen]
                at = Observed(token, len(seq.tokens), len(seq.tokens) - seq.prompt_len, *logprobs)
                values = Params(seq.request.chain[i].values)
                state = seq.states[i]
                after[row][i] = self._guarded(
                    i, lambda s=sampler, state=state, v=values, at=at: s.advance(state, v, at)
                )
        for one, states in zip(picked, after, strict=True):
            one.states = states


class Picked:
    """What a chain run decided for one row: a token and the states after it, or an error."""

    __slots__ = ("error", "states", "token", "trace")

    def __init__(
        self,
        token: int = -1,
        *,
        trace: tuple[StageTrace, ...] = (),
        error: GptkitError | None = None,
    ) -> None:
        self.token = token
        self.trace = trace
        self.error = error
        self.states: list[Any] = []


def _column(declared: Param, values: list[Any], device: torch.device) -> Any:
    if declared.items is not None or declared.kind not in _DTYPES:
        return values
    return torch.tensor(values, dtype=_DTYPES[declared.kind], device=device)[:, None]


def _trace(traces: list[list[StageTrace]], label: str, before: Tensor, after: Tensor) -> None:
    gone = before.softmax(-1).masked_fill(after > _NO, 0.0).sum(-1).tolist()
    left = (after > _NO).sum(-1).tolist()
    for trace, survivors, mass in zip(traces, left, gone, strict=True):
        trace.append(StageTrace(label, survivors, mass))
