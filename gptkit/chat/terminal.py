"""A chat in a terminal: prompt_toolkit reads the line, rich shows what is no answer.

Whatever is no literal of this file passes through text/safe.py. The terminal is in one of two
states until the user leaves: prompt_toolkit has it, or typed keys wait unseen for the next prompt.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output.plain_text import PlainTextOutput
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import is_dumb_terminal
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from gptkit.chat.commands import names, usage
from gptkit.chat.events import Answered, Failed, Left, Note, Table
from gptkit.chat.input_history import InputHistory
from gptkit.decoding.request import Event
from gptkit.text.safe import safe, safe_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyPressEvent

    from gptkit.chat.events import SessionEvent
    from gptkit.chat.session import Session

PROMPT = "> "
STYLE = Style.from_dict({"bottom-toolbar": "noreverse ansibrightblack", "prompt": "bold"})


class Terminal:
    """Runs a session in a terminal until the user leaves."""

    def __init__(self, session: Session, history: Path, *, raw_output: bool = False) -> None:
        self.session = session
        self.console = Console(markup=False, emoji=False, highlight=False)
        self.raw_output = raw_output
        self._answering = False
        self._at_line_start = True
        self._left = False
        self._later: list[str] = []  # notes of a time when the screen is not ours
        self._prompt: PromptSession[str] = PromptSession(
            history=_History(InputHistory(history, self._later.append)),
            completer=CommandCompleter(session),
            complete_while_typing=Condition(lambda: get_app().current_buffer.text[:1] == "/"),
            multiline=True,
            prompt_continuation=lambda width, line, wrapped: " " * width,
            key_bindings=_keys(),
            bottom_toolbar=self._status,
            style=STYLE,
            enable_suspend=True,
            # Otherwise even a terminal that knows no escape sequences is told to show its cursor.
            output=PlainTextOutput(sys.stdout) if is_dumb_terminal() else None,
        )

    def run(self) -> None:
        """Read, answer, and start over."""
        with _keys_wait(), self._sigint_stops_the_answer():
            self._greet()
            leaving = False
            while not self._left:
                try:
                    line = self._prompt.prompt([("class:prompt", PROMPT)])
                except EOFError:
                    return
                except KeyboardInterrupt:
                    empty = not self._prompt.default_buffer.text
                    if empty and leaving:
                        return
                    if empty:
                        self._note("Ctrl-C again leaves, and so does Ctrl-D")
                    leaving = empty
                    continue
                leaving = False
                while self._later:
                    self._note(self._later.pop(0))
                self._answer(line)

    def _greet(self) -> None:
        size = self.session.model.config.block_size
        name = safe(self.session.model.name)
        self.console.print(Text(f"{name}, context {size:,} tokens. /help lists the commands."))
        self._show(self.session.greet())

    def _answer(self, line: str) -> None:
        self._answering = True
        try:
            self._show(self.session.handle(line))
        finally:
            self._answering = False

    def _show(self, events: Iterable[SessionEvent]) -> None:
        for event in events:
            match event:
                case Event():
                    self._write(event.text)
                case Answered():
                    self._end_answer(event)
                case Table():
                    self._table(event)
                case Note():
                    self._note(event.text)
                case Failed():
                    self._fail(event)
                case Left():
                    self._left = True

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text if self.raw_output else safe(text))
            sys.stdout.flush()
            self._at_line_start = text.endswith("\n")

    def _fresh_line(self) -> None:
        if not self._at_line_start:
            sys.stdout.write("\n")
        self._at_line_start = True

    def _end_answer(self, answered: Answered) -> None:
        if answered.mark:
            lead = "" if self._at_line_start else " "
            self.console.print(Text(f"{lead}[{safe(answered.mark)}]", style="dim"))
            self._at_line_start = True
        self._fresh_line()
        self.console.print()

    def _note(self, text: str) -> None:
        self._fresh_line()
        self.console.print(Text(safe(text), style="dim"))

    def _fail(self, failed: Failed) -> None:
        self._fresh_line()
        self.console.print(Text(f"error: {safe_line(str(failed.error))}", style="red"))
        if failed.error.hint:
            self.console.print(Text(f"  hint: {safe_line(failed.error.hint)}"))

    def _table(self, table: Table) -> None:
        self._fresh_line()
        grid = Grid.grid(padding=(0, 2))
        for row in table.rows:
            grid.add_row(*(Text(safe(cell)) for cell in row))
        self.console.print(grid)

    def _status(self) -> str:
        session = self.session
        used, size = session.n_used, session.model.config.block_size
        parts = [session.model.name, f"context {used:,} of {size:,}, {size - used:,} left"]
        if (last := session.last) is not None:
            parts += [f"{last.tok_per_s:,.0f} tokens/s", f"{last.n_reused:,} reused"]
        return safe(" · ".join(parts))

    @contextlib.contextmanager
    def _sigint_stops_the_answer(self) -> Iterator[None]:
        """Let Ctrl-C stop an answer, and do nothing where none is being written."""

        def stop(signum: int, frame: object) -> None:
            if self._answering:
                self.session.interrupt()

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _History(History):
    """Gives the input history to prompt_toolkit."""

    def __init__(self, stored: InputHistory) -> None:
        super().__init__()
        self.stored = stored

    def load_history_strings(self) -> Iterable[str]:
        """Return the entries, the newest first."""
        return self.stored.entries()

    def store_string(self, string: str) -> None:
        """Store an entry."""
        self.stored.append(string)


class CommandCompleter(Completer):
    """Completes commands, and behind `/set` the names of settings with their values and ranges."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        """Yield what may stand at the cursor."""
        text = document.text_before_cursor
        name, space, rest = text.partition(" ")
        if not name.startswith("/") or name.startswith("//"):
            return
        if not space:
            for known in names(self.session):
                if known.startswith(name[1:]):
                    written, does = usage(self.session, known)
                    yield Completion(f"/{known}", -len(name), written, display_meta=does)
        elif name == "/set" and " " not in rest:
            for setting in self.session.settings.listing():
                if setting.name.startswith(rest):
                    meta = f"{setting.value}  {setting.span or setting.summary}"
                    shown = safe(setting.name)
                    yield Completion(shown, -len(rest), display_meta=safe(meta))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def accept(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


@contextlib.contextmanager
def _keys_wait() -> Iterator[None]:
    """Keep what is typed outside a prompt for the next one, and out of the answer on the screen.

    prompt_toolkit sets what it needs over this for each prompt, and then returns to it.
    """
    try:
        import termios
    except ImportError:  # not on this system: then what is typed is shown at once
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    quiet = list(before)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[3] |= termios.NOFLSH  # or Ctrl-C would throw away what was typed
    termios.tcsetattr(fd, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
