"""What a session yields, on the screen: rich shows what is no answer.

Whatever is no literal of ours passes through text/safe.py. No colour but the red of errors, which
reads well on light and dark grounds; the rest are attributes.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from prompt_toolkit.utils import is_dumb_terminal
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from gptkit.chat import clipboard, plain
from gptkit.chat.events import (
    Answered,
    Copied,
    Failed,
    Heading,
    MarkdownWanted,
    Note,
    Prompted,
    Table,
    Tree,
)
from gptkit.chat.markdown_view import THEME, rendered
from gptkit.chat.printer import Printer, window
from gptkit.chat.side_by_side import MIN_COLUMNS, SideBySide
from gptkit.decoding.request import Event
from gptkit.errors import GptkitError, RequestError
from gptkit.text.safe import safe, safe_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gptkit.chat.events import SessionEvent

GAP, INDENT = 2, 4
LEAST_COLUMNS = 30
"""The last column of a table is no narrower; then it stands below the others instead."""
MOST_COLUMNS, SHORT = 24, 12
"""How wide its other columns are at most, and a last cell that may stand beside them after all."""


class View:
    """Shows events. A dumb terminal gets lines alone; with NO_COLOR, too, no cursor moves."""

    def __init__(self, *, markdown: bool = False, raw_output: bool = False) -> None:
        self.is_dumb = is_dumb_terminal()
        self.markdown = markdown
        self.raw_output = raw_output
        self.console = Console(markup=False, emoji=False, highlight=False, theme=THEME)
        self._moves = not self.is_dumb and "NO_COLOR" not in os.environ
        self._printer = Printer(
            sys.stdout,
            wraps=self._moves and not raw_output,
            shown=str if raw_output else safe,
        )
        self._said: list[str] = []
        self._beside: SideBySide | None = None

    def begin(self) -> None:
        """Start at the left edge, below what the user typed."""
        self._printer.begin()
        self._said = []

    def moved(self) -> None:
        """Go on at the left edge: another program had the screen."""
        self._printer.moved()

    def end(self) -> None:
        """Leave the screen to the prompt."""
        self._close_columns()
        self._fresh_line()

    def show(self, event: SessionEvent) -> None:
        """Show an event; what asks the user for something is not for here."""
        match event:
            case Event():
                self._write(event.text)
            case Answered():
                self._end_answer(event)
            case Heading():
                self._heading(event.text)
            case Table():
                self._table(event)
            case Tree():
                self._tree(event)
            case Prompted():
                self._prompted(event)
            case Copied():
                self._copy(event.text)
            case MarkdownWanted():
                self._set_markdown(event.on)
            case Note():
                self.note(event.text)
            case Failed():
                self.fail(event.error)

    def note(self, text: str) -> None:
        """Say something that is no error."""
        self._print(Text(safe(text), style="dim"))

    def fail(self, error: GptkitError) -> None:
        """Say an error, and the way out of it."""
        self._print(Text(f"error: {safe_line(str(error))}", style="red"))
        if error.hint:
            self._print(Text(f"  hint: {safe_line(error.hint)}"))

    def _print(self, text: RenderableType, *, one_line: bool = False) -> None:
        self._close_columns()
        self._fresh_line()
        # What a Text says of its own wrapping is lost when it is printed.
        self.console.print(text, no_wrap=one_line, overflow="ellipsis" if one_line else None)

    def _fresh_line(self) -> None:
        self._printer.fresh_line()
        self._said = []

    def _write(self, text: str) -> None:
        if self._beside is not None:
            self._beside.write(text)
        else:
            self._said.append(text)
            self._printer.write(text)

    def _end_answer(self, answered: Answered) -> None:
        if self._beside is not None:
            self._beside.end(answered.mark)
            return
        if self.markdown and "".join(self._said) == answered.turn.text:
            self._render(answered.turn.text)
        if answered.mark:
            mark = f"[{safe(answered.mark)}]"
            if not self._printer.at_line_start and self._printer.has_room(len(mark) + 1):
                self.console.print(Text(f" {mark}", style="dim"))
                self._printer.begin()
            else:
                self._print(Text(mark, style="dim"))
        self._fresh_line()
        self.console.print()

    def _render(self, text: str) -> None:
        """Put the Markdown in the place of the text, where all of it is on the screen."""
        n, lines = self._printer.n_lines, window(sys.stdout)[1]
        if not self._moves or self.raw_output or n is None or n > lines - 2:
            return
        if (document := rendered(text)) is not None:
            sys.stdout.write(f"\x1b[{n}A" * bool(n) + "\r\x1b[J")
            self.console.print(document)
            self._printer.begin()

    def _heading(self, text: str) -> None:
        if self._moves and window(sys.stdout)[0] >= MIN_COLUMNS:
            self._fresh_line()
            self._beside = self._beside or SideBySide(self.console)
            self._beside.begin(text)
        else:
            self._print(Text(plain.lines(Heading(safe_line(text)))[0], style="bold"))

    def _close_columns(self) -> None:
        if self._beside is not None:
            self._beside.close()
            self.console.print()
        self._beside = None

    def _table(self, table: Table) -> None:
        rows = [[safe(cell) for cell in row] for row in table.rows]
        n = max(map(len, rows), default=0)
        widths = [max(cell_len(row[i]) for row in rows if i < len(row)) for i in range(n)]
        room = self.console.width - sum(widths[:-1]) - GAP * (n - 1)
        if n > 1 and room < min(widths[-1], LEAST_COLUMNS):
            self._stacked(rows, widths)
            return
        grid = Grid.grid(padding=(0, GAP))
        for _ in range(n - 1):
            grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for row in rows:
            grid.add_row(*map(Text, row))
        self._print(grid)

    def _stacked(self, rows: list[list[str]], widths: list[int]) -> None:
        """Show a table in a window too narrow for it: what the last cell says stands below."""
        wide = [min(width, MOST_COLUMNS) for width in widths]
        gap, columns = " " * GAP, self.console.width
        for *first, last in rows:
            padded = [
                cell + " " * (width - cell_len(cell))
                for cell, width in zip(first, wide, strict=False)
            ]
            beside = gap.join((*padded, last))
            if cell_len(last) <= SHORT and cell_len(beside) <= columns:
                self._print(Text(beside))
                continue
            n = len(first)
            while n > 1 and cell_len(gap.join(padded[:n]).rstrip()) > columns:
                n -= 1
            self._print(Text(gap.join(padded[:n]).rstrip()))
            for cell in filter(None, (*first[n:], last)):
                self._print(Padding(Text(cell), (0, 0, 0, INDENT)))

    def _tree(self, tree: Tree) -> None:
        for (lead, turn), line in zip(tree.rows, plain.lines(tree), strict=True):
            text = Text(safe_line(line))
            text.stylize("dim", 0, len(lead))
            if turn is tree.here:
                text.stylize("bold", len(lead))
            self._print(text, one_line=True)

    def _prompted(self, prompted: Prompted) -> None:
        text = Text()
        for piece, is_control in prompted.pieces:
            shown = f"⟦{piece}⟧" if is_control and self.is_dumb else piece
            text.append(safe(shown), style="reverse" if is_control else "")
        self._close_columns()
        self._fresh_line()
        self.console.print(text, soft_wrap=True)  # the exact prompt has no line ends of ours
        self.note(plain.counted(prompted))

    def _copy(self, text: str) -> None:
        shown = text if self.raw_output else safe(text)  # what is pasted steers a terminal as well
        said = f"copied {len(text):,} characters"
        tool = clipboard.copy(shown)
        if tool is not None:
            self.note(f"{said} by {tool}")
            return
        try:
            if self.is_dumb:
                raise RequestError(
                    "this terminal has no clipboard", hint="/save talk.md writes a file"
                )
            sequence = clipboard.sequence(shown)
        except GptkitError as error:
            self.fail(error)
            return
        sys.stdout.write(sequence)
        sys.stdout.flush()
        self.note(f"{said}, if the terminal allows it")

    def _set_markdown(self, on: bool | None) -> None:
        self.markdown = self.markdown if on is None else on
        self.note(f"markdown: {'on' if self.markdown else 'off'}")
