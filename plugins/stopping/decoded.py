"""Bytes of tokens to text, for criteria that look at characters."""

from __future__ import annotations

import codecs


def decoded(data: bytes) -> tuple[str, bytes]:
    """Return the text that `data` holds, and the start of a character at its end.

    A byte that is no UTF-8 becomes a character of its own, so that every text has its length back.
    """
    text, n = codecs.utf_8_decode(data, "surrogateescape", False)
    return text, data[n:]


def n_bytes(text: str) -> int:
    """Return how many bytes a text stands for."""
    return len(text.encode("utf-8", "surrogateescape"))
