"""One token for each word and for each run of blanks: the smallest tokenizer to learn from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .closed import ClosedTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence


class Whitespace(ClosedTokenizer):
    """Words and the runs of white space between them; what it never read it can't say."""

    name = "whitespace"
    file = "words.json"
    piece = "word"

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """Cut where white space begins and ends, so that the pieces make up the whole text."""
        return re.findall(r"\s+|\S+", text)
