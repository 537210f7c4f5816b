"""Keep the first tokens of each row, in an order that is total, without sorting all of it.

The order is by score, descending, then by token id, ascending. The best few are found where the
logits are; the rest is done with those few in NumPy, whose calls cost less than torch's. Shapes:
R rows, V vocabulary, r rows that are still open, W tokens looked at.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any, cast

from gptkit.plugin_api import best

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]
    Count = Callable[[Ints, Ints, Floats], Ints]
    """Called with rows [r], and the ids and scores [r, W] of their first tokens."""

FIRST_LOOK = 64
UNIT = 2.0**40  # integers of this unit add up to the same sum in any order
NO = float("-inf")


def keep_first(
    logits: Tensor, count: Count, *, score: Tensor | None = None, look: int = FIRST_LOOK
) -> Tensor:
    """Return logits [R, V], all but the first tokens of each row by `score` [R, V] at -inf.

    `count(rows [r], ids [r, W], scores [r, W])` returns how many of the tokens `ids`, which are in
    order, stay [r]; more than W where that depends on tokens further down. Without a score the
    logits are.

    A full sort costs far more than the forward pass of a small model. So it looks at the best 64,
    256, ... tokens, and at more only in rows where the cut does not fall among those whose place is
    known: what equals the last token looked at may stand anywhere.
    """
    import numpy as np
    import torch

    out = _nothing(logits)
    rows, ranked = np.arange(len(logits)), logits if score is None else score
    while True:
        ids, scores, known = _first(ranked, look)
        n = count(rows, ids, scores)
        sure = n <= known
        if ids.shape[-1] == logits.shape[-1]:
            sure[:] = True
        if score is None and len(rows) == len(out) and sure.all():
            _note(out, *_put(out, ids, scores, n))
            return out
        if sure.any():
            at = torch.from_numpy(rows[sure]).to(out.device)
            part, kept = out[at], logits[at].gather(-1, torch.from_numpy(ids[sure]).to(out.device))
            _put(part, ids[sure], kept.cpu().numpy(), n[sure])
            out[at] = part
        if sure.all():
            return out
        rows, ranked = rows[~sure], ranked[torch.from_numpy(~sure).to(out.device)]
        look = 4 * look


def _nothing(logits: Tensor) -> Tensor:
    """Return -inf in the shape of logits."""
    import numpy as np
    import torch

    if logits.device.type != "cpu":
        return torch.full_like(logits, NO)
    return torch.from_numpy(np.full_like(logits.numpy(), NO))


def _put(out: Tensor, ids: Ints, logits: Floats, n: Ints) -> tuple[Ints, Floats]:
    """Put the first n [r] of logits [r, W] into out [r, V] at their ids.

    Return ids and logits up to the longest row's, the others at -inf, and two more, which show
    where a row ends.
    """
    import numpy as np
    import torch

    width = min(int(n.max()) + 2, ids.shape[-1])
    ids = np.ascontiguousarray(ids[:, :width])
    kept = np.where(np.arange(width) < n[:, None], logits[:, :width], np.float32(NO))
    to = out.device
    out.scatter_(-1, torch.from_numpy(ids).to(to), torch.from_numpy(kept).to(to))
    return ids, kept


def survivors(logits: Tensor) -> tuple[Ints, Floats] | None:
    """Return ids in order and logits [R, W] of all tokens of logits [R, V] that are not at -inf.

    None where no stage just before has found them, or somebody has written to its logits since.
    """
    ids, kept, version = getattr(logits, "_survivors", (None, None, 0))
    if ids is None or logits._version != version:
        return None
    return cast("tuple[Ints, Floats]", (ids, kept))


def _note(logits: Tensor, ids: Ints, kept: Floats) -> None:
    """Let the next stage know the survivors: to look for them costs more than all else it does."""
    if not logits.is_inference():
        logits._survivors = ids, kept, logits._version  # type: ignore[attr-defined]


def _first(score: Tensor, look: int) -> tuple[Ints, Floats, Ints]:
    """Return ids and scores [r, W] in order, and of how many the place is known [r].

    There are W, or all of V.
    """
    import numpy as np

    n_tokens = score.shape[-1]
    everywhere = np.full(len(score), n_tokens + 1)
    if (left := survivors(score)) is not None:
        return (*left, everywhere)
    if look > n_tokens // 4:  # then a sort is no dearer
        found = score.sort(dim=-1, descending=True, stable=True)
        return found.indices.cpu().numpy(), found.values.cpu().numpy(), everywhere
    ids, scores = best(score, look)
    edge = scores[:, -1]
    known = (scores > edge[:, None]).sum(-1)
    return ids, scores, np.where(edge == NO, everywhere, known)


def best_ids(logits: Tensor) -> Tensor:
    """Return the id [R] of the best token of logits [R, V]; of equals the lowest."""
    import torch

    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.numpy().argmax(-1))  # ten times as fast as torch's


def reach(probs: Tensor, goal: Tensor) -> Count:
    """Return what counts the first tokens whose mass is `goal` [R, 1], of probs [R, V].

    A token counts while the mass strictly before it is below the goal, and the first one always.
    """
    known, goals = probs.cpu().numpy(), goal.cpu().numpy()

    def count(rows: Ints, ids: Ints, scores: Floats) -> Ints:
        return _count_mass(_in_units(known[rows[:, None], ids]), _in_units(goals[rows]))

    return count


def reach_by_logit(logits: Tensor, goal: Tensor) -> Count:
    """Return what counts the first tokens of logits [R, V] whose mass is `goal` [R, 1], as `reach`.

    The mass of few tokens is theirs alone, and nobody looks at the others. Whether there are few
    depends on the row, not on who asks, or its last bits would.
    """
    import numpy as np

    goals = goal.cpu().numpy()
    probs: Floats | None = None

    def count(rows: Ints, ids: Ints, scores: Floats) -> Ints:
        nonlocal probs
        mass = _in_units(np.exp((scores - scores[:, :1]).astype(np.float64)))
        wanted = np.rint(goals[rows] * mass.sum(-1, keepdims=True, dtype=np.float64))
        is_few = (scores > NO).sum(-1, keepdims=True) < FIRST_LOOK
        if not is_few.all():
            probs = logits.softmax(-1).cpu().numpy() if probs is None else probs
            mass = np.where(is_few, mass, _in_units(probs[rows[:, None], ids]))
            wanted = np.where(is_few, wanted, _in_units(goals[rows]))
        return _count_mass(mass, wanted)

    return count


def n_that_reach(logits: list[float], goal: float) -> int:
    """Return what `reach_by_logit` counts in a row of few tokens, by their logits in order.

    Plain numbers: NumPy's calls would take longer than all they do.
    """
    below = array("f", [logit - logits[0] for logit in logits])
    mass = [round(math.exp(one) * UNIT) for one in below]
    wanted, before = round(goal * sum(mass)), 0
    for n, one in enumerate(mass):
        if before >= wanted:
            return max(n, 1)
        before += one
    return len(mass)


def _in_units(share: NDArray[Any]) -> Ints:
    import numpy as np

    found: Ints = np.rint(share * np.float64(UNIT)).astype(np.int64)
    return found


def _count_mass(mass: Ints, wanted: NDArray[Any]) -> Ints:
    """Return how many first tokens [r] have the `wanted` mass [r, 1], of units [r, W]; W + 1 where
    all of them have less."""
    import numpy as np

    upto = mass.cumsum(-1)
    n = np.maximum(((upto - mass) < wanted).sum(-1), 1)
    found: Ints = n + (upto[:, -1] < wanted[:, 0])
    return found


def keep_best(logits: Tensor, n: Tensor) -> Tensor:
    """Return logits [R, V], all but the best n [R, 1] of each row at -inf; n is at least 1."""
    import numpy as np

    counts = n[:, 0].cpu().numpy()
    whole = counts >= logits.shape[-1]
    counts = np.where(whole, 1, counts)
    out = keep_first(logits, lambda rows, ids, scores: counts[rows], look=int(counts.max()) + 1)
    return logits.where(n >= logits.shape[-1], out) if whole.any() else out


def keep_above(logits: Tensor, figures: Tensor, least: Tensor) -> Tensor:
    """Return logits [R, V], at -inf where `figures` [R, V] are below `least` [R, 1].

    The best token stays in any case; of equals the lowest id.
    """
    gone = figures < least
    if bool((figures.amax(-1, keepdim=True) < least).any()):
        gone = gone.scatter(-1, best_ids(logits)[:, None], False)
    return logits.masked_fill(gone, NO)
