"""The manifest of an output: what it was made of and with, and how to know it again."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from gptkit.checkpoints import hashes
from gptkit.errors import CheckpointError
from gptkit.jobs.files import sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1
_FORMAT_KEY = "gptkit_manifest"


def write(path: Path, said: Mapping[str, Any]) -> None:
    """Put a manifest in place, whole; raise OSError where that fails."""
    data = json.dumps({_FORMAT_KEY: FORMAT, **said}, indent=1, ensure_ascii=False, default=str)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(data.encode("utf-8", "surrogatepass") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read(path: Path) -> dict[str, Any] | None:
    """Return what a manifest says, or None where there is none of ours that can be read."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and said.get(_FORMAT_KEY) == FORMAT else None


def describe(output: Path) -> dict[str, Any]:
    """Return what an output is known by: size, time and digest."""
    found = output.stat()
    return {
        "file": output.name,
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "sha256": hashes.of_file(output),
    }


def is_unchanged(output: Path, said: Mapping[str, Any]) -> bool:
    """Return whether an output is the one that a manifest describes.

    Its bytes are read only where its time is another one, as after a copy.
    """
    try:
        found = output.stat()
        if found.st_size != said["bytes"]:
            return False
        if found.st_mtime_ns == said["mtime_ns"]:
            return True
        return hashes.of_file(output) == str(said["sha256"])
    except (OSError, KeyError, CheckpointError):
        return False
