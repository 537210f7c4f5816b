"""The line that the user types: its keys, completion, history and colours."""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.filters import Condition, emacs_mode, has_focus, vi_insert_mode
from prompt_toolkit.history import History, ThreadedHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout.processors import Processor, Transformation
from prompt_toolkit.layout.utils import explode_text_fragments
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.styles import Style

from gptkit.chat.completion import CommandCompleter
from gptkit.chat.input_history import InputHistory
from gptkit.errors import Terminated
from gptkit.text.safe import safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyPressEvent
    from prompt_toolkit.layout.processors import TransformationInput

    from gptkit.chat.session import Session

PROMPT = "> "
END = "/end"
"""Ends several lines that `/multi` began."""
NORMAL = "normal · "
"""Stands in the line below the prompt while keys of vi are commands."""
MODES = {"emacs": EditingMode.EMACS, "vi": EditingMode.VI}
VI_ESCAPE_S, VI_KEYS_S = 0.05, 0.3
"""How long Escape waits for the rest of a key's sequence, and a key of vi for those behind it."""
# Menus have a ground of their own, so that light and dark terminals show them alike. What is chosen
# is reversed, which is seen without colours too.
STYLE = Style.from_dict(
    {
        "bottom-toolbar": "noreverse dim",
        "prompt": "bold",
        "completion-menu": "bg:#d7d7d7 #000000",
        "completion-menu.completion.current": "noinherit bg:#ffffff #1c4e80 reverse",
        "completion-menu.meta.completion": "bg:#c6c6c6 #000000",
        "completion-menu.meta.completion.current": "bg:#b2b2b2 #000000",
    }
)


class InputLine:
    """Reads lines. While `many_lines` is true, Enter begins a new one, and `/end` sends them all.

    `status` makes the line below, `session` what is there to complete; `history` says where the
    input history is kept, if it is, and `say` takes what goes wrong with it.
    """

    def __init__(
        self,
        *,
        session: Callable[[], Session | None],
        status: Callable[[int], str],
        history: Callable[[], Path | None],
        say: Callable[[str], None],
        keys: str,
        is_shown: bool,
    ) -> None:
        self.many_lines = False
        self._status = status
        self.prompt: PromptSession[str] = PromptSession(
            history=ThreadedHistory(_History(history, say)),
            completer=CommandCompleter(session),
            complete_while_typing=Condition(lambda: get_app().current_buffer.text[:1] == "/"),
            multiline=True,
            prompt_continuation=lambda width, line, wrapped: " " * width,
            key_bindings=self._keys(),
            input_processors=[_Safe()],
            bottom_toolbar=self._toolbar,
            style=STYLE,
            editing_mode=MODES[keys],
            enable_suspend=True,
            enable_open_in_editor=True,
            tempfile_suffix=".txt",
            output=None if is_shown else DummyOutput(),
        )
        self.has_opened = False
        """Whether the prompt of the last `read` was there, be it that it has gone again."""
        if keys == "vi":
            self.prompt.app.ttimeoutlen, self.prompt.app.timeoutlen = VI_ESCAPE_S, VI_KEYS_S

    @property
    def text(self) -> str:
        """Return what stands in the line, or stood there when it was left."""
        return self.prompt.default_buffer.text

    def read(self, default: str, pre_run: Callable[[], None]) -> str:
        """Return what was typed; raise EOFError or KeyboardInterrupt where the user wants out."""

        def opens() -> None:
            self.has_opened = True
            pre_run()

        self.has_opened = False
        try:
            return self.prompt.prompt(
                [("class:prompt", PROMPT)], default=default, pre_run=opens, handle_sigint=False
            )
        except Terminated:  # while the first screen is drawn, nobody else leaves it
            self.prompt.app.renderer.reset()
            raise

    def interrupt(self) -> bool:
        """Have the prompt end by KeyboardInterrupt; return False where it ends anyway.

        For a handler of SIGINT: prompt_toolkit's own is deaf while its prompt ends.
        """
        app = self.prompt.app
        if not app.is_running or app.is_done or app.loop is None:
            return False
        app.loop.call_soon_threadsafe(app.key_processor.send_sigint)
        return True

    def _toolbar(self) -> str:
        if self.many_lines:
            return f"{END} on a line of its own sends the lines, Ctrl-C drops them"
        app = get_app()
        mode = NORMAL if app.editing_mode == EditingMode.VI and not vi_insert_mode() else ""
        return mode + self._status(app.output.get_size().columns - len(mode))

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        at_line = has_focus(DEFAULT_BUFFER)

        @keys.add("enter", filter=at_line)
        def accept(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if not self.many_lines:
                buffer.validate_and_handle()
            elif buffer.document.current_line.strip() == END:
                lines = buffer.text.split("\n")
                del lines[buffer.document.cursor_position_row]
                buffer.text = "\n".join(lines)
                buffer.validate_and_handle()
            else:
                buffer.newline(copy_margin=False)

        @keys.add("escape", "enter", filter=at_line & (emacs_mode | vi_insert_mode))
        def new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        return keys


class _Safe(Processor):
    """Shows what is typed as answers are shown: pasted text must not turn the line round."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Replace characters one by one; several may stand for one."""
        fragments = explode_text_fragments(transformation_input.fragments)
        if all(safe(text) == text for _, text, *_ in fragments):
            return Transformation(fragments)
        shown: StyleAndTextTuples = [(style, safe(text)) for style, text, *_ in fragments]
        starts = [0, *itertools.accumulate(len(text) for _, text, *_ in shown)]
        return Transformation(
            shown,
            source_to_display=lambda i: (
                starts[i] if i < len(starts) else starts[-1] + i - len(shown)
            ),
            display_to_source=lambda i: min(bisect.bisect_right(starts, i) - 1, i),
        )


class _History(History):
    """Gives the input history to prompt_toolkit."""

    def __init__(self, path: Callable[[], Path | None], say: Callable[[str], None]) -> None:
        super().__init__()
        self._path = path
        self._say = say
        self._stored: InputHistory | None = None

    @property
    def stored(self) -> InputHistory:
        """The file, found when it is needed."""
        if self._stored is None:
            self._stored = InputHistory(self._path(), self._say)
        return self._stored

    def load_history_strings(self) -> Iterable[str]:
        """Return the entries, the newest first."""
        return self.stored.entries()

    def store_string(self, string: str) -> None:
        """Store an entry."""
        self.stored.append(string)
