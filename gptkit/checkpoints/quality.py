"""What each format of a model's weights costs, as measured: a small file beside the weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gptkit.checkpoints import hashes
from gptkit.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from gptkit.checkpoints.checkpoint import Checkpoint

FILE = "quality.json"


class Quality(BaseModel):
    """The perplexity of a model on one text, by the dtype that it was computed in."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    """The name of the text's file."""
    n_tokens: int = Field(gt=0)
    perplexity: dict[str, float]
    weights: str
    """The hash of the files that were measured."""

    def losses(self) -> dict[str, float]:
        """Return by how much each perplexity is above that in float32, as a share of it."""
        base = self.perplexity["float32"]
        return {dtype: value / base - 1 for dtype, value in self.perplexity.items()}


def read(source: Checkpoint) -> Quality | None:
    """Return what was measured of these weights; None where nothing was, or of others."""
    path = source.path / FILE
    try:
        found = Quality.model_validate_json(path.read_bytes())
        found.losses()
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, LookupError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} is no record of a measurement",
            hint="delete it; gptkit models measure writes it anew",
        ) from error
    return found if found.weights == hashes.of_weights(source) else None


def write(source: Checkpoint, quality: Quality) -> Path:
    """Keep what was measured beside the weights; raise OSError where that can't be."""
    path = source.path / FILE
    partial = path.with_name(f".{FILE}.{os.getpid()}.tmp")
    try:
        partial.write_text(quality.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
