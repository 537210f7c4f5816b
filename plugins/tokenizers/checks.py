"""What every tokenizer refuses: an id that is none, text that is no Unicode, bad control names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import ConfigError, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_id(name: str, token_id: int, vocab_size: int) -> None:
    """Raise RequestError unless `token_id` is one of the ids from 0 on."""
    if not 0 <= token_id < vocab_size:
        raise RequestError(
            f"tokenizer {name}: token id {token_id} is outside the vocabulary of {vocab_size:,}",
            hint=f"ids go from 0 to {vocab_size - 1}",
        )


def utf8(name: str, text: str) -> bytes:
    """Return the bytes of a text, or raise RequestError where it holds half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"tokenizer {name}: {text[error.start]!r} at offset {error.start} is half of a "
            "surrogate pair, which is no character",
            hint="read the text as UTF-8 and replace what is broken",
        ) from None


def control_ids(name: str, special: Sequence[str], first: int) -> dict[str, int]:
    """Give the control tokens their ids, from `first` on in the order given."""
    for index, token in enumerate(special):
        if not token:
            raise ConfigError(f"tokenizer {name}: a control token must have a name")
        if token in special[:index]:
            raise ConfigError(f"tokenizer {name}: control token {token!r} is given twice")
        utf8(name, token)
    return {token: first + index for index, token in enumerate(special)}
