"""What may reach a terminal: a stateless map of characters, so that no split hides a sequence.

A filter that looks for escape sequences fails on text that comes token by token; a map can't.
"""

from __future__ import annotations

from itertools import chain

_C0 = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_C1 = {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
_BIDI = {code: f"\\u{code:04x}" for code in chain(range(0x202A, 0x202F), range(0x2066, 0x206A))}
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
_SHOWN: dict[int, int | str] = {**_C0, 0x7F: 0x2421, **_C1, **_BIDI, **_SURROGATES}


def safe(text: str) -> str:
    """Return `text` with all that could steer a terminal made visible; newline and tab stay.

    C0 and DEL become their pictures, C1 and bidirectional overrides their escapes, half of a
    surrogate pair U+FFFD.
    """
    return text.translate(_SHOWN)


def safe_line(text: str) -> str:
    """Return `text` made safe and on one line, for a name or a message that stands in a line."""
    return safe(" ".join(text.splitlines()))
