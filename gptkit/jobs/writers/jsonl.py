"""JSONL: the output row as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gptkit.jobs.writers.packed import Put


def write(put: Put, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write each row as a line."""
    for row in rows:
        put(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
