"""Stop at a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import Stop, StoppingCriterion, param

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gptkit.plugin_api import RequestView


class Tokens(StoppingCriterion):
    """End at one of these token ids; its text is cut."""

    name = "tokens"
    rank = 20
    ids = param((), items=int, help="token ids that end the sequence")

    @classmethod
    def token_ids(cls, params: Mapping[str, Any]) -> frozenset[int]:
        """Return the ids."""
        return frozenset(params["ids"])

    def init_state(self, request: RequestView) -> Any:
        """Return the ids as a set; it never changes."""
        return self.token_ids(request.params)

    def push(self, state: Any, token_id: int, data: bytes, n_out: int) -> tuple[Any, Stop | None]:
        """Stop when the token is one of them."""
        if token_id in state:
            return state, Stop("stop_token", cut_bytes=len(data))
        return state, None
