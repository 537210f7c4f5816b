"""Never say the same n tokens twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, Rows, Sampler, param

from ..repeats import repeats
from .adding import BAN, add

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class NoRepeatNgram(Sampler):
    """Forbid what would repeat a run of `size` tokens (Paulus, Xiong and Socher 2017).

    It looks at prompt and output. 1 forbids every token that has occurred.
    """

    name = "no_repeat_ngram"
    phase = "penalty"
    rank = 30
    size = param(0, ge=0, off=0, help="how many tokens in a row may not come twice")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] with the last token of each such run at -inf."""
        return add(
            logits,
            [dict.fromkeys(_banned(rows, r, n), BAN) for r, n in enumerate(p.size[:, 0].tolist())],
        )


def _banned(rows: Rows, r: int, size: int) -> Iterable[int]:
    if size < 2:
        return rows.tokens(r) if size else ()
    tokens, n = rows.tokens(r), size - 1
    return (tokens[place] for place, length in repeats(tokens, longest=n) if length == n)
