"""A row of input, what may be wrong with it, and what it is known by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ROW_BYTES = 8 * 2**20
"""A row may have so many bytes: one without an end must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row has no answer: one word of a kind, and a sentence."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a job's inputs.

    `index` counts all rows from 0, `line` the lines of its file from 1. `key` is what a row's seed
    is made from, and what it is known by in a journal: its id, or where it has none its place and
    digest. `digest` changes with its content. `file` is a path as it is shown to users.
    """

    index: int
    line: int
    id: str | int | None
    key: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    digest: str = ""
    file: str = ""


def digest_of(data: bytes) -> str:
    """Return 16 hex digits that are as good as the bytes of a row."""
    return hashlib.sha256(data).hexdigest()[:16]


def key_hash(key: str) -> int:
    """Return 8 bytes for a key, the same on every machine and day."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def is_unicode(text: str) -> bool:
    """Return whether text can be encoded: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_kind(value: Any) -> str:
    """Say in words what kind of value this is: JSON's kinds, and bytes."""
    if value is None:
        return "null"
    kinds = {
        bool: "true or false",
        str: "text",
        bytes: "bytes",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "a number")
