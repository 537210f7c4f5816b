"""The clipboard, by way of the terminal: OSC 52 works over ssh too, where the terminal allows."""

from __future__ import annotations

import base64

from gptkit.errors import RequestError

MAX_BYTES = 74_994
"""What xterm and most others take, before base64."""


def sequence(text: str) -> str:
    """Return what puts a text on the clipboard; in base64 no text can end it early."""
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_BYTES:
        raise RequestError(
            f"the answer is over {MAX_BYTES:,} bytes, the limit of most clipboards",
            hint="/save talk.md writes it to a file",
        )
    return f"\x1b]52;c;{base64.b64encode(data).decode('ascii')}\x07"
