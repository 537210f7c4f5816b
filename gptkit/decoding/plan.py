"""One step's plan: which new tokens are computed, of whom, and whose logits are wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gptkit.decoding.prefix import CHUNK, Trunk
from gptkit.decoding.sequence import Sequence
from gptkit.model.forward import ROWS, Span, round_up

if TYPE_CHECKING:
    from gptkit.decoding.strategies import Twig

    Computed = Sequence | Twig | Trunk
    """What has tokens, a slot, and a number of them that are cached."""


@dataclass(slots=True)
class Work:
    """New tokens of one sequence; `rows` are indices of its logits, one for each of a draft."""

    one: Computed
    start: int
    first: int
    n: int
    rows: list[int] = field(default_factory=list)
    draft: list[int] | None = None

    @property
    def seq(self) -> Sequence:
        """The sequence, where it is one."""
        assert isinstance(self.one, Sequence)
        return self.one


@dataclass(slots=True)
class StepPlan:
    """The new tokens of a step end to end, their spans, and the indices of those with logits."""

    ids: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    _planned: dict[int, int] = field(default_factory=dict)

    def n_planned(self, one: Computed) -> int:
        """Return how many tokens of a sequence are in this step."""
        return self._planned.get(id(one), 0)

    def decode(self, one: Sequence | Twig, draft: list[int]) -> None:
        """Take the last token of a sequence, and those of its draft after it.

        Each is a span of its own, so that its arithmetic is that of a step without a draft.
        """
        work = Work(one, one.n_cached, len(self.ids), 1 + len(draft), draft=draft)
        for offset in range(work.n):
            work.rows.append(len(self.wanted))
            self.wanted.append(len(self.ids) + offset)
            self._span(one, one.n_cached + offset, 1)
        self.ids += [one.tokens[-1], *draft]
        self._add(work)

    def prefill(self, one: Computed, budget: int) -> int:
        """Take chunks of what is not cached, within the budget; return what is left of it.

        A chunk that has begun is taken whole. The last token's logits are wanted, but of a trunk.
        """
        start = first = one.n_cached
        end = len(one.tokens)
        ids_first = len(self.ids)
        while start < end and budget > 0:
            n = min(start // CHUNK * CHUNK + CHUNK, end) - start
            self._span(one, start, n)
            self.ids += one.tokens[start : start + n]
            start += n
            budget -= n
        if start > first:
            work = Work(one, first, ids_first, start - first)
            if start == end and not isinstance(one, Trunk):
                work.rows.append(len(self.wanted))
                self.wanted.append(len(self.ids) - 1)
            self._add(work)
        return budget

    def pad(self) -> None:
        """Fill up to the next multiple of rows that makes arithmetic independent of them."""
        for _ in range(round_up(len(self.ids), ROWS) - len(self.ids)):
            self.ids.append(0)
            self.spans.append(Span(None, 0, 1))

    def _span(self, one: Computed, start: int, n: int) -> None:
        trunk = one.trunk.slot if one.trunk is not None else None
        self.spans.append(Span(one.slot, start, n, trunk, one.n_shared))

    def _add(self, work: Work) -> None:
        self.works.append(work)
        self._planned[id(work.one)] = work.n
