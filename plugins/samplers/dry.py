"""Keep a text from running into a loop."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

from gptkit.plugin_api import GptkitError, Params, RequestView, Rows, Sampler, param

from ..repeats import repeats
from .adding import add

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gptkit.plugin_api import Vocab

MOST = 1e30
"""The largest penalty: that of a long loop would be infinite in float32."""

Breakers = tuple[tuple[bytes, ...], frozenset[int]]


class DRY(Sampler):
    """Lower what would go on with a repeat, the more the longer it is (p-e-w 2024, "DRY").

    Where the last n tokens have occurred before, and at least `allowed` of them, the token that
    followed them then loses multiplier * base**(n - allowed). A repeat does not reach back over a
    breaker, and no breaker is penalised: a token that contains one of the texts or is the last of
    those that one is encoded as, and, so that answers which end alike can end, a control token.
    """

    name = "dry"
    phase = "penalty"
    rank = 20
    multiplier = param(0.0, ge=0, le=100, off=0.0, help="how much it takes off; 0.8 is usual")
    base = param(1.75, ge=1, le=100, help="how fast that grows with the length of the repeat")
    allowed = param(2, ge=1, help="length from which a repeat is penalised")
    last_n = param(0, ge=0, help="how many of the last tokens it looks at; 0 is all")
    breakers = param(("\n", ":", '"', "*"), items=str, help="texts that no repeat reaches over")

    def init_state(self, request: RequestView) -> Breakers:
        """Return the breakers as bytes and as tokens; they never change."""
        texts, vocab = request.params["breakers"], request.vocab
        tokens = set(vocab.special_ids | vocab.eos_ids)
        for text in texts:
            with contextlib.suppress(GptkitError):  # what can't be written can't occur either
                tokens.update(vocab.encode(text)[-1:])
        return tuple(text.encode() for text in texts), frozenset(tokens)

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V], lower where a token would lengthen a repeat."""
        names = ("multiplier", "base", "allowed", "last_n")
        values = zip(*(getattr(p, name)[:, 0].tolist() for name in names), strict=True)
        amounts = []
        for r, (multiplier, base, allowed, last_n) in enumerate(values):
            lengths: dict[int, int] = {}
            if multiplier > 0:
                tokens = rows.tokens(r)
                tokens = tokens[-last_n:] if last_n else tokens
                lengths = repeat_lengths(tokens, allowed, rows.state[r], rows.vocab)
            amounts.append(
                {t: -_penalty(n - allowed, multiplier, base) for t, n in lengths.items()}
            )
        return add(logits, amounts)


def repeat_lengths(
    tokens: Sequence[int], least: int, breakers: Breakers, vocab: Vocab
) -> dict[int, int]:
    """Return for each token the longest end of `tokens` that it followed, from `least` on."""
    found = [(place, n) for place, n in repeats(tokens) if n >= least]
    texts, ids = breakers
    known: dict[int, bool] = {}

    def breaks(token: int) -> bool:
        if token not in known:
            data = vocab.token_bytes(token)
            known[token] = token in ids or any(text in data for text in texts)
        return known[token]

    reach, longest = 0, max((n for _, n in found), default=0)
    while reach < longest and not breaks(tokens[-1 - reach]):
        reach += 1
    lengths: dict[int, int] = {}
    for place, n in found if reach >= least else ():
        token = tokens[place]
        if n > lengths.get(token, 0) and not breaks(token):
            lengths[token] = min(n, reach)
    return lengths


def _penalty(excess: int, multiplier: float, base: float) -> float:
    exponent = float(excess)
    if base > 1:
        exponent = min(exponent, math.log(MOST / multiplier) / math.log(base))
    return multiplier * math.pow(base, exponent)
