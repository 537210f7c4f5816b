"""Whether a model and its cache fit in memory, asked before they are made. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from gptkit.errors import ResourceError

MEMINFO = Path("/proc/meminfo")


def free_bytes() -> int | None:
    """Return the memory that can be had without swapping, or None where nobody says."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text("ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return int(found[1]) * 1024 if found else None


def check(what: str, n_bytes: int, hint: str) -> None:
    """Raise ResourceError if `what` needs more than is free."""
    free = free_bytes()
    if free is not None and n_bytes > free:
        raise ResourceError(
            f"{what} needs about {n_bytes / 1e9:,.1f} GB, {free / 1e9:,.1f} GB free", hint=hint
        )
