"""What each stage of a chain did to one token of an answer, and by how much it won the draw.

The engine's own trace says what happened to the token that was chosen. Stages that only look, put
between the others, tell what happened to any other token. V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from gptkit.decoding import noise
from gptkit.decoding.chain import rank
from gptkit.decoding.request import Stage
from gptkit.plugin_api import Params, Rows, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from gptkit.decoding.engine import Engine
    from gptkit.decoding.request import Request, StageTrace

_LOOKS = "\0look"  # no user can name a stage so
_NO = float("-inf")


@dataclass(frozen=True, slots=True)
class Standing:
    """A token's place, from 1, and probability; one that is forbidden has no place."""

    rank: int | None
    p: float


@dataclass(frozen=True, slots=True)
class StageView:
    """What one stage did; the first has no stage: it is what the model gave."""

    stage: Stage | None
    trace: StageTrace
    best_removed_p: float
    asked: Standing | None
    """Where the token that was asked about stands after it."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How the token won: by `margin` nats over the runner-up, noise included.

    There is no runner-up where one token was left, and no margin where the picker is not ours.
    """

    picker: Stage
    margin: float | None = None
    runner_up: int | None = None
    runner_up_p: float = 0.0


@dataclass(frozen=True, slots=True)
class Inspection:
    """The `n`-th token of an answer, from 1, at `position` of the whole sequence, from 0."""

    n: int
    position: int
    token_id: int
    stages: tuple[StageView, ...]
    off: tuple[Stage, ...]
    """The stages that were not run, since all their parameters stand at off."""
    draw: Draw
    finish_reason: str | None

    def removed_by(self) -> StageView | None:
        """Return the stage that removed the token that was asked about, if any did."""
        gone = (v for v in self.stages if v.asked is not None and v.asked.rank is None)
        return next(gone, None)


def inspect(engine: Engine, request: Request, asked: int | None = None) -> Iterator[Inspection]:
    """Generate, and yield what happened to each token; `asked` is another token to follow."""
    seen: list[Tensor] = []
    look = _looker(seen)
    chain = tuple(
        one
        for i, stage in enumerate(request.chain)
        for one in (Stage(f"{_LOOKS}{i}", look, {}), stage)
    )
    position = len(request.prompt_ids)
    start = position
    for event in engine.stream(replace(request, chain=chain, trace=True)):
        if event.error is not None:
            raise event.error
        if event.token_id is None:
            continue
        yield Inspection(
            n=position - start + 1,
            position=position,
            token_id=event.token_id,
            stages=_views(request, event.trace, seen, asked),
            off=tuple(stage for stage in request.chain if stage.is_off),
            draw=_draw(request, position, seen[-1], event.token_id),
            finish_reason=event.finish_reason,
        )
        seen.clear()
        position += 1


def _looker(seen: list[Tensor]) -> type[Sampler]:
    class Look(Sampler):
        """Write down the logits that pass."""

        name = "look"
        phase = "bias"

        def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
            seen.append(logits[0])
            return logits

    return Look


def _views(
    request: Request, traces: tuple[StageTrace, ...], seen: list[Tensor], asked: int | None
) -> tuple[StageView, ...]:
    """Join what the engine traced with what was seen before each stage and the picker."""
    by_label = {trace.label: i for i, trace in enumerate(request.chain)}
    views = []
    for n, trace in enumerate(traces):
        if trace.label.startswith(_LOOKS):
            continue
        i = by_label[trace.label] if n else -1  # the first is the model's own
        best = trace.best_removed
        views.append(
            StageView(
                stage=request.chain[i] if n else None,
                trace=trace,
                best_removed_p=0.0 if best is None else standing(seen[i], best).p,
                asked=None if asked is None else standing(seen[i + 1], asked),
            )
        )
    return tuple(views)


def standing(logits: Tensor, token: int) -> Standing:
    """Return where a token stands in logits [V]."""
    return Standing(rank(logits, token), float(logits.double().softmax(-1)[token]))


def _draw(request: Request, position: int, final: Tensor, token: int) -> Draw:
    """Compare the scores of the two best: those that the bundled pickers compare."""
    picker = request.chain[-1]
    scores = final.double().cpu()
    if picker.sampler.name == "sample":
        u = noise.uniform([request.seed], noise.PICK, [position], np.arange(len(scores)))[0]
        scores = scores - torch.as_tensor(-np.log1p(-u.astype(np.float64))).log()
    if picker.sampler.name not in ("greedy", "sample") or int(scores.argmax()) != token:
        return Draw(picker)  # it has rules of its own
    won = float(scores[token])
    scores[token] = _NO
    runner_up = int(scores.argmax())
    if float(scores[runner_up]) == _NO:
        return Draw(picker)
    return Draw(picker, won - float(scores[runner_up]), runner_up, standing(final, runner_up).p)
