"""The bundled tokenizers, one file each; listing them builds nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Tokenizer, hookimpl

from .bpe import BPE
from .char import Char
from .whitespace import Whitespace

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def gptkit_tokenizers() -> Iterable[type[Tokenizer]]:
    """Yield every bundled tokenizer."""
    yield from (Char, Whitespace, BPE)
