"""Make likelier or less likely what has been said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import Params, Rows, Sampler, param

if TYPE_CHECKING:
    from torch import Tensor


class Penalties(Sampler):
    """Lower what has been said: repetition (Keskar et al. 2019, CTRL), frequency, presence.

    In this order, with counts of the last `window` tokens: where a token was seen, a logit above 0
    is divided by `repeat` and one below 0 multiplied; then `frequency` times its count in the
    output and, where it has any, `presence` are taken off (as OpenAI defines the two). The
    repetition penalty looks at prompt and output, or at the output alone, and depends on where the
    model has put the zero of its logits; `normalize` puts it where the probability is 1.
    """

    name = "penalties"
    phase = "penalty"
    rank = 10
    gauge_dependent = True
    repeat = param(1.0, ge=0.01, le=100, off=1.0, help="divides the logits of seen tokens")
    frequency = param(0.0, ge=-2, le=2, off=0.0, help="taken off for each time in the output")
    presence = param(0.0, ge=-2, le=2, off=0.0, help="taken off once for being in the output")
    scope = param("all", choices=("all", "output"), help="where `repeat` looks")
    window = param(0, ge=0, help="how many of the last tokens count; 0 is all")
    normalize = param(False, help="apply it to log-probabilities instead of the model's logits")

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V], changed where a token was seen."""
        row, token, count = _seen(rows, p.scope, p.window[:, 0].tolist(), logits)
        out = logits.clone()
        if bool(p.normalize.any()):
            out = logits.log_softmax(-1).where(p.normalize, logits)
        old = out[row, token]
        repeat, frequency, presence = (x[row, 0] for x in (p.repeat, p.frequency, p.presence))
        new = (old / repeat).where(old > 0, old * repeat)
        out[row, token] = new - frequency * count - presence * (count > 0)
        return out


def _seen(rows: Rows, scopes: list[str], windows: list[int], logits: Tensor) -> tuple[Any, ...]:
    """Return row, token and count in the output of every token seen in any row, a tensor each.

    A row has seen far fewer tokens than there are: tables [R, V] would take four times as long.
    """
    import numpy as np
    import torch

    found: list[tuple[Any, Any, Any]] = []
    for r, n_prompt in enumerate(rows.prompt_len.tolist()):
        tokens = rows.tokens(r)
        start = n_prompt if scopes[r] == "output" else 0
        if windows[r]:
            start = max(start, len(tokens) - windows[r])
        ids, places = np.unique(np.asarray(tokens[start:], np.int64), return_inverse=True)
        counts = np.bincount(places[max(0, n_prompt - start) :], minlength=len(ids))
        found.append((np.full(len(ids), r), ids, counts))
    row, token, count = (np.concatenate(one) for one in zip(*found, strict=True))
    device = logits.device
    return (
        torch.as_tensor(row, device=device),
        torch.as_tensor(token, device=device),
        torch.as_tensor(count, dtype=logits.dtype, device=device),
    )
