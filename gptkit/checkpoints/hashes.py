"""SHA-256 of files; those of large ones are remembered, so that a model is read for it once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from gptkit.checkpoints import safe_load
from gptkit.config import home

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gptkit.checkpoints.checkpoint import Checkpoint

REMEMBERED_BYTES = 16 * 2**20
"""A smaller file is read each time: 0.03 s at most."""
MAX_REMEMBERED = 1000
"""Files; those that were asked for last stay."""


def of_file(path: Path) -> str:
    """Return the hex digest of a file; raise CheckpointError where it can't be read."""
    if path.stat().st_size < REMEMBERED_BYTES:
        return safe_load.sha256(path)
    name, stamp = os.path.realpath(path), _stamp(path)
    known = _read_cache()
    found = known.pop(name, None)
    if isinstance(found, dict) and found.get("stamp") == stamp:
        digest = str(found["sha256"])
    else:
        digest = safe_load.sha256(path)
    if _stamp(path) == stamp:  # else somebody writes it just now
        known[name] = {"stamp": stamp, "sha256": digest}
        _write_cache(dict(list(known.items())[-MAX_REMEMBERED:]))
    return digest


def of_files(paths: Iterable[Path], folder: Path) -> str:
    """Return one digest of several files and their names in a folder, whatever their order."""
    lines = sorted(f"{of_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_weights(source: Checkpoint) -> str:
    """Return the digest of a model's weights."""
    return of_files([file.path for file in source.files], source.path)


def of_data(value: Any) -> str:
    """Return the digest of what JSON can say."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(path: Path) -> list[int]:
    """Return what changes with a file: nobody can set back its ctime."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _cache() -> Path:
    return home() / "cache" / "sha256.json"


def _read_cache() -> dict[str, Any]:
    try:
        known = json.loads(_cache().read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_cache(known: dict[str, Any]) -> None:
    """Put a new cache in the place of the old one; where that fails, files are read again."""
    path = _cache()
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(json.dumps(known, indent=0), encoding="utf-8")
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
