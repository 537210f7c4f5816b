"""A session on its way: made in a thread, while the prompt is there already."""

from __future__ import annotations

import contextlib
import io
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gptkit.chat.session import Session

    Make = Callable[[Callable[[str], None]], Session]
    """Returns a session; it is given whom to tell what is being done."""


class Loading:
    """Makes a session. What is said on stderr meanwhile is kept, for a prompt has the screen."""

    def __init__(self, make: Make) -> None:
        self.doing = "starting"
        self._make = make
        self._session: Session | None = None
        self._error: BaseException | None = None
        self._said = io.StringIO()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._notice: Callable[[], None] = lambda: None

    def start(self, notice: Callable[[], None]) -> None:
        """Begin, if that has not been done; call `notice` from the thread at each change."""
        if self._thread is None:
            self._notice = notice
            # A daemon, for whoever leaves does not wait for a large model.
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def run(self) -> None:
        """Make the session here and now; what is said is seen at once."""
        self._session = self._make(self._tell)
        self._done.set()

    @property
    def is_running(self) -> bool:
        """Whether a thread is at work."""
        return self._thread is not None and not self._done.is_set()

    @property
    def is_done(self) -> bool:
        """Whether there is a session, or a reason why there is none."""
        return self._done.is_set()

    @property
    def failed(self) -> bool:
        """Whether there will be no session."""
        return self._error is not None

    @property
    def notes(self) -> list[str]:
        """Return the lines that were said."""
        return self._said.getvalue().splitlines()

    def wait(self, seconds: float) -> bool:
        """Wait that long at most; return whether it is done."""
        return self._done.wait(seconds)

    def session(self) -> Session:
        """Return what was made, or raise what went wrong."""
        if self._session is None:
            raise self._error or RuntimeError("nothing was loaded yet")
        return self._session

    def _tell(self, doing: str) -> None:
        self.doing = doing
        self._notice()

    def _run(self) -> None:
        try:
            with contextlib.redirect_stderr(self._said):
                self._session = self._make(self._tell)
        except BaseException as error:  # raised again where the prompt is
            self._error = error
        self._done.set()
        self._notice()
