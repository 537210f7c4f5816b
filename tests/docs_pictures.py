"""The pictures of the pages: `python -m tests.docs_pictures` drives the real chat and draws them.

What stands on the terminal's screen, cell by cell with its colours, becomes an SVG by rich. Nothing
is drawn by hand, and nothing is fetched: a picture uses the reader's own monospace font.
"""

from __future__ import annotations

import io
import itertools
import re
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tests.docs_blocks import DOCS
from tests.docs_talks import home, start, type_line, wait_for_start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyte
    from pyte.screens import Char

    from tests.cli.screen import Terminal

IMAGES = DOCS / "images"
LIGHT = TerminalTheme(
    (255, 255, 255),
    (36, 41, 47),
    [
        (36, 41, 47),
        (207, 34, 46),
        (17, 99, 41),
        (77, 45, 0),
        (9, 105, 218),
        (130, 80, 223),
        (27, 124, 131),
        (110, 119, 129),
    ],
    [
        (87, 96, 106),
        (164, 14, 38),
        (26, 127, 55),
        (99, 60, 1),
        (33, 139, 255),
        (164, 117, 249),
        (49, 146, 170),
        (140, 149, 159),
    ],
)
"""A light ground, as pages have: GitHub's colours for a terminal."""
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, \
"DejaVu Sans Mono", monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def drawn(screen: pyte.Screen, title: str) -> str:
    """Return what is on a screen as SVG; lines that are blank at its end are left out."""
    console = Console(
        record=True,
        width=screen.columns,
        file=io.StringIO(),
        force_terminal=True,
        legacy_windows=False,
    )
    rows = [_row(screen, y) for y in range(screen.lines)]
    while rows and not rows[-1].plain.strip():
        rows.pop()
    for row in rows:
        console.print(row, no_wrap=True, crop=True)
    svg = console.export_svg(title=title, theme=LIGHT, code_format=FORMAT, unique_id="t")
    # Rich's frame is for dark grounds.
    svg = svg.replace("rgba(255,255,255,0.35)", "#d0d7de")
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def _row(screen: pyte.Screen, y: int) -> Text:
    """Return a line of the screen; cells of one style are one piece."""
    row = Text()
    cells = [
        (cell := screen.buffer[y][x], _style(screen, cell, x, y)) for x in range(screen.columns)
    ]
    while cells and cells[-1] == (screen.default_char, Style()):
        cells.pop()
    for style, same in itertools.groupby(cells, key=lambda one: one[1]):
        row.append("".join(cell.data for cell, _ in same), style)
    return row


def _style(screen: pyte.Screen, cell: Char, x: int, y: int) -> Style:
    here = (x, y) == (screen.cursor.x, screen.cursor.y) and not screen.cursor.hidden
    return Style(
        color=_colour(cell.fg),
        bgcolor=_colour(cell.bg),
        bold=cell.bold or None,
        dim=cell.blink or None,  # see tests/cli/screen.py
        italic=cell.italics or None,
        underline=cell.underscore or None,
        reverse=(cell.reverse != here) or None,
    )


def _colour(name: str) -> str | None:
    """Return a colour of pyte's as rich calls it."""
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    bright = name.startswith("bright")
    plain = name.removeprefix("bright").replace("brown", "yellow")
    return f"bright_{plain}" if bright else plain


# The pictures ---------------------------------------------------------------------------------


def chat(folder: Path) -> str:
    """A talk: an answer, others to the same message, settings, the tree, and the line below."""
    terminal = start("gptkit chat --seed 3", folder, rows=32)
    wait_for_start(terminal)
    for line in (
        "What is temperature?",
        "Tell me a joke.",
        "/retry 2",
        "/branch 2",
        "/tree",
    ):
        type_line(terminal, line)
    terminal.type("/set t")
    terminal.wait("typical")
    settle(terminal)
    return drawn(terminal.screen, "gptkit chat")


def probs(folder: Path) -> str:
    """The tokens of an answer in colours, one of them with what might have been in its place."""
    chain = "-s penalties=1.05 -s temperature=1.2 -s top_k=40 -s min_p=0.03"
    terminal = start(f"gptkit chat --seed 8 {chain}", folder, rows=20, columns=96)
    wait_for_start(terminal)
    type_line(terminal, "Tell me a story.")
    terminal.type("/probs\r")
    terminal.wait("q leaves")
    terminal.type("n")
    settle(terminal)
    return drawn(terminal.screen, "/probs")


PICTURES: dict[str, Callable[[Path], str]] = {"chat": chat, "probs": probs}


def settle(terminal: Terminal, quiet_s: float = 0.5) -> None:
    """Read until nothing has come for a while."""
    since, n = time.monotonic(), len(terminal.raw)
    while time.monotonic() - since < quiet_s:
        terminal.wait()
        if len(terminal.raw) != n:
            since, n = time.monotonic(), len(terminal.raw)


if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        with home() as folder:
            (IMAGES / f"{name}.svg").write_text(PICTURES[name](folder), encoding="utf-8")
        print(f"{name}.svg")
