"""An answer on a terminal as it comes: words stay whole at the edge, and nothing waits for them.

A word that reaches the edge is taken back and begun again on the next line. Where it began, the
terminal itself remembers (DECSC, DECRC), so that a character whose width it judges otherwise costs
a short line, and no text. Widths count too much rather than too little, for the same reason.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from prompt_toolkit.utils import get_cwidth

from gptkit.text.safe import safe

if TYPE_CHECKING:
    from collections.abc import Callable

SAVE, RESTORE, ERASE = "\x1b7", "\x1b8", "\x1b[K"
TAB = 8
JOINER, EMOJI_STYLE = "\u200d", "\ufe0f"
SKIN_TONES = range(0x1F3FB, 0x1F400)
NO_LINE_BEGINS = frozenset("、。，．：；！？）」』】〕〉》ー々…,.:;!?)]}»”’'\"")
"""What closes or ends something, and so stays with the character before it."""


def window(out: TextIO) -> tuple[int, int]:
    """Return columns and lines of the terminal."""
    try:
        size = os.get_terminal_size(out.fileno())
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


class Printer:
    """Writes pieces of text. Without `wraps` they go out as they are: what is wide, runs over."""

    def __init__(
        self,
        out: TextIO,
        *,
        wraps: bool,
        shown: Callable[[str], str] = safe,
        size: Callable[[TextIO], tuple[int, int]] = window,
    ) -> None:
        self.out = out
        self.wraps = wraps
        self.shown = shown
        self._size = size
        self.begin()

    def begin(self) -> None:
        """Start at the left edge; `n_lines` counts from here."""
        self._columns = self._size(self.out)[0]
        self.n_lines: int | None = 0
        """Line ends since `begin`; None where the window changed, so that nobody can say."""
        self.at_line_start = True
        self._column = 0
        self._word = ""
        self._word_starts_line = True
        self._glued = self._after_wide = False
        self._due = False

    def write(self, text: str) -> None:
        """Print the next piece."""
        text = self.shown(text)
        if not text:
            return
        if self.wraps:
            text = self._adjusted() + "".join(map(self._placed, text))
        else:
            self.at_line_start = text.endswith("\n")
        self.out.write(text)
        self.out.flush()

    def moved(self) -> None:
        """Take the cursor to be at the left edge of any line: another program had the screen."""
        self.begin()
        self.n_lines = None

    def has_room(self, n: int) -> bool:
        """Whether so many columns are left in the line."""
        return self._column + n <= self._columns

    def fresh_line(self) -> None:
        """Go to the left edge, if the cursor is not there."""
        if not self.at_line_start:
            self.out.write("\n")
        self.begin()

    def _adjusted(self) -> str:
        """Take the window as it is now; return a line's end where the cursor can't be known."""
        columns = self._size(self.out)[0]
        if columns == self._columns:
            return ""
        narrower = columns < self._columns
        self._columns = columns
        self.n_lines = None
        self._word, self._word_starts_line = "", True  # where it began is not known any more
        return self._line_end() if narrower and self._column >= columns else ""

    def _placed(self, char: str) -> str:
        """Return what is to be written for a character."""
        if char == "\n":
            return self._line_end()
        if char == "\t":
            return "".join(map(self._placed, " " * (TAB - self._column % TAB)))
        if char == " ":
            return self._blank()
        width = get_cwidth(char)
        glued = not width or self._glued or ord(char) in SKIN_TONES
        if char == EMOJI_STYLE and self._word and get_cwidth(self._word[-1]) == 1:
            width = 1
        may_break = not glued and char not in NO_LINE_BEGINS and (width == 2 or self._after_wide)
        if may_break:
            self._word = ""
        over = self._due or self._column + width > self._columns
        lead = "" if not over or (glued and self._word_starts_line) else self._over_the_edge()
        if not self._word:
            self._word_starts_line = self._column == 0
            lead += SAVE
        self._word += char
        self._column += width
        self._glued = char == JOINER
        self._after_wide = width == 2 or (glued and self._after_wide)
        self.at_line_start = False
        return lead + char

    def _blank(self) -> str:
        self._glued = self._after_wide = False
        self._word = ""
        if self._column >= self._columns:
            self._due = True  # a blank at the edge is the line's end
            return ""
        self._column += 1
        self.at_line_start = False
        return " "

    def _over_the_edge(self) -> str:
        """Begin the next line, with the word that did not fit; one too long for a line is cut."""
        word = self._word
        if not word or self._word_starts_line or self._due:
            return self._line_end()
        end = RESTORE + ERASE + self._line_end() + SAVE
        self._word, self._word_starts_line = word, True
        self._column = sum(map(get_cwidth, word))
        return end + word

    def _line_end(self) -> str:
        if self.n_lines is not None:
            self.n_lines += 1
        self.at_line_start = True
        self._column = 0
        self._word, self._word_starts_line = "", True
        self._glued = self._after_wide = self._due = False
        return "\n"
