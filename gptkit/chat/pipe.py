"""A chat without a terminal: one message a line in, the answers out, nothing else on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, TextIO

from gptkit.chat.events import (
    Answered,
    Copied,
    EditWanted,
    Failed,
    Heading,
    Left,
    LinesWanted,
    MarkdownWanted,
    Note,
    Probed,
    Prompted,
    SessionEvent,
    Table,
    Tree,
)
from gptkit.chat.plain import lines
from gptkit.chat.probs import Probs
from gptkit.decoding.request import Event
from gptkit.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gptkit.chat.session import Session
    from gptkit.errors import GptkitError


class Pipe:
    """Serves the lines of a stream; what is no answer goes to `say`, one line at a time."""

    def __init__(
        self,
        session: Session,
        out: TextIO,
        say: Callable[[str], None],
        shown: Callable[[str], str],
    ) -> None:
        self.session = session
        self.out = out
        self.say = say
        self.shown = shown
        self.exit_code = 0
        self._left = False

    def run(self, messages: BinaryIO) -> int:
        """Answer every line; return the exit code of the first line that failed, else 0."""
        self._show(self.session.greet())
        for line in messages:
            self._show(self.session.handle(line.decode("utf-8", "surrogateescape")))
            if self._left:
                break
        return self.exit_code

    def _show(self, events: Iterable[SessionEvent]) -> None:
        for event in events:
            match event:
                case Event():
                    self.out.write(self.shown(event.text))
                case Answered():
                    self.out.write("\n")
                    if event.mark:
                        self.say(f"note: {event.mark}")
                case Table() | Tree() | Prompted() | Heading():
                    self.out.writelines(self.shown(line) + "\n" for line in lines(event))
                case Probed():
                    table = Table(Probs(self.session, event.turn).rows())
                    self.out.writelines(self.shown(line) + "\n" for line in lines(table))
                case EditWanted() | Copied() | LinesWanted() | MarkdownWanted():
                    self._fail(RequestError("that needs a terminal"))
                case Note():
                    self.say(f"note: {event.text}")
                case Failed():
                    self._fail(event.error)
                case Left():
                    self._left = True
            self.out.flush()

    def _fail(self, error: GptkitError) -> None:
        self.say(f"gptkit: error: {error}")
        if error.hint:
            self.say(f"  hint: {error.hint}")
        self.exit_code = self.exit_code or error.exit_code
