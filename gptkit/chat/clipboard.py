"""The clipboard: by a program that is there, else by the terminal, which works over ssh too."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from gptkit.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 74_994
"""What xterm and most others take, before base64."""
PATIENCE_S = 3.0


def copy(text: str) -> str | None:
    """Copy a text by a program that is there; return its name, or None where none did it."""
    for command in _commands():
        try:
            subprocess.run(
                command,
                input=text.encode("utf-8", "replace"),
                stdout=subprocess.DEVNULL,  # it may live on, and would hold our pipe open
                stderr=subprocess.DEVNULL,
                timeout=PATIENCE_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return command[0]
    return None


def _commands() -> Iterator[list[str]]:
    """Yield what may copy here. Behind ssh a desktop is that of another machine."""
    known = []
    if "TMUX" in os.environ:
        known.append(["tmux", "load-buffer", "-w", "-"])
    if "SSH_CONNECTION" not in os.environ:
        if sys.platform == "darwin":
            known.append(["pbcopy"])
        if "WAYLAND_DISPLAY" in os.environ:
            known.append(["wl-copy"])
        if "DISPLAY" in os.environ:
            known += [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]]
    return (command for command in known if shutil.which(command[0]))


def sequence(text: str) -> str:
    """Return what has a terminal copy a text (OSC 52); in base64 no text can end it early."""
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_BYTES:
        raise RequestError(
            f"the answer is over {MAX_BYTES:,} bytes, the limit of most clipboards",
            hint="/save talk.md writes it to a file",
        )
    return f"\x1b]52;c;{base64.b64encode(data).decode('ascii')}\x07"
