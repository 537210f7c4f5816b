"""What a JSON file says of a model -> strict settings; errors name file, line and key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gptkit.checkpoints.strict_json import key_lines
from gptkit.config import Document, KeyPath, Settings
from gptkit.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_UNKNOWN = 5

S = TypeVar("S", bound=Settings)


def build(cls: type[S], data: dict[str, Any], path: Path, raw: bytes) -> S:
    """Return the settings that `data` gives; `raw` are the bytes that it was read from."""
    data = without_flood(data, cls.model_fields)
    lines = key_lines(raw)
    places: dict[KeyPath, str] = {}
    for key, value in data.items():
        for at in ((key,), *((key, inner) for inner in (value if isinstance(value, dict) else ()))):
            if at[-1] in lines:
                places[at] = f"{path}:{lines[at[-1]]}"
    try:
        return Document(str(path), data, places).build(cls)
    except ConfigError as error:
        raise CheckpointError(str(error), hint=error.hint) from None


def without_flood(data: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Drop all but the first unknown keys: a hostile file has 100,000, each to be explained."""
    unknown = data.keys() - known.keys()
    dropped = set(sorted(unknown)[MAX_UNKNOWN:])
    return {key: value for key, value in data.items() if key not in dropped}
