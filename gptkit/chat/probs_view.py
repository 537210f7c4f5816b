"""`/probs` on the whole screen: the answer in colours of probability, options, what stages did."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prompt_toolkit.application import Application
from prompt_toolkit.application.current import get_app
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from gptkit.chat.probs import LEVELS, Probs
from gptkit.errors import Terminated

if TYPE_CHECKING:
    from collections.abc import Callable

    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyPressEvent

    from gptkit.chat.conversation import Turn
    from gptkit.chat.session import Session

    Line = list[tuple[str, str]]

HELP = (
    "←→ token  ↑↓ option  n next unlikely  Enter: go on with it  q leaves",
    "←→ ↑↓ n  Enter takes  q",
    "←→ ↑↓ n Enter q",
)
BAR = 12
TOKEN = 14
WIDE = 90
"""From so many columns on, what the stages did stands beside the options."""
LEFT = 44
"""Columns of the options there, which are all that they need."""
LOW = 12
"""In a window of fewer lines one is left to the answer; else, at least three."""

# Light grounds with black text: they can be read on light and dark terminals alike.
COLOURS = ("#b7e4c7", "#d8f3dc", "#fff3b0", "#ffd6a5", "#ffadad", "#e06666")
STYLE = Style.from_dict(
    {f"p{i}": f"bg:{colour} #000000" for i, colour in enumerate(COLOURS)}
    | {"here": "reverse bold", "title": "bold", "dim": "dim"}
)
PLAIN = Style.from_dict(
    {"here": "reverse bold", "title": "bold", "p4": "underline", "p5": "underline bold"}
)


def look(session: Session, turn: Turn) -> tuple[int, int] | None:
    """Let the user look around; return the place and the token to go on with, if one was taken."""
    probs = Probs(session, turn)

    def text() -> StyleAndTextTuples:
        size = get_app().output.get_size()
        out: StyleAndTextTuples = []
        for line in draw(probs, size.columns, size.rows):
            out += [*line, ("", "\n")]
        return out[:-1]

    app: Application[tuple[int, int] | None] = Application(
        layout=Layout(Window(FormattedTextControl(text, show_cursor=False))),
        key_bindings=_keys(probs),
        style=PLAIN if "NO_COLOR" in os.environ else STYLE,
        full_screen=True,
    )
    try:
        return app.run()
    except Terminated:  # while the first screen is drawn, nobody else leaves it
        app.renderer.reset()
        raise


def draw(probs: Probs, columns: int, lines: int) -> list[Line]:
    """Return the screen, line by line: pieces of text with their styles."""
    help_ = next((text for text in HELP if get_cwidth(text) <= columns), HELP[-1])
    foot: list[Line] = [_legend(columns), [("class:dim", help_)]]
    least = 1 if lines < LOW else 3
    most = max(lines - len(foot) - 1 - least, 2)
    if columns >= WIDE:
        lower = _beside(_options(probs, LEFT, most), _trace(probs, columns - LEFT))
    else:
        lower = [*_options(probs, columns, most), [("", "")], *_trace(probs, columns)]
    lower = lower[:most]
    room = max(lines - len(lower) - len(foot) - 1, least)
    answer, here = _answer(probs, columns)
    first = max(0, min(here - room // 2, len(answer) - room))
    shown = answer[first : first + room]
    shown += [[("", "")]] * (room - len(shown))
    return [*shown, [("class:dim", "─" * columns)], *lower, *foot]


def _answer(probs: Probs, columns: int) -> tuple[list[Line], int]:
    """Return the coloured tokens, broken into lines, and the line of the one looked at."""
    lines: list[Line] = [[]]
    used = here = 0
    for i, cell in enumerate(probs.cells):
        text = cell.text or " "
        if used and used + get_cwidth(text) > columns:
            lines.append([])
            used = 0
        style = "" if cell.level is None else f"class:p{cell.level}"
        if i == probs.at:
            style, here = "class:here", len(lines) - 1
        *whole, text = _split(text, columns)
        for piece in whole:
            lines[-1].append((style, piece))
            lines.append([])
        lines[-1].append((style, text))
        used += get_cwidth(text)
        if text.endswith("⏎"):
            lines.append([])
            used = 0
    return lines, here


def _split(text: str, columns: int) -> list[str]:
    """Break what is wider than a line."""
    pieces, used = [""], 0
    for char in text:
        width = get_cwidth(char)
        if used + width > columns:
            pieces.append("")
            used = 0
        pieces[-1] += char
        used += width
    return pieces


def _options(probs: Probs, columns: int, most: int) -> list[Line]:
    """Return the token looked at, and what might have been: as many as fit, round the pointed."""
    cell = probs.cell
    p = "was there before" if cell.p is None else percent(cell.p)
    title = f"token {probs.at + 1} of {len(probs.cells)}  {cell.text!r}  {p}"
    if get_cwidth(title) > columns:
        title = _cut(f"{probs.at + 1}/{len(probs.cells)} {p} {cell.text!r}", columns)
    out: list[Line] = [[("class:title", title)]]
    n = most - 1
    first = max(0, min(probs.pointed - n // 2, len(cell.options) - n))
    width = max(4, min(TOKEN, columns - 15))
    bar = min(BAR, columns - width - 15)
    for i, option in list(enumerate(cell.options))[first : first + n]:
        mark = "•" if option.token_id == cell.token_id else " "
        style = "class:here" if i == probs.pointed else ""
        text = f"{mark}{i + 1:>3} {_cut(repr(option.text), width)} {percent(option.p):>8}"
        out.append([(style, text)])
        if bar > 1:
            out[-1].append(("class:dim", " " + ("█" * round(option.p * bar) or "▏")))
    return out


def percent(p: float) -> str:
    """Write a probability so that small ones tell each other apart."""
    if p >= 0.001:
        return f"{p:.1%}"
    return f"{p:.4%}" if p >= 1e-6 else "<0.0001%"


def _trace(probs: Probs, columns: int) -> list[Line]:
    wide = columns >= 42
    label = 18 if wide else max(4, columns - 14)
    removed = "  removed  this token" if wide else "  this"
    out: list[Line] = [[("class:title", f"{_cut('stage', label)}{'kept':>7}{removed}")]]
    trace = probs.trace()
    if isinstance(trace, str):
        return [*out, *([("class:dim", piece)] for piece in _split(trace, columns))]
    for stage in trace:
        stands = "out" if stage.rank_after is None else f"#{stage.rank_after}"
        row = f"{_cut(stage.label, label)}{stage.survivors:>7,}"
        if wide:
            removed = f"{stage.removed_mass:.3f}" if stage.removed_mass else "-"
            p = f" {stage.p_after:.3f}" if stage.rank_after is not None else ""
            row += f"  {removed:>7}  {'removed' if stands == 'out' else stands}{p}"
        else:
            row += f"  {stands}"
        out.append([("", row)])
    return out


def _beside(left: list[Line], right: list[Line]) -> list[Line]:
    out = []
    for i in range(max(len(left), len(right))):
        line = list(left[i]) if i < len(left) else []
        gap = LEFT - sum(get_cwidth(text) for _, text in line)
        out.append([*line, ("", " " * max(gap, 1)), *(right[i] if i < len(right) else [])])
    return out


def _legend(columns: int) -> Line:
    bounds = [*(f"≥{bound:g}" for bound in LEVELS), f"<{LEVELS[-1]:g}"]
    out: Line = []
    used = 0
    for i, bound in enumerate(bounds):
        used += len(bound) + 3
        if used > columns:
            break
        out += [(f"class:p{i}", f" {bound} "), ("", " ")]
    return out


def _cut(text: str, width: int) -> str:
    """Return text in exactly `width` columns."""
    if get_cwidth(text) > width:
        while get_cwidth(text) >= width:
            text = text[:-1]
        text += "…"
    return text + " " * (width - get_cwidth(text))


def _keys(probs: Probs) -> KeyBindings:
    keys = KeyBindings()

    def moves(*names: str, do: Callable[[], None]) -> None:
        for name in names:
            keys.add(name)(lambda event: do())

    moves("left", "h", do=lambda: probs.move(-1))
    moves("right", "l", do=lambda: probs.move(1))
    moves("up", "k", do=lambda: probs.point(-1))
    moves("down", "j", do=lambda: probs.point(1))
    moves("pageup", do=lambda: probs.move(-20))
    moves("pagedown", do=lambda: probs.move(20))
    moves("home", do=lambda: probs.move(-len(probs.cells)))
    moves("end", do=lambda: probs.move(len(probs.cells)))
    moves("n", do=probs.move_to_unlikely)

    @keys.add("enter")
    def take(event: KeyPressEvent) -> None:
        option = probs.option
        if option is not None and option.token_id != probs.cell.token_id:
            event.app.exit(result=(probs.at, option.token_id))

    @keys.add("q")
    @keys.add("escape", eager=True)
    @keys.add("c-c")
    def leave(event: KeyPressEvent) -> None:
        event.app.exit(result=None)

    return keys
