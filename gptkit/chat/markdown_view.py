"""A finished answer as Markdown, where it is any; no word of it is lost, no link is hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.markdown import Markdown, MarkdownElement, TextElement
from rich.padding import Padding
from rich.theme import Theme

from gptkit.text.safe import safe

if TYPE_CHECKING:
    from markdown_it.token import Token
    from rich.console import Console, ConsoleOptions, RenderResult

PLAIN_BLOCKS = {"paragraph_open", "paragraph_close", "inline"}
PLAIN_INLINE = {"text", "softbreak", "hardbreak", "text_special"}

# Attributes alone: a colour that reads well on a dark ground vanishes on a light one.
BOLD = "code item.bullet item.number h1 h2 h3 h4 h5 h6 table.header strong"
THEME = Theme(
    {
        **{f"markdown.{name}": "bold" for name in BOLD.split()},
        **{f"markdown.{name}": "underline" for name in ("link", "link_url", "h7")},
        **{f"markdown.{name}": "italic" for name in ("block_quote", "em")},
        **{f"markdown.{name}": "none" for name in ("hr", "table.border", "code_block")},
        "markdown.h1.border": "none",
    }
)


class _Code(TextElement):
    """A block of code: as it is, two columns in."""

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Code:
        """Make it of any kind of block."""
        return cls()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.rstrip()
        yield Padding(self.text, (0, 0, 0, 2))


class _Document(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "fence": _Code,
        "code_block": _Code,
    }


def rendered(text: str) -> Markdown | None:
    """Return an answer as Markdown, or None where it would look as it does."""
    document = _Document(safe(text), hyperlinks=False)
    for token in document.parsed:
        _keep(token)
    blocks = {token.type for token in document.parsed}
    inline = {child.type for token in document.parsed for child in token.children or ()}
    if blocks <= PLAIN_BLOCKS and inline <= PLAIN_INLINE:
        return None
    return document


def _keep(token: Token) -> None:
    """Make text of what rich would drop: HTML, line ends, pictures."""
    for child in token.children or ():
        if child.type == "softbreak":
            child.type = "hardbreak"
        elif child.type in ("html_inline", "image"):
            if child.type == "image":
                child.content = f"![{child.content}]({child.attrs.get('src', '')})"
            child.type, child.tag, child.children = "text", "", []
    if token.type == "html_block":
        token.type = "code_block"
