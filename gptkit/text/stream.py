"""Token bytes to whole characters, with what may still be cut held back."""

from __future__ import annotations

import codecs


class TextStream:
    """Turns bytes into text piece by piece.

    However the bytes are cut into pushes, the pieces joined are the whole, decoded, with U+FFFD for
    what is no UTF-8.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""

    def push(self, data: bytes, *, hold: int = 0) -> str:
        """Return the text that may be shown; the last `hold` bytes of all so far may not yet."""
        seen = self._held + data
        end = max(len(seen) - hold, 0)
        self._held = seen[end:]
        return self._decoder.decode(seen[:end])

    def finish(self, *, cut: int = 0) -> str:
        """Return what is left, less the last `cut` bytes; a broken character becomes U+FFFD."""
        rest = self._decoder.getstate()[0] + self._held  # the start of a character, then the rest
        self._held = b""
        self._decoder.reset()
        return rest[: max(len(rest) - cut, 0)].decode("utf-8", "replace")
