"""A model on disk, described without opening its weights' data; `load` maps them. No torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit.checkpoints import header, safe_load
from gptkit.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from gptkit.checkpoints.header import TensorInfo
    from gptkit.checkpoints.manifest import Manifest
    from gptkit.checkpoints.safe_load import WeightsFile
    from gptkit.model.config import GPTConfig

VERIFIED_BYTES = 64_000_000
"""Up to this size `load` compares the hashes of our own checkpoint's weights: 0.2 s at most."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory whose names, shapes and dtypes were compared with its config."""

    path: Path
    format: str
    config: GPTConfig
    files: tuple[WeightsFile, ...]
    names: Mapping[str, str]
    """Our name of each tensor to the file's."""
    tokenizer_name: str | None = None
    tokenizer_path: Path | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    sampling: tuple[str | dict[str, Any], ...] | None = None
    """The chain that the model's author recommends, as YAML would have it."""
    manifest: Manifest | None = None
    notes: tuple[str, ...] = field(default=())
    """What a user should know of this checkpoint, one line each."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights' files."""
        return sum(file.n_bytes for file in self.files)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What the weights are stored in, sorted."""
        return tuple(sorted({header.DTYPES[info.dtype] for info in self._used()}))

    def n_elements(self, *, stored_not_as: str) -> int:
        """Count the numbers of all weights that are stored in another dtype than this."""
        return sum(
            math.prod(info.shape)
            for info in self._used()
            if header.DTYPES[info.dtype] != stored_not_as
        )

    def _used(self) -> Iterator[TensorInfo]:
        used = set(self.names.values())
        for file in self.files:
            yield from (info for key, info in file.tensors.items() if key in used)

    def load(self) -> dict[str, Tensor]:
        """Return the tensors by our names, memory-mapped, in the dtype that they are stored in.

        Everything that the manifest lists is verified first, weights above VERIFIED_BYTES apart.
        """
        if self.manifest is not None:
            self.manifest.verify(self.path, max_weights_bytes=VERIFIED_BYTES)
        tensors = safe_load.load_tensors(self.files, self.names)
        if self.config.tied and (head := tensors.pop("lm_head.weight", None)) is not None:
            self._check_head(tensors["wte.weight"], head)
        return tensors

    def verify(self) -> None:
        """Compare every file that the manifest lists with its sha256; raise CheckpointError."""
        if self.manifest is None:
            raise CheckpointError(f"{self.path} has no manifest.json to verify its files with")
        self.manifest.verify(self.path)

    def load_extra(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a further safetensors file, such as training's optimizer state."""
        file = safe_load.read_header(self.path, name)
        return safe_load.load_tensors([file], {key: key for key in file.tensors})

    def read_extra(self, name: str) -> dict[str, Any]:
        """Return the object in a further JSON file, such as training's state."""
        return safe_load.read_json(self.path, name)[0]

    def _check_head(self, embedding: Tensor, head: Tensor) -> None:
        import torch

        same = embedding.dtype == head.dtype and torch.equal(
            embedding.view(torch.uint8), head.view(torch.uint8)
        )
        if not same:
            raise CheckpointError(
                f"{self.path}: lm_head.weight is not wte.weight, but the config ties them",
                hint="set tie_word_embeddings to false in config.json, if the head is meant",
            )


def open_checkpoint(path: Path) -> Checkpoint:
    """Describe the model in a directory, or in a weights file inside one.

    Raise CheckpointError, naming the file, for what can't be loaded.
    """
    from gptkit.checkpoints.formats import gptkit, huggingface

    if not os.path.lexists(path):
        aside = gptkit.beside(path, "old")
        if not os.path.isfile(aside / gptkit.CONFIG):
            raise CheckpointError(f"no such model directory: {path}")
        # A save was killed between its two renames: what it was about to replace is whole.
        return open_checkpoint(aside)
    folder, weights = (path, None) if os.path.isdir(path) else (path.parent, path.name)
    if os.path.lexists(folder / gptkit.CONFIG):
        return gptkit.read(folder, weights)
    if os.path.lexists(folder / huggingface.CONFIG):
        return huggingface.read(folder, weights)
    safe_load.find_weights(folder, weights)
    raise CheckpointError(
        f"no {gptkit.CONFIG} or {huggingface.CONFIG} in {folder}, so the model's sizes are unknown"
    )
