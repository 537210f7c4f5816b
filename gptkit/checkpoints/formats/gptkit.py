"""gptkit's own checkpoint: gptkit.json, model.safetensors, tokenizer/, manifest.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from gptkit.checkpoints import safe_load, settings
from gptkit.checkpoints.checkpoint import Checkpoint
from gptkit.checkpoints.layout import tensor_shapes
from gptkit.checkpoints.manifest import read_manifest
from gptkit.config import Settings
from gptkit.errors import CheckpointError
from gptkit.model.config import GPTConfig

CONFIG = "gptkit.json"
TOKENIZER = "tokenizer"
FORMAT = 1

Name = Field(None, max_length=200, pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*/)?[a-z][a-z0-9_]*$")
"""A plugin's name, or `distribution/name`; never a path."""


class CheckpointSettings(Settings):
    """What gptkit.json holds."""

    format: int = Field(ge=1, description="number of the format")
    config: GPTConfig
    tokenizer: str | None = Name
    bos_id: int | None = Field(None, ge=0)
    eos_ids: tuple[int, ...] = Field((), strict=False, max_length=1000)
    chat_template: str | None = Name
    sampling: tuple[str | dict[str, Any], ...] | None = Field(None, strict=False, max_length=100)

    @model_validator(mode="after")
    def _ids_are_tokens(self) -> CheckpointSettings:
        bos = () if self.bos_id is None else (self.bos_id,)
        for token_id in (*bos, *self.eos_ids):
            if not 0 <= token_id < self.config.vocab_size:
                raise ValueError(
                    f"token {token_id} is not in a vocabulary of {self.config.vocab_size}"
                )
        return self


def beside(folder: Path, what: Literal["tmp", "old"]) -> Path:
    """Return where a save of `folder` writes, and where it puts what it replaces."""
    full = Path(os.path.abspath(folder))
    return full.with_name(f".{full.name}.{what}")


def read(folder: Path, weights: str | None = None) -> Checkpoint:
    """Describe a folder that has a gptkit.json; `weights` names another file than the usual."""
    data, raw = safe_load.read_json(folder, CONFIG)
    path = folder / CONFIG
    number = data.get("format")
    if type(number) is int and number > FORMAT:
        raise CheckpointError(
            f"{path}: format {number:,} is newer than {FORMAT}, the newest that this gptkit reads",
            hint="upgrade gptkit",
        )
    if isinstance(data.get("config"), dict):
        data["config"] = settings.without_flood(data["config"], GPTConfig.model_fields)
    said = settings.build(CheckpointSettings, data, path, raw)
    files = safe_load.find_weights(folder, weights)
    found = {name: info for file in files for name, info in file.tensors.items()}
    shapes = tensor_shapes(said.config)
    safe_load.check_tensors(shapes, found, str(files[0].path))
    manifest, notes = read_manifest(folder), []
    if manifest is None:
        notes.append(f"{folder} has no manifest.json, so its files can't be verified")
    else:
        manifest.check_sizes(folder, [CONFIG, *(file.path.name for file in files)])
    has_tokenizer = said.tokenizer is not None and os.path.isdir(folder / TOKENIZER)
    return Checkpoint(
        path=folder,
        format="gptkit",
        config=said.config,
        files=tuple(files),
        names={name: name for name in shapes},
        tokenizer_name=said.tokenizer,
        tokenizer_path=folder / TOKENIZER if has_tokenizer else None,
        bos_id=said.bos_id,
        eos_ids=said.eos_ids,
        chat_template=said.chat_template,
        sampling=said.sampling,
        manifest=manifest,
        notes=tuple(notes),
    )
