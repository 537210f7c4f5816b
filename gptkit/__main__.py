"""The program: `gptkit`, and `python -m gptkit`. Ctrl-C ends it quietly from first to last.

Importing the commands takes a tenth of a second, in which a KeyboardInterrupt would be a traceback.
So where `gptkit.cli.main` is not there to catch one, SIGINT ends the process. And Python itself
takes a while to end, in which it would die of a second one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED, TERMINATED = 130, 143


def main() -> int:
    """Run the command line and return its exit code."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a background job's stays ignored
        signal.signal(signal.SIGINT, _end)
    from gptkit import cli

    try:
        code = cli.main()
    except KeyboardInterrupt:  # while an error was being told
        code = INTERRUPTED
    if code in (INTERRUPTED, TERMINATED):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)  # an exception would be raised in whatever is being imported


if __name__ == "__main__":
    sys.exit(main())
