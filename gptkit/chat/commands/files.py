"""Commands that read and write files, or the clipboard."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from gptkit.chat import save as saving
from gptkit.chat.events import Copied, Note, SessionEvent
from gptkit.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.chat.session import Session

MAX_FILE_BYTES = 8_000_000


def file(session: Session, rest: str) -> Iterator[SessionEvent]:
    """PATH [TEXT]: Say a text with the content of a file behind it, or the file alone."""
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise ConfigError(f"/file: {error}", hint="quote a path with blanks") from error
    if not words:
        raise ConfigError("/file needs a path", hint="such as /file notes.txt What is this?")
    content = _read(Path(words[0]).expanduser())
    yield from session.say("\n\n".join(filter(None, (" ".join(words[1:]), content))))


def save(session: Session, rest: str) -> Iterator[SessionEvent]:
    """FILE: Write NAME.yaml, the settings as a job, or NAME.md or .jsonl, the conversation."""
    if not rest:
        raise ConfigError("/save needs a file name", hint="such as talk.yaml, talk.md, talk.jsonl")
    path = saving.save(session, rest)
    yield Note(f"saved {path}")


def copy(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Copy the last answer to the clipboard."""
    answers = [turn for turn in session.conversation.path() if turn.role == "assistant"]
    if not answers:
        raise RequestError("there is no answer to copy")
    yield Copied(answers[-1].text)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"/file: {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"/file: {path} is over {MAX_FILE_BYTES // 10**6} MB, the limit")
    if b"\0" in data:
        raise ConfigError(f"/file: {path} is no text file")
    return data.decode("utf-8", "replace").strip()


COMMANDS = (file, save, copy)
