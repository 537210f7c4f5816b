"""Where models lie: a path, the models that ship in the package, the models in the home folder."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
from pathlib import Path

from gptkit.checkpoints.formats.gptkit import CONFIG, beside
from gptkit.checkpoints.strict_json import shown
from gptkit.config import home
from gptkit.errors import CheckpointError, did_you_mean
from gptkit.model.config import NAMED_SIZES

DEFAULT = "mini"
"""The bundled model that serves where none is named."""


def find(name: str | None) -> Path:
    """Return the folder or file that `-m NAME` means: a path, a bundled model, a model at home.

    Raise CheckpointError with a suggestion where there is none.
    """
    name = name or DEFAULT
    path = Path(os.path.expanduser(name))
    # A save that was killed between its two renames left the model beside its place.
    if os.path.lexists(path) or os.path.isdir(beside(path, "old")):
        return path
    is_path = str(path) != path.name or name != path.name
    if not is_path:
        for found, place in installed():
            if found == name:
                return place
    raise CheckpointError(
        f"no such model directory: {shown(name)}", hint=_hint(name, path, is_path)
    )


def bundled() -> list[tuple[str, Path]]:
    """Return name and folder of the models in the package."""
    folder = Path(str(importlib.resources.files("gptkit.bundled")))
    return [(name, place) for name, place in _models(folder) if (place / CONFIG).is_file()]


def at_home() -> list[tuple[str, Path]]:
    """Return name and folder of the models in the home folder."""
    return _models(home() / "models")


def installed() -> list[tuple[str, Path]]:
    """Return all models that a name finds; a bundled one goes before its namesake at home."""
    ours = bundled()
    names = {name for name, _ in ours}
    return ours + [(name, place) for name, place in at_home() if name not in names]


def _models(folder: Path) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        return []
    places = (place for place in folder.iterdir() if place.is_dir())
    return sorted((place.name, place) for place in places if place.name[0] not in "._")


def _hint(name: str, path: Path, is_path: bool) -> str:
    if name in NAMED_SIZES:
        return f"{name} is the name of a size here; put its files into {home() / 'models' / name}"
    with contextlib.suppress(OSError):
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
        near = did_you_mean(path.name, sorted(siblings))
        if near and is_path:
            return near.replace("'", f"'{shown(os.path.join(path.parent, ''))}", 1)
        if near:
            return near
    names = [known for known, _ in installed()]
    either = f"a path or one of: {', '.join(names)}" if names else "the path of a model directory"
    return did_you_mean(name, names) or f"`-m` takes {either}"
