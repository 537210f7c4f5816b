"""A text in the user's own editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from gptkit.errors import ConfigError, ResourceError

NAMES = ("VISUAL", "EDITOR")
DEFAULT = "vi"


def edited(text: str) -> str | None:
    """Let the user edit a text; return None where it stayed as it was, or nothing is left."""
    name = next((name for name in NAMES if os.environ.get(name)), None)
    written = os.environ[name] if name else DEFAULT
    try:
        command = shlex.split(written)
    except ValueError as error:
        raise ConfigError(f"${name}: {error}", hint="such as EDITOR=nano") from error
    with tempfile.TemporaryDirectory(prefix="gptkit-") as folder:  # mode 0700
        path = Path(folder) / "turn.txt"
        path.write_text(text, encoding="utf-8")
        _run([*command, str(path)], written)
        try:
            new = path.read_bytes().decode("utf-8", "replace")
        except OSError as error:
            raise ResourceError(f"the editor left no text: {error.strerror}") from error
    if not text.endswith("\n"):
        new = new.removesuffix("\n")  # which most editors add
    return None if new == text or not new.strip() else new


def _run(command: list[str], written: str) -> None:
    try:
        code = subprocess.call(command)
    except OSError as error:
        raise ConfigError(
            f"can't run the editor '{written}': {error.strerror}",
            hint="set EDITOR to one that is installed, such as EDITOR=nano",
        ) from error
    if code:
        raise ResourceError(f"the editor '{written}' ended with {code}; nothing is changed")
