"""A chat without a terminal: one message a line in, the answers out, nothing else on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, TextIO

from gptkit.chat.events import Answered, Failed, Left, Note, SessionEvent, Table
from gptkit.decoding.request import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gptkit.chat.session import Session


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

    def run(self, lines: BinaryIO) -> int:
        """Answer every line; return the exit code of the first line that failed, else 0."""
        self._show(self.session.greet())
        for line in lines:
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
                case Table():
                    self.out.writelines(self.shown(line) + "\n" for line in columns(event))
                case Note():
                    self.say(f"note: {event.text}")
                case Failed():
                    self.say(f"gptkit: error: {event.error}")
                    if event.error.hint:
                        self.say(f"  hint: {event.error.hint}")
                    self.exit_code = self.exit_code or event.error.exit_code
                case Left():
                    self._left = True
            self.out.flush()


def columns(table: Table) -> list[str]:
    """Return the rows as lines, each column as wide as its widest cell."""
    n = max(map(len, table.rows), default=0)
    widths = [max(len(row[i]) for row in table.rows if i < len(row)) for i in range(n)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in table.rows
    ]
