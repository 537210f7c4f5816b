"""A chat in a terminal: `InputLine` reads the line, `View` shows what comes of it.

The prompt is there before the model is, and this file imports nothing that takes long but
prompt_toolkit: the rest comes with the session, in a thread. The terminal is in one of two states
until the user leaves: prompt_toolkit has it, or typed keys wait unseen for the next prompt.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING

from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.utils import is_dumb_terminal

from gptkit.chat.input_line import END, PROMPT, InputLine
from gptkit.chat.loading import Loading
from gptkit.text.safe import safe_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from prompt_toolkit.application import Application

    from gptkit.chat.conversation import Turn
    from gptkit.chat.events import SessionEvent
    from gptkit.chat.keyboard import Keyboard
    from gptkit.chat.loading import Make
    from gptkit.chat.session import Session
    from gptkit.chat.view import View

IMPATIENT_S = 1.0
"""Ctrl-C again, so long after the first, breaks off a step that does not end."""


class Terminal:
    """Runs a session in a terminal until the user leaves.

    `make` returns the session, in a thread of its own; `history` says where the input history
    is kept, if it is.
    """

    def __init__(
        self,
        make: Make,
        history: Callable[[], Path | None],
        keyboard: Keyboard,
        *,
        keys: str = "emacs",
        markdown: bool = False,
        raw_output: bool = False,
    ) -> None:
        self.loading = Loading(make)
        self.session: Session | None = None
        self.keyboard = keyboard
        self.view: View
        self._options = {"markdown": markdown, "raw_output": raw_output}
        self._is_dumb = is_dumb_terminal()
        self._out = sys.stdout  # which goes elsewhere while plugins are imported, in their thread
        self._reading = self._answering = self._interrupted = False
        self._left = self._leaving = self._twice = False
        self._interrupted_at = 0.0
        self._kept = ""  # a line that was taken back, for the next prompt
        self._later: list[str] = []  # notes of a time when the screen is not ours
        self._line = InputLine(
            session=lambda: self.session,
            status=self._status,
            history=history,
            say=self._later.append,
            keys=keys,
            is_shown=not self._is_dumb,
        )
        self._line.prompt.app.after_render += self._first_render
        keyboard.on_return = self._returned

    def run(self) -> None:
        """Read, answer, and start over."""
        with self._sigint_stops_the_answer():
            if self._is_dumb:  # it has no place for a prompt that changes
                self.loading.run()
            else:  # over what was typed, and shown, before we had the keyboard
                print(end="\r", file=self._out, flush=True)
            try:
                while not self._left:
                    if self.loading.is_done:
                        self._settle()
                    self._turn()
            except KeyboardInterrupt:
                if not self._left:
                    raise

    def _turn(self) -> None:
        """Read a line, and do what it says."""
        self._twice = False
        try:
            line = self._read()
        except EOFError:
            self._left = True
            return
        except KeyboardInterrupt:
            text = "" if self._is_dumb else self._line.text
            empty = not text and not self._line.many_lines
            self._line.many_lines = False
            self._left = empty and (self._leaving or self._twice)
            self._leaving = empty
            if empty and not self._left:
                self._say("Ctrl-C again leaves, and so does Ctrl-D")
            return
        self._leaving = False
        if line.strip() == "/exit":
            self._left = True
        elif self._is_ready(line):
            self._answer(line)

    def _read(self) -> str:
        """Return what was typed, as `handle` takes it."""
        self._reading = True
        try:
            if self._is_dumb:
                text = self._read_plainly()
            else:
                kept, self._kept = self._kept, ""
                text = self._line.read(kept, self._notice)
        finally:
            self._reading = False
        if not self._line.many_lines:
            return text
        self._line.many_lines = False
        return f"/{text}" if text.startswith("/") else text

    def _read_plainly(self) -> str:
        """Read a line as the terminal itself edits it, or lines up to the one that ends them."""
        lines: list[str] = []
        try:
            while not lines or self._line.many_lines:
                print(end=PROMPT, flush=True)
                data = sys.stdin.buffer.readline()
                if not data:
                    print(flush=True)
                    raise EOFError
                lines.append(data.decode("utf-8", "surrogateescape").rstrip("\r\n"))
                if self._line.many_lines and lines[-1].strip() == END:
                    lines.pop()
                    break
        except KeyboardInterrupt:
            print(flush=True)
            raise
        return "\n".join(lines)

    # The session, which comes later -------------------------------------------------------------

    def _first_render(self, app: Application[str]) -> None:
        self.loading.start(self._notice)

    def _notice(self) -> None:
        """Have the prompt, if there is one, look how far the session is; any thread may."""
        app = self._line.prompt.app
        if not self.loading.is_done:
            app.invalidate()
        elif (loop := app.loop) is not None:
            with contextlib.suppress(RuntimeError):  # the prompt has just ended
                loop.call_soon_threadsafe(self._arrived)

    def _arrived(self) -> None:
        app = self._line.prompt.app
        if self.session is not None or not app.is_running or app.is_done:
            return
        if self.loading.failed:
            app.erase_when_done = True
            app.exit(result="")  # `run` raises the reason next
        elif app._running_in_terminal:  # an editor has the screen
            run_in_terminal(self._settle)
        else:
            app.create_background_task(self._greet_above(app))

    async def _greet_above(self, app: Application[str]) -> None:
        """Greet above the prompt.

        `run_in_terminal` would give the terminal back to the shell's modes for as long, in which a
        key may get lost: Backspace, for one.
        """
        if app.output.responds_to_cpr:
            await app.renderer.wait_for_cpr_responses()
        if self.session is None and not app.is_done:
            app.renderer.erase()
            self._settle()
            app.renderer.reset()
            app.renderer.request_absolute_cursor_position()
            app.invalidate()

    def _settle(self) -> None:
        """Take the session and greet; raise the reason why there is none."""
        if self.session is not None:
            return
        for line in self.loading.notes:
            print(safe_line(line), file=sys.stderr, flush=True)
        session = self.loading.session()
        from gptkit.chat.view import View

        self.session, self.view = session, View(**self._options)
        size = session.model.config.block_size
        self.view.note(f"{session.model.name}, context {size:,} tokens. /help lists the commands.")
        self._show(session.greet())

    def _is_ready(self, line: str) -> bool:
        """Wait for the session; return False where Ctrl-C took the line back."""
        self._interrupted = False
        if not self.loading.is_done:
            self._say(f"{self.loading.doing}; then this is answered. Ctrl-C takes it back")
        while not self.loading.wait(0.05):
            if self._interrupted:
                self._kept = line
                return False
        self._settle()
        return bool(line)

    def _say(self, text: str) -> None:
        """Say something, be there a view or not."""
        if self.session is None:
            print(safe_line(text), file=self._out, flush=True)
        else:
            self.view.note(text)

    def _status(self, columns: int) -> str:
        if self.session is None:
            return safe_line(f"{self.loading.doing} ...")
        from gptkit.chat.status import line

        return line(self.session, columns)

    # Answers ------------------------------------------------------------------------------------

    @property
    def _session(self) -> Session:
        return self.loading.session()

    def _answer(self, line: str) -> None:
        self.view.begin()
        while self._later:
            self.view.note(self._later.pop(0))
        from gptkit.chat.commands import is_command

        before = self._session.conversation.cursor
        self._interrupted, self._answering = False, True
        try:
            self._show(self._session.handle(line))
        except KeyboardInterrupt:
            self.view.note("stopped in the middle of a step")
        finally:
            self._answering = False
        if (
            self._interrupted
            and not is_command(line)
            and self._session.conversation.cursor is before
        ):
            back = "" if self._is_dumb else "; the message is back in the line"
            self.view.note(f"stopped before the answer began{back}")
            self._kept = line

    def _returned(self) -> None:
        if self._answering:
            self.view.moved()

    def _show(self, events: Iterable[SessionEvent]) -> None:
        from gptkit.chat.events import EditWanted, Failed, Left, LinesWanted, Probed
        from gptkit.errors import GptkitError

        try:
            for event in events:
                match event:
                    case EditWanted():
                        self._edit(event.turn)
                    case Probed():
                        self._look(event.turn)
                    case LinesWanted():
                        self._line.many_lines = True
                    case Left():
                        self._left = True
                    case _:
                        self.view.show(event)
        except GptkitError as error:  # of an event that was served here
            self.view.show(Failed(error))
        finally:
            self.view.end()

    def _edit(self, turn: Turn) -> None:
        from gptkit.chat.editor import edited

        self._answering = False  # Ctrl-C is the editor's
        with self.keyboard.as_usual():
            new = edited(turn.text)
        self._answering = True
        if new is None:
            self.view.note("the text is as it was; nothing is changed")
        else:
            self._show(self._session.edit(turn, new))

    def _look(self, turn: Turn) -> None:
        if self.view.is_dumb:
            from gptkit.chat.events import Table
            from gptkit.chat.probs import Probs

            self.view.show(Table(Probs(self._session, turn).rows()))
            return
        from gptkit.chat.probs_view import look

        self._answering = False
        picked = look(self._session, turn)
        self._answering = True
        if picked is not None:
            self._show(self._session.choose(turn, *picked))

    @contextlib.contextmanager
    def _sigint_stops_the_answer(self) -> Iterator[None]:
        """Let Ctrl-C stop an answer, and do nothing where none is being written.

        Once more, a while later, it breaks off a step that does not end, such as a plugin's.
        """

        def stop(signum: int, frame: object) -> None:
            if self._reading and self._line.has_opened:
                self._twice = not self._line.interrupt()
                return
            if self._reading:
                raise KeyboardInterrupt
            if self._leaving:  # the second of two, before the prompt is there again
                self._left = True
                raise KeyboardInterrupt
            waited = time.monotonic() - self._interrupted_at
            if self._answering and self._interrupted and waited > IMPATIENT_S:
                raise KeyboardInterrupt
            if not self._interrupted:
                self._interrupted_at = time.monotonic()
            self._interrupted = True
            if self._answering and self.session is not None:
                self.session.interrupt()

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
