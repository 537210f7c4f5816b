"""The plots of a report's page, as inline SVG.

Nothing is scaled: x is in percent, y in pixels, so that bars are as wide as the screen lets them
and letters keep their size. Colours are classes, which the page's style gives for light and dark.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gptkit.jobs.reports.tally import Spread

LINE, BAR = 42, 10
"""Pixels for a line of text with a bar below, and for the bar."""
N_COLUMNS = 40
HEIGHT = 120
"""Pixels of a histogram's highest column."""


def bars(title: str, values: Sequence[tuple[str, float, str]]) -> str:
    """Draw a bar for each name, value and how it is written; the largest is the whole width."""
    top = max((abs(value) for _, value, _ in values if math.isfinite(value)), default=0) or 1
    parts = []
    for i, (name, value, shown) in enumerate(values):
        parts.append(_heading(i, name, shown))
        parts.append(_bar(i, 0, 100, "rail"))
        if math.isfinite(value):
            parts.append(_bar(i, 0, 100 * abs(value) / top, "c0"))
    return _svg(title, len(values) * LINE, parts)


def stacked(title: str, lines: Sequence[tuple[str, str, Sequence[tuple[str, int]]]]) -> str:
    """Draw for each name and note one bar, made of (class, count) parts."""
    parts = []
    for i, (name, note, counts) in enumerate(lines):
        parts.append(_heading(i, name, note))
        x, whole = 0.0, sum(n for _, n in counts) or 1
        for css, n in counts:
            parts.append(_bar(i, x, 100 * n / whole, css))
            x += 100 * n / whole
    return _svg(title, len(lines) * LINE, parts)


def ranges(title: str, lines: Sequence[tuple[str, Spread]]) -> str:
    """Draw where values are: a line from min to max, a bar from p10 to p90, the median on it."""
    top = max(spread.at(1) for _, spread in lines) or 1
    parts = []
    for i, (name, spread) in enumerate(lines):
        low, p10, median, p90, high = (spread.at(q) for q in (0, 0.1, 0.5, 0.9, 1))
        parts.append(_heading(i, name, f"{p10:,} – {median:,} – {p90:,}"))
        y = i * LINE + 27
        parts.append(
            f'<line class="whisker" x1="{100 * low / top:.2f}%" x2="{100 * high / top:.2f}%" '
            f'y1="{y}" y2="{y}"/>'
        )
        parts.append(_bar(i, 100 * p10 / top, 100 * (p90 - p10) / top, "c0"))
        x = f"{100 * median / top:.2f}%"
        parts.append(f'<line class="median" x1="{x}" x2="{x}" y1="{y - 7}" y2="{y + 7}"/>')
    return _svg(title, len(lines) * LINE, parts)


def histogram(title: str, spread: Spread) -> str:
    """Draw a column for each bin of values, and the median."""
    low, high = spread.at(0), spread.at(1)
    width, counts = spread.bins(N_COLUMNS, low, high)
    top, wide = max(counts), 100 / len(counts)
    parts = []
    for i, n in enumerate(counts):
        if n:
            tall = max(1.0, HEIGHT * n / top)
            first, last = low + i * width, low + (i + 1) * width - 1
            said = f"{first:,}" if width == 1 else f"{first:,} to {last:,}"
            parts.append(
                f'<rect class="c0" x="{(i + 0.06) * wide:.2f}%" width="{0.88 * wide:.2f}%" '
                f'y="{HEIGHT - tall:.1f}" height="{tall:.1f}"><title>{said}: {n:,}</title></rect>'
            )
    end = low + width * len(counts) - 1
    at = 100 * (spread.at(0.5) - low + 0.5) / (end - low + 1)
    parts.append(f'<line class="axis" x1="0" x2="100%" y1="{HEIGHT + 1}" y2="{HEIGHT + 1}"/>')
    parts.append(f'<line class="median" x1="{at:.2f}%" x2="{at:.2f}%" y1="0" y2="{HEIGHT}"/>')
    for x, anchor, value in (("0", "start", low), ("100%", "end", high)):
        parts.append(
            f'<text class="quiet" x="{x}" y="{HEIGHT + 18}" text-anchor="{anchor}">{value:,}</text>'
        )
    return _svg(title, HEIGHT + 22, parts)


def _heading(i: int, name: str, note: str) -> str:
    y = i * LINE + 14
    return (
        f'<text x="0" y="{y}">{escape(name)}</text>'
        f'<text class="quiet" x="100%" y="{y}" text-anchor="end">{escape(note)}</text>'
    )


def _bar(i: int, x: float, width: float, css: str) -> str:
    return (
        f'<rect class="{css}" x="{x:.2f}%" width="{width:.2f}%" y="{i * LINE + 22}" '
        f'height="{BAR}"/>'
    )


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    said = escape(title)
    return f'<svg role="img" aria-label="{said}" height="{height}">{"".join(parts)}</svg>'
