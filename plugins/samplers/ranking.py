"""Keep the first tokens of each row, in an order that is total, without sorting all of it.

The order is by score, descending, then by token id, ascending. Shapes: R rows, V vocabulary, r rows
that are still open, W tokens looked at, G groups of tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Count = Callable[[Tensor, Tensor], Tensor]

FIRST_LOOK = 64
GROUP = 16
UNIT = 2.0**40  # integers of this unit add up to the same sum in any order
NO = float("-inf")


def keep_first(
    logits: Tensor, count: Count, *, score: Tensor | None = None, look: int = FIRST_LOOK
) -> Tensor:
    """Return logits [R, V], all but the first tokens of each row by `score` [R, V] at -inf.

    `count(rows [r], ids [r, W])` returns how many of the tokens `ids`, which are in order, stay
    [r, 1]; more than W where that depends on tokens further down. Without a score the logits are.

    A full sort costs far more than the forward pass of a small model. So it looks at the best 64,
    256, ... tokens, and at more only in rows where the cut does not fall among those whose place is
    known: what equals the last token looked at may stand anywhere.
    """
    import torch

    by_logit = score is None
    score = logits if score is None else score
    n_tokens = logits.shape[-1]
    out = torch.full_like(logits, NO)
    rows = torch.arange(len(logits), device=logits.device)
    while True:
        ids, known = _first(score, look)
        n = count(rows, ids)  # [r, 1]
        sure = (n <= known)[:, 0]
        stays = torch.arange(ids.shape[-1], device=ids.device) < n
        kept = logits[rows[:, None], ids].where(stays, NO)
        if ids.shape[-1] == n_tokens or bool(sure.all()):
            out[rows[:, None], ids] = kept
            if by_logit and len(rows) == len(out):
                _note(out, ids[:, : int(n.max())])
            return out
        out[rows[sure][:, None], ids[sure]] = kept[sure]
        rows, score = rows[~sure], score[~sure]
        look = 4 * look


def survivors(logits: Tensor) -> Tensor | None:
    """Return ids [R, W] in order, all that are left of logits [R, V] among them.

    None where no stage just before has found them, or somebody has written to its logits since.
    """
    ids, version = getattr(logits, "_survivors", (None, 0))
    return ids if ids is not None and logits._version == version else None


def _note(logits: Tensor, ids: Tensor) -> None:
    """Let the next stage know the survivors: to look for them costs more than all else it does."""
    if not logits.is_inference():
        logits._survivors = ids, logits._version  # type: ignore[attr-defined]


def _first(score: Tensor, look: int) -> tuple[Tensor, Tensor]:
    """Return ids [r, W] in order, and of how many the place is known [r, 1]; W, then all of V."""
    n_tokens = score.shape[-1]
    if (left := survivors(score)) is not None:
        return left, left.new_full((len(left), 1), n_tokens + 1)
    if look > n_tokens // 4:  # then a sort is no dearer
        ids = score.sort(dim=-1, descending=True, stable=True).indices
        return ids, ids.new_full((len(ids), 1), n_tokens + 1)
    ids = top_ids(score, look).sort(dim=-1).values  # by id, so that a stable sort leaves equals so
    scores, order = score.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    edge = scores[:, -1:]
    known = (scores > edge).sum(-1, keepdim=True)
    return ids.gather(-1, order), known.masked_fill(edge == NO, n_tokens + 1)


def top_ids(score: Tensor, n: int) -> Tensor:
    """Return ids [R, n] with the best scores of [R, V], in no order; of equals any.

    The best n tokens are in the n groups whose best ones are best, so most of the others are never
    compared; 4 times as fast as `topk` where n is small.
    """
    import torch

    n_groups = score.shape[-1] // GROUP
    if n >= n_groups:
        return score.topk(n, dim=-1).indices
    whole = n_groups * GROUP  # group g has the tokens g, g + G, g + 2G, ...
    best = score[:, :whole].view(-1, GROUP, n_groups).amax(1)  # [R, G]
    groups = best.topk(n, dim=-1).indices
    members = torch.arange(0, whole, n_groups, device=score.device)
    rest = torch.arange(whole, score.shape[-1], device=score.device).expand(len(score), -1)
    ids = torch.cat(((groups[:, None] + members[:, None]).flatten(1), rest), dim=-1)
    return ids.gather(-1, score.gather(-1, ids).topk(n, dim=-1).indices)


def reach(probs: Tensor, goal: Tensor) -> Count:
    """Return what counts the first tokens whose mass is `goal` [R, 1], of probs [R, V].

    A token counts while the mass strictly before it is below the goal, and the first one always.
    """

    def count(rows: Tensor, ids: Tensor) -> Tensor:
        mass = _in_units(probs[rows[:, None], ids])  # [r, W]
        return _count_mass(mass, _in_units(goal[rows]))

    return count


def reach_by_logit(logits: Tensor, goal: Tensor) -> Count:
    """Return what counts the first tokens of logits [R, V] whose mass is `goal` [R, 1], as `reach`.

    The mass of few tokens is theirs alone, and nobody looks at the others. Whether there are few
    depends on the row, not on who asks, or its last bits would.
    """
    import torch

    probs: Tensor | None = None

    def count(rows: Tensor, ids: Tensor) -> Tensor:
        nonlocal probs
        found = logits[rows[:, None], ids]  # [r, W]
        n_left = (found > NO).sum(-1, keepdim=True)
        mass = _in_units((found - found[:, :1]).double().exp())
        wanted = (goal[rows].double() * mass.sum(-1, keepdim=True)).round().long()
        is_few = n_left < FIRST_LOOK
        if not bool(is_few.all()):
            probs = logits.softmax(-1) if probs is None else probs
            mass = torch.where(is_few, mass, _in_units(probs[rows[:, None], ids]))
            wanted = torch.where(is_few, wanted, _in_units(goal[rows]))
        return _count_mass(mass, wanted)

    return count


def _in_units(share: Tensor) -> Tensor:
    return (share.double() * UNIT).round().long()


def _count_mass(mass: Tensor, wanted: Tensor) -> Tensor:
    """Return how many first tokens have the `wanted` mass [r, 1], of units [r, W]; W + 1 if none
    of these numbers do."""
    upto = mass.cumsum(-1)
    n = ((upto - mass) < wanted).sum(-1, keepdim=True).clamp_min(1)
    return n + (upto[:, -1:] < wanted)


def keep_best(logits: Tensor, n: Tensor) -> Tensor:
    """Return logits [R, V], all but the best n [R, 1] of each row at -inf; n is at least 1."""
    whole = n >= logits.shape[-1]
    n = n.masked_fill(whole, 1)
    out = keep_first(logits, lambda rows, ids: n[rows], look=int(n.max()) + 1)
    return logits.where(whole, out) if bool(whole.any()) else out


def keep_above(logits: Tensor, figures: Tensor, least: Tensor) -> Tensor:
    """Return logits [R, V], at -inf where `figures` [R, V] are below `least` [R, 1].

    The best token stays in any case; of equals the lowest id.
    """
    gone = figures < least
    if bool((figures.amax(-1, keepdim=True) < least).any()):
        gone = gone.scatter(-1, logits.argmax(-1, keepdim=True), False)
    return logits.masked_fill(gone, NO)
