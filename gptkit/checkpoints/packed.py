"""Packed weights on disk, so that a large model is packed once: beside the model, or in the cache.

The file is safetensors, a tensor of bytes for each matrix, in the layout of the CPU kernels. Its
name says which weights it was made of. Where the cache can't be written, the model is packed again
the next time.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from gptkit.checkpoints import hashes, safe_load
from gptkit.checkpoints.save import save_packed
from gptkit.config import home
from gptkit.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from gptkit.checkpoints.checkpoint import Checkpoint

LAYOUT = 1
"""Files of another layout are not looked for."""
KEPT_FROM = 10_000_000
"""Weights; a smaller model is packed in a moment, and not put into the cache."""


def beside(source: Checkpoint, dtype: str) -> Path:
    """Return where packed weights stand beside their model."""
    digest = hashes.of_weights(source)
    return source.path / f"packed-{dtype}-{digest[:16]}.{LAYOUT}.safetensors"


def find(source: Checkpoint, dtype: str, sizes: Mapping[str, int]) -> dict[str, Tensor] | None:
    """Return the packed matrices of a model, memory-mapped, where they are on disk.

    `sizes` are their bytes. A file that is damaged is as good as none.
    """
    for place in places(source, dtype):
        with contextlib.suppress(CheckpointError):
            file = safe_load.read_header(place.parent, place.name)
            if {name: info.shape for name, info in file.tensors.items()} == {
                name: (n,) for name, n in sizes.items()
            }:
                return safe_load.load_tensors([file], {name: name for name in sizes})
    return None


def places(source: Checkpoint, dtype: str) -> list[Path]:
    """Return the files that there are of a dtype: the one beside the model goes first."""
    is_small = source.config.n_params() < KEPT_FROM
    if is_small and not any(source.path.glob(f"packed-{dtype}-*")):
        return []  # and the weights need not be read for their hash
    path = beside(source, dtype)
    return [place for place in (path, _cached(path)) if os.path.lexists(place)]


def keep(source: Checkpoint, dtype: str, packed: Mapping[str, Tensor]) -> None:
    """Put packed matrices into the cache, if there is room, and the model is worth it."""
    if source.config.n_params() >= KEPT_FROM:
        path = _cached(beside(source, dtype))
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_packed(path, packed)


def _cached(path: Path) -> Path:
    return home() / "cache" / "packed" / path.name
