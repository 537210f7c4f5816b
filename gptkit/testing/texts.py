"""Texts that break what handles text: characters of many bytes, marks, controls, lookalikes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

PIECES = (
    "a",
    "Z",
    "the ",
    " of",
    "don't",
    "0",
    "1984",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\x00",
    "\x1b[31m",
    "\x7f",
    ".",
    "?!",
    "$name",
    "${x}",
    "{{ }}",
    "%s",
    "\\n",
    "'\"",
    "\u00e9",
    "e\u0301",  # a letter and a combining mark
    "a\u0335\u0308\u0327",
    "\u00df",
    "\u65e5\u672c\u8a9e",  # Chinese and Japanese
    "\ud55c\uad6d",  # Korean
    "\u1112\u1161\u11ab",  # and the same letters taken apart
    "\u05e9\u05dc\u05d5\u05dd",  # from right to left
    "\u0645\u0631\u062d\u0628\u0627",
    "\u202e",
    "\u200b",
    "\u00a0",
    "\u2028",
    "\ufeff",
    "\ufffd",
    "\U0001f44d",
    "\U0001f44d\U0001f3fd",  # with a skin tone
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",  # a family of five code points
    "\U0001f1ef\U0001f1f5",  # a flag of two
    "\U0001d54f",
    "\U00020bb7",
    "\U0010ffff",
)
CONTROLS = ("<|endoftext|>", "<|user|>", "<|end|>", "<s>", "</s>", "[INST]")
"""What other tokenizers call their control tokens: as text they are text."""
LONE_SURROGATE = "a\ud83d"
"""Half of a pair, as a broken reader leaves it; no text that UTF-8 can say."""


def nasty(rng: random.Random, n_pieces: int = 12) -> str:
    """Return a text of such pieces, and of characters from all planes."""
    pieces = rng.choices(PIECES + CONTROLS, k=n_pieces)
    pieces += [_anything(rng) for _ in range(n_pieces // 3)]
    rng.shuffle(pieces)
    return "".join(pieces)


def plain(rng: random.Random, n_words: int = 8) -> str:
    """Return words and numbers in sentences."""
    words = ("the", "cat", "sat", "on", "a", "mat", "and", "12", "3.5", "left", "Dr", "e.g")
    ends = (" ", " ", " ", ", ", ". ", "! ", "? ", "\n", "\n\n", "; ")
    return "".join(rng.choice(words) + rng.choice(ends) for _ in range(n_words))


def _anything(rng: random.Random) -> str:
    code = rng.choice((rng.randrange(0x80, 0x800), rng.randrange(0x110000)))
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)
