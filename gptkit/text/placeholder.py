"""`$name` in the texts of templates: `$name` stands for a field, `$$` for a dollar."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATTERN = string.Template.pattern


def names(text: str) -> list[str]:
    """Return the names in `text`, each as often as it stands there; raise ValueError."""
    found = []
    for match in _PATTERN.finditer(text):
        if match["invalid"] is not None:
            raise ValueError("a '$' begins no name; write $$ for a dollar")
        if name := match["named"] or match["braced"]:
            found.append(name)
    return found


def cut(text: str, name: str) -> tuple[str, str]:
    """Return what stands before the first `$name`, and what after it."""
    for match in _PATTERN.finditer(text):
        if name in (match["named"], match["braced"]):
            return text[: match.start()], text[match.end() :]
    return text, ""


def fill(text: str, fields: Mapping[str, str]) -> str:
    """Return `text` with its fields in place; raise KeyError for one that is not there."""
    return string.Template(text).substitute(fields)
