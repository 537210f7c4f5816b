"""Don't end too early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, RequestView, Rows, Sampler, param

from .adding import BAN, add

if TYPE_CHECKING:
    from torch import Tensor


class MinNewTokens(Sampler):
    """Forbid the tokens that end the answer until n tokens are out; stop texts wait as well.

    A constraint that has nothing more to say ends the answer all the same.
    """

    name = "min_new_tokens"
    phase = "bias"
    rank = 30
    delays_stops = "n"
    n = param(0, ge=0, off=0, help="tokens before anything may end the answer")

    def init_state(self, request: RequestView) -> frozenset[int]:
        """Return the tokens that end the sequence; they never change."""
        return request.stop_ids

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] with the ends at -inf in rows that are too short."""
        short = (rows.n_out < p.n[:, 0]).tolist()
        return add(
            logits,
            [
                dict.fromkeys(ends if early else (), BAN)
                for ends, early in zip(rows.state, short, strict=True)
            ],
        )
