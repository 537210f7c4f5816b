"""The program: `gptkit`, and `python -m gptkit`. Ctrl-C ends it quietly from its first moment.

Importing the commands takes a tenth of a second, in which a KeyboardInterrupt would be a traceback.
So where `gptkit.cli.main` is not there to catch one, SIGINT ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130


def main() -> int:
    """Run the command line and return its exit code."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a background job's stays ignored
        signal.signal(signal.SIGINT, _end)
    from gptkit import cli

    try:
        return cli.main()
    except KeyboardInterrupt:  # while an error was being told
        return INTERRUPTED


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)  # an exception would be raised in whatever is being imported


if __name__ == "__main__":
    sys.exit(main())
