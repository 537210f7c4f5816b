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

if TYPE_CHECKING:
    from collections.abc import Callable

    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyPressEvent

    from gptkit.chat.conversation import Turn
    from gptkit.chat.session import Session

    Line = list[tuple[str, str]]

HELP = "←→ token  ↑↓ option  n next unlikely  Enter: go on with it  q leaves"
BAR = 12
WIDE = 90
"""From so many columns on, what the stages did stands beside the options."""
LEFT = 44

# Light grounds with black text: they can be read on light and dark terminals alike.
COLOURS = ("#b7e4c7", "#d8f3dc", "#fff3b0", "#ffd6a5", "#ffadad", "#e06666")
STYLE = Style.from_dict(
    {f"p{i}": f"bg:{colour} #000000" for i, colour in enumerate(COLOURS)}
    | {"here": "reverse bold", "title": "bold", "dim": "ansibrightblack"}
)
PLAIN = Style.from_dict({"here": "reverse bold", "p4": "underline", "p5": "underline bold"})


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
    return app.run()


def draw(probs: Probs, columns: int, lines: int) -> list[Line]:
    """Return the screen, line by line: pieces of text with their styles."""
    options, trace = _options(probs), _trace(probs)
    if columns >= WIDE:
        lower = _beside(options, trace)
    else:
        lower = [*options, [("", "")], *trace]
    foot = [_legend(columns), [("class:dim", _cut(HELP, columns).rstrip())]]
    room = max(lines - len(lower) - len(foot) - 1, 3)
    answer, here = _answer(probs, columns)
    first = max(0, min(here - room // 2, len(answer) - room))
    shown = answer[first : first + room]
    shown += [[("", "")]] * (room - len(shown))
    rule = [("class:dim", "─" * columns)]
    most = max(lines - room - len(foot) - 1, 0)
    return [*shown, rule, *lower[:most], *foot]


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
        lines[-1].append((style, text))
        used += get_cwidth(text)
        if text.endswith("⏎"):
            lines.append([])
            used = 0
    return lines, here


def _options(probs: Probs) -> list[Line]:
    cell = probs.cell
    p = "was there before" if cell.p is None else f"{cell.p:.1%}"
    out: list[Line] = [
        [("class:title", f"token {probs.at + 1} of {len(probs.cells)}  {cell.text!r}  {p}")]
    ]
    for i, option in enumerate(cell.options):
        mark = "•" if option.token_id == cell.token_id else " "
        style = "class:here" if i == probs.pointed else ""
        text = f"{mark}{i + 1:>3} {_cut(repr(option.text), 14)} {option.p:6.1%} "
        out.append([(style, text), ("class:dim", "█" * round(option.p * BAR) or "▏")])
    return out


def _trace(probs: Probs) -> list[Line]:
    out: list[Line] = [[("class:title", f"{'stage':<18}{'kept':>7}  removed  this token")]]
    trace = probs.trace()
    if isinstance(trace, str):
        return [*out, [("class:dim", trace)]]
    for stage in trace:
        stands = "removed" if stage.rank_after is None else f"#{stage.rank_after}"
        removed = f"{stage.removed_mass:.3f}" if stage.removed_mass else "-"
        p = f" {stage.p_after:.3f}" if stage.rank_after is not None else ""
        row = f"{_cut(stage.label, 18)}{stage.survivors:>7,}  {removed:>7}  {stands}{p}"
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
