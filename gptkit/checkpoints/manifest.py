"""`manifest.json`: size and sha256 of every other file of our checkpoint, written last."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptkit.checkpoints import safe_load
from gptkit.checkpoints.strict_json import shown
from gptkit.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MANIFEST = "manifest.json"
_HINT = f"copy it again; or, if you changed it yourself, delete {MANIFEST}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of one file."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a checkpoint, by their path in its folder."""

    files: Mapping[str, Entry]

    def check_sizes(self, folder: Path, read: Iterable[str]) -> None:
        """Check that all files are there at their size, and that all we `read` are listed."""
        for name, entry in self.files.items():
            path = safe_load.checked_path(folder, name)
            found = path.stat().st_size
            if found != entry.n_bytes:
                said = f"{path} is {found:,} bytes, {MANIFEST} says {entry.n_bytes:,}"
                raise CheckpointError(said, hint=_HINT)
        for name in read:
            if name not in self.files:
                raise CheckpointError(f"{folder / MANIFEST} lacks {shown(name)}", hint=_HINT)

    def verify(self, folder: Path, *, max_weights_bytes: int | None = None) -> None:
        """Compare each file with its hash, but for safetensors files above `max_weights_bytes`."""
        for name, entry in self.files.items():
            is_big = max_weights_bytes is not None and entry.n_bytes > max_weights_bytes
            if is_big and name.endswith(".safetensors"):
                continue
            path = safe_load.checked_path(folder, name)
            if safe_load.sha256(path) != entry.sha256:
                raise CheckpointError(
                    f"{path} is damaged: its sha256 is not what it was", hint=_HINT
                )


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder, or None where there is none."""
    if not os.path.lexists(folder / MANIFEST):
        return None
    data, _ = safe_load.read_json(folder, MANIFEST)
    files = data.get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{folder / MANIFEST}: 'files' is not an object", hint=_HINT)
    return Manifest({name: _entry(folder, name, entry) for name, entry in files.items()})


def _entry(folder: Path, name: str, entry: object) -> Entry:
    if not isinstance(entry, dict) or "\0" in name:
        raise CheckpointError(f"{folder / MANIFEST}: bad entry '{shown(name)}'", hint=_HINT)
    n_bytes, digest = entry.get("bytes"), entry.get("sha256")
    if type(n_bytes) is not int or not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
        raise CheckpointError(f"{folder / MANIFEST}: bad entry '{shown(name)}'", hint=_HINT)
    return Entry(n_bytes, str(digest))


def describe(folder: Path, names: Iterable[str]) -> bytes:
    """Return the text of a manifest of the named files, which must be complete on disk."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": safe_load.sha256(folder / name)}
        for name in sorted(names)
    }
    return json.dumps({"files": files}, indent=1).encode() + b"\n"
