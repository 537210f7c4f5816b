"""Answers to one message beside each other, two and two, as they are written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gptkit.text.safe import safe

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

MIN_COLUMNS = 80
"""A window narrower than this has the answers one after the other."""
EVERY_S = 0.1


class SideBySide:
    """Two columns that grow; the third answer begins a new pair."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._answers: list[Text] = []
        self._live: Live | None = None
        self._drawn_at = 0.0

    def begin(self, title: str) -> None:
        """Begin an answer."""
        if len(self._answers) == 2:
            self.close()
            self.console.print()
        if self._live is None:
            self._live = Live(
                console=self.console,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="visible",
            )
            self._live.start()
        self._answers.append(Text(f"{safe(title)}\n", style="bold"))
        self._draw()

    def write(self, text: str) -> None:
        """Add to the answer that was begun last."""
        self._answers[-1].append(safe(text), style="not bold")
        if time.monotonic() - self._drawn_at > EVERY_S:
            self._draw()

    def end(self, mark: str) -> None:
        """End the answer, with why it is not a whole one."""
        if mark:
            self._answers[-1].append(f" [{safe(mark)}]", style="not bold dim")
        self._draw()

    def close(self) -> None:
        """Leave what is written on the screen, all of it."""
        if self._live is not None:
            self._live.update(_Pair(self._answers, whole=True), refresh=True)
            self._live.stop()
        self._live, self._answers = None, []

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(_Pair(self._answers), refresh=True)
        self._drawn_at = time.monotonic()


class _Pair:
    """Two answers as columns; of what is higher than the window, the end, until it is whole."""

    def __init__(self, answers: list[Text], *, whole: bool = False) -> None:
        self.answers = answers
        self.whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(*self.answers)
        lines = console.render_lines(grid, options.update(height=None), pad=False)
        shown = lines if self.whole else lines[-max(options.size.height - 2, 1) :]
        for line in shown:
            yield from line
            yield Segment.line()
