"""Read a tokenizer's files; what they hold is checked by whoever asked for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 100_000_000
"""The largest vocabularies in use have files of some 20 MB."""


def refused(
    message: str, *, hint: str = "is it the right file, and whole? get it again where it came from"
) -> CheckpointError:
    """Return the error for a file that we refuse."""
    return CheckpointError(message, hint=hint)


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raise CheckpointError where it can't be a tokenizer's."""
    try:
        if path.exists() and not path.is_file():
            raise refused(f"{path} is not a file")
        if path.stat().st_size > MAX_BYTES:
            raise refused(f"{path} is larger than {MAX_BYTES // 1_000_000} MB")
        data = path.read_bytes()
    except OSError as error:
        raise refused(f"can't read {path}: {error.strerror or error}") from error
    if data.startswith(b"version https://git-lfs"):
        raise refused(
            f"{path} is a Git LFS pointer ({len(data)} bytes), not a vocabulary",
            hint="git lfs pull fetches what it points to",
        )
    if data.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise refused(f"{path} is an HTML page, not a vocabulary", hint="download it again")
    return data


def read_text(path: Path) -> str:
    """Return a file's text, which must be UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(f"{path} is not UTF-8 at byte {error.start:,}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; a key given twice is refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise refused(f"{path}: {again!r} is given twice")
        return found

    try:
        data = json.loads(read_text(path), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise refused(
            f"{path}:{error.lineno}: not JSON (column {error.colno}: {error.msg})"
        ) from error
    except (RecursionError, ValueError) as error:
        raise refused(f"{path}: not JSON that we read ({error})") from error
    if not isinstance(data, dict):
        raise refused(f"{path}: expected an object, got a {type(data).__name__}")
    return data


def whole_numbers(where: str, data: Any) -> dict[str, int]:
    """Return a mapping of names to ids, or raise CheckpointError naming what is none."""
    if not isinstance(data, dict):
        raise refused(f"{where}: expected names with ids, got {type(data).__name__}")
    for key, value in data.items():
        if type(value) is not int or not 0 <= value < 1 << 24:
            raise refused(f"{where}: id {value!r} of {key!r} is not a whole number we use")
    return data


def write_json(path: Path, data: Any) -> None:
    """Write readable JSON; what is not ASCII is escaped, so that no editor can spoil it."""
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
