"""Tokenizers by what users write, NAME or NAME:PATH, and by what a checkpoint says of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gptkit.errors import CheckpointError, ConfigError, GptkitError, PluginError

if TYPE_CHECKING:
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.plugin_api import Tokenizer
    from gptkit.plugin_host import Registry


def load_tokenizer(spec: str, registry: Registry) -> Tokenizer:
    """Return the tokenizer that `NAME` or `NAME:PATH` names, through the registry."""
    name, colon, path = spec.partition(":")
    if colon and not path:
        raise ConfigError(f"tokenizer '{spec}' has no path after the colon", hint=f"'{name}:PATH'")
    return _load(name, Path(path) if path else None, registry)


def own_tokenizer(source: Checkpoint, registry: Registry) -> Tokenizer:
    """Return the tokenizer whose files lie in a model's folder."""
    if source.tokenizer_name is None:
        raise CheckpointError(
            f"{source.path} has no tokenizer files", hint="name one: --tokenizer NAME:PATH"
        )
    return _load(source.tokenizer_name, source.tokenizer_path, registry)


def _load(name: str, path: Path | None, registry: Registry) -> Tokenizer:
    offer = registry.find("tokenizer", name)
    if path is not None and not path.exists():
        raise CheckpointError(
            f"tokenizer {name}: no such file or folder: {path}",
            hint="give the file, or the folder that has it",
        )
    kind: type[Tokenizer] = offer.value
    try:
        return kind.load(path)
    except GptkitError:
        raise
    except Exception as error:  # a plugin's code, which may raise anything
        raise PluginError(
            f"tokenizer '{name}' of '{offer.source.owner}' can't load "
            f"{path or 'without a path'}: {type(error).__name__}: {error}",
            hint=f"gptkit plugins show {name} says what it is",
        ) from error
