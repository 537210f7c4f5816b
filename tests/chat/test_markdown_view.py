"""Answers as Markdown: what changes, what must not get lost."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from gptkit.chat.markdown_view import THEME, rendered


def printed(text, width=60):
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        theme=THEME,
        markup=False,
        emoji=False,
        highlight=False,
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(rendered(text))
    return out.getvalue()


def plain(text, width=60):
    lines = re.sub("\x1b\\[[0-9;]*m", "", printed(text, width)).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


@pytest.mark.parametrize(
    "text", ["one line", "two\nlines", "two\n\nparagraphs", "1 * 2", "[bold] [/foo] [/] :smile:"]
)
def test_what_would_look_as_it_does_is_left_alone(text):
    assert rendered(text) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a **strong** word", "a strong word"),
        ("**a**\nb\nc", "a\nb\nc"),  # lines stay lines
        ("- one\n- two", " • one\n • two"),
        ("```python\nx = [1]\n```", "  x = [1]"),
        ("**a** [bank](http://evil)", "a bank (http://evil)"),
        ("**a** ![p](u.png)", "a ![p](u.png)"),
        ("**a** <b>x</b> <|end|>", "a <b>x</b> <|end|>"),
        ("<div>\nx\n</div>", "  <div>\n  x\n  </div>"),
        ("**a** [bold] [/foo] [/] [link=x] :smile:", "a [bold] [/foo] [/] [link=x] :smile:"),
        ("**a** \x1b[2J\x9b1m", "a ␛[2J\\x9b1m"),
    ],
)
def test_what_it_looks_like(text, wanted):
    assert plain(text) == wanted


def test_no_link_and_no_colour():
    """A colour that reads well on a dark ground vanishes on a light one; links hide their aim."""
    text = (
        "# t\n> q\n\n1. *e* **s** `c` [a](http://b)\n\n---\n\n| a |\n|---|\n| 1 |\n\n```py\nx\n```"
    )
    codes = set(re.findall("\x1b[^a-zA-Z]*[a-zA-Z]", printed(text)))
    assert codes == {"\x1b[0m", "\x1b[1m", "\x1b[3m", "\x1b[4m"}
