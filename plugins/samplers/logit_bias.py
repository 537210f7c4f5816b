"""Make single tokens likelier or less likely."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import ConfigError, Params, RequestError, RequestView, Rows, Sampler, param

from .adding import add

if TYPE_CHECKING:
    from torch import Tensor

    from gptkit.plugin_api import Vocab

HINT = "`gptkit tokenize TEXT` shows the ids of a text"


class LogitBias(Sampler):
    """Add a number to the logits of single tokens (as OpenAI and vLLM do).

    A key is a token id, or a text that is one token; digits are an id. In YAML the mapping itself
    may stand for the bias: `- logit_bias: {50256: -100, " the": 2}`.
    """

    name = "logit_bias"
    phase = "bias"
    rank = 10
    bias = param(
        {}, ge=-100, le=100, off={}, examples=({"1": 2.5}, {"0": -100}), help="token to number"
    )

    def init_state(self, request: RequestView) -> tuple[tuple[int, float], ...]:
        """Return pairs of token id and bias; raise ConfigError for what is not one token."""
        found: dict[int, str] = {}
        for key in request.params["bias"]:
            token = _token(key, request.vocab)
            if token in found:
                raise ConfigError(
                    f"{self.name}: {found[token]!r} and {key!r} are the same token", hint="keep one"
                )
            found[token] = key
        return tuple((token, request.params["bias"][key]) for token, key in found.items())

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] with each row's bias added."""
        return add(logits, [dict(pairs) for pairs in rows.state])


def _token(key: str, vocab: Vocab) -> int:
    """Return the id that a key of the mapping stands for."""
    if key.isascii() and key.isdecimal():
        if int(key) < vocab.size:
            return int(key)
        raise ConfigError(
            f"{LogitBias.name}: token id {key} is not in the vocabulary of {vocab.size:,}",
            hint=HINT,
        )
    try:
        ids = vocab.encode(key)
    except RequestError as error:
        raise ConfigError(f"{LogitBias.name}: {key!r} is no token: {error}", hint=HINT) from error
    if len(ids) != 1:
        raise ConfigError(
            f"{LogitBias.name}: {key!r} is {len(ids)} tokens, not one",
            hint=f"name one token, by its id or its exact text; {HINT}",
        )
    return ids[0]
