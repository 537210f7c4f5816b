"""Likely, but not more of the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Loop, Params, Strategy, param

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor

    from gptkit.plugin_api import Branch


class Contrastive(Strategy):
    """Take what is likely and unlike what was said (Su et al. 2022, arXiv:2202.06417).

    Of the k likeliest tokens it takes the one with the largest (1 - alpha) * p minus alpha times
    the largest cosine between its hidden state and those of the text so far.
    """

    name = "contrastive"
    k = param(4, ge=1, le=64, help="how many tokens are tried")
    alpha = param(0.6, ge=0, le=1, help="weight of being unlike; 0 is greedy")
    needs_hidden = True

    def width(self, p: Params) -> int:
        """Return one branch for each token that is tried."""
        return int(p.k)

    def run(self, loop: Loop, p: Params) -> Generator[Sequence[Branch], Tensor, None]:
        """Compute all candidates in one step; the winner's logits are there for the next."""
        branch = loop.root
        logits = yield [branch]
        while True:
            probs = loop.process(logits, [branch]).softmax(-1)[0]
            best = probs.topk(min(p.k, int((probs > 0).sum())))
            tried = [loop.fork(branch, token) for token in best.indices.tolist()]
            before = loop.hidden(branch)  # [T, C]
            after = yield tried
            new = before.new_empty(len(tried), before.shape[-1])
            for row, one in enumerate(tried):
                new[row] = loop.hidden(one)[-1]
            penalty = (_unit(new) @ _unit(before).transpose(0, 1)).amax(-1)
            winner = int(((1 - p.alpha) * best.values - p.alpha * penalty).argmax())
            branch, logits = tried[winner], after[winner : winner + 1]
            if not loop.commit(branch.tokens[-1]):
                return


def _unit(states: Tensor) -> Tensor:
    """Return states [N, C] in float32 with length 1."""
    length: Tensor = states.float().norm(dim=-1, keepdim=True)
    return states.float() / length.clamp_min(1e-12)
