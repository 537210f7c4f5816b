"""The likeliest whole answer, not the likeliest next token.

Shapes: B beams of one group, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gptkit.plugin_api import ConfigError, Loop, Params, Strategy, param

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from torch import Tensor

    from gptkit.plugin_api import Branch


class Beam(Strategy):
    """Search for the likeliest answer along several at once; with groups, for unlike ones.

    An answer's score is the sum of its log-probabilities over its length to the power of
    `length_penalty`; the search goes on until no beam can beat the best answers that have ended.
    Groups are beams of their own, in which a token loses `diversity` for each earlier group that
    chose it in this step (Vijayakumar et al. 2016, arXiv:1610.02424). The chain's stages rewrite
    the probabilities, its picker and the seed have no part.
    """

    name = "beam"
    beams = param(4, ge=1, le=64, help="how many answers are followed")
    length_penalty = param(1.0, ge=-10, le=10, help="above 0 favours longer answers; 0 is none")
    groups = param(1, ge=1, le=64, help="groups that the beams are divided into")
    diversity = param(0.0, ge=0, le=100, help="what a token loses that an earlier group chose")

    def width(self, p: Params) -> int:
        """Return the number of beams."""
        if p.beams % p.groups:
            raise ConfigError(
                f"beam.groups: {p.groups} groups can't have as many of {p.beams} beams each",
                hint="give a number that divides beams",
            )
        return int(p.beams)

    def run(self, loop: Loop, p: Params) -> Generator[Sequence[Branch], Tensor, None]:
        """Extend all groups in one step; commit what all that may still win begin with."""
        each = p.beams // p.groups
        groups = [_Group(each, p.length_penalty) for _ in range(p.groups)]
        for group in groups:
            group.live = [_Beam(loop.root, 0.0)]
        n_said = 0
        while any(group.live for group in groups):
            branches = list(dict.fromkeys(b.branch for group in groups for b in group.live))
            logits = yield branches
            logprobs = loop.process(logits, branches).double().log_softmax(-1)
            chosen: list[int] = []
            for group in groups:
                if group.live:
                    rows = [branches.index(beam.branch) for beam in group.live]
                    chosen += group.extend(loop, logprobs[rows], chosen, p.diversity)
            prefix = _common(answer for group in groups for answer in group.answers())
            for token in prefix[n_said:]:
                if not loop.commit(token):
                    return
            n_said = max(n_said, len(prefix))
        best = max((group.ended[0] for group in groups if group.ended), key=lambda one: one.score)
        for token in best.tokens[n_said:]:
            if not loop.commit(token):
                return


@dataclass(slots=True)
class _Beam:
    """A branch and the sum of its log-probabilities."""

    branch: Branch
    total: float

    @property
    def answer(self) -> list[int]:
        """Its tokens after the prompt."""
        tokens = self.branch.tokens
        return list(tokens[len(tokens) - self.branch.n_out :])


@dataclass(slots=True)
class _Ended:
    """An answer that has ended, and its score."""

    tokens: list[int]
    score: float


@dataclass(slots=True)
class _Group:
    """Beams that compete with each other, the best answers of theirs that ended first."""

    size: int
    length_penalty: float
    live: list[_Beam] = field(default_factory=list)
    ended: list[_Ended] = field(default_factory=list)

    def answers(self) -> Iterable[list[int]]:
        """Yield all answers that may still win."""
        yield from (one.tokens for one in self.ended)
        yield from (beam.answer for beam in self.live)

    def extend(
        self, loop: Loop, logprobs: Tensor, chosen: Sequence[int], diversity: float
    ) -> list[int]:
        """Replace the beams by their best continuations; return the tokens that were chosen."""
        stops = loop.request.stop_ids
        totals = logprobs.new_tensor([beam.total for beam in self.live])[:, None]
        scores = totals + logprobs  # [B, V]
        ranked = scores.clone()
        if diversity:
            for token in chosen:
                ranked[:, token] -= diversity
        width = logprobs.shape[-1]
        # So many that enough are left when each beam's stop tokens are among the best.
        n = min(self.size * (1 + max(1, len(stops))), ranked.numel())
        flat = ranked.flatten().topk(n)
        order = sorted(zip((-flat.values).tolist(), flat.indices.tolist(), strict=True))
        n_out = self.live[0].branch.n_out + 1
        is_last = n_out >= loop.max_new_tokens
        beams: list[_Beam] = []
        for place, (worth, index) in enumerate(order):
            if worth == float("inf") or len(beams) == self.size:
                break
            parent, token = self.live[index // width], index % width
            total = float(scores.flatten()[index])
            if token in stops or is_last:
                if place < self.size:
                    self._end([*parent.answer, token], total)
            else:
                beams.append(_Beam(loop.fork(parent.branch, token), total))
        picked = [beam.branch.tokens[-1] for beam in beams]
        self.live = beams if beams and self._may_win(beams[0], loop.max_new_tokens) else []
        return picked

    def _end(self, tokens: list[int], total: float) -> None:
        self.ended.append(_Ended(tokens, total / len(tokens) ** self.length_penalty))
        self.ended.sort(key=lambda one: -one.score)
        del self.ended[self.size :]

    def _may_win(self, best: _Beam, max_new_tokens: int) -> bool:
        """Whether the best beam can still beat the worst of the answers that have ended."""
        if len(self.ended) < self.size:
            return True
        length = max_new_tokens if self.length_penalty > 0 else best.branch.n_out
        return bool(best.total / length**self.length_penalty > self.ended[-1].score)


def _common(answers: Iterable[list[int]]) -> list[int]:
    """Return what all answers begin with."""
    first, *others = answers
    n = len(first)
    for other in others:
        n = min(n, len(other))
        n = next((i for i in range(n) if first[i] != other[i]), n)
    return first[:n]
