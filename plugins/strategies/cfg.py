"""Steer away from what would be said anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Loop, Params, Strategy, param

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor

    from gptkit.plugin_api import Branch


class ClassifierFreeGuidance(Strategy):
    """Follow the prompt more closely (Sanchez et al. 2023, arXiv:2306.17806).

    The chain sees u + scale * (c - u): c are the log-probabilities after the prompt, u those after
    the negative prompt, or, without one, after the prompt's last token alone.
    """

    name = "cfg"
    scale = param(1.5, ge=0, le=100, off=1.0, help="how much closer; 1 is the prompt as it is")
    negative = param("", examples=("a",), help="a prompt to steer away from")

    def width(self, p: Params) -> int:
        """Return two: one branch for each prompt."""
        return 2

    def run(self, loop: Loop, p: Params) -> Generator[Sequence[Branch], Tensor, None]:
        """Pick from the mix, and feed the token to both branches."""
        prompt = loop.request.vocab.encode(p.negative) or [loop.request.prompt[-1]]
        given, other = loop.root, loop.branch(prompt)
        while True:
            logprobs = (yield [given, other]).log_softmax(-1)
            mixed = logprobs[1:] + p.scale * (logprobs[:1] - logprobs[1:])
            # What neither prompt allows is -inf minus -inf.
            (token,) = loop.pick(mixed.nan_to_num(nan=float("-inf"), neginf=float("-inf")), [given])
            if not loop.commit(token):
                return
            given, other = loop.fork(given, token), loop.fork(other, token)
