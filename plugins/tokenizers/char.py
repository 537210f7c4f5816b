"""One token for each character."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .closed import ClosedTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence


class Char(ClosedTokenizer):
    """Single characters, those of the training text, sorted; for small models and for learning."""

    name = "char"
    file = "chars.json"
    piece = "character"

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """Return the text itself: it is a sequence of characters."""
        return text
