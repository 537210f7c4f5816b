"""Stop where the model is sure of everything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import Stop, StoppingCriterion, param

if TYPE_CHECKING:
    from gptkit.plugin_api import RequestView


class Entropy(StoppingCriterion):
    """End when the model has had no doubt for some tokens, as in a loop or in a recited text."""

    name = "entropy"
    rank = 50
    observes_entropy = True
    below = param(0.1, ge=0, le=100, help="nats, of the model's distribution before the chain")
    tokens = param(16, ge=1, le=65_536, help="how many tokens in a row")

    def init_state(self, request: RequestView) -> Any:
        """Return how many tokens in a row were below, and what is needed."""
        return 0, request.params["below"], request.params["tokens"]

    def push(
        self, state: Any, token_id: int, data: bytes, n_out: int, *, entropy: float = math.nan
    ) -> tuple[Any, Stop | None]:
        """Stop at the last of so many tokens in a row."""
        n, below, tokens = state
        n = n + 1 if entropy < below else 0
        return (n, below, tokens), Stop("entropy") if n >= tokens else None
