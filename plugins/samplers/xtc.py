"""Now and then, leave out the most likely tokens."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gptkit.plugin_api import GptkitError, Params, RequestView, Rows, Sampler, param

if TYPE_CHECKING:
    from torch import Tensor


class XTC(Sampler):
    """Exclude top choices: remove the likely tokens but the least of them (p-e-w 2024, "XTC").

    With a probability, by one coin for each position, all tokens of at least `threshold` go but the
    least likely of them and its equals. Where that would take a token that ends the answer, or the
    last one of a text in `protect`, the row stays as it is (as in text-generation-webui).
    """

    name = "xtc"
    rank = 110
    probability = param(0.0, ge=0, le=1, off=0.0, help="how often it acts; 0.5 is usual")
    threshold = param(0.1, ge=0, le=0.5, help="probability that makes a token a top choice")
    protect = param(("\n", "\n\n"), items=str, help="texts that it never takes away")

    def init_state(self, request: RequestView) -> tuple[int, ...]:
        """Return the protected tokens; they never change."""
        tokens = set(request.stop_ids)
        for text in request.params["protect"]:
            with contextlib.suppress(GptkitError):  # what can't be written can't be taken away
                tokens.update(request.vocab.encode(text)[-1:])
        return tuple(sorted(token for token in tokens if token < request.vocab.size))

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] without the top choices, in rows whose coin falls so."""
        acts = rows.uniform() < p.probability  # [R, 1]
        if not bool(acts.any()):
            return logits
        top = (logits.softmax(-1) >= p.threshold) & (logits > float("-inf"))
        least = logits.masked_fill(~top, float("inf")).amin(-1, keepdim=True)
        gone = acts & top & (logits > least)
        guarded = [(r, token) for r, tokens in enumerate(rows.state) for token in tokens]
        if guarded:
            row, token = (list(one) for one in zip(*guarded, strict=True))
            lost = gone[row, token].tolist()
            gone[[r for r, one in zip(row, lost, strict=True) if one]] = False
        return logits.masked_fill(gone, float("-inf"))
