"""Whether a model and its cache fit in memory, and what becomes of freed memory. No torch."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from gptkit.errors import ResourceError

MEMINFO = Path("/proc/meminfo")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_BLOCK, _MOST_KEPT = 32 << 20, 256 << 20


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


def keep_freed() -> None:
    """Let the process keep the memory that a step frees, for the next step asks for it again.

    glibc would hand what is above some hundred kilobytes back to the system, and each page of it
    comes back zeroed: 16 rows of logits over 50,257 tokens in four stages cost 2,300 pages, 4 ms
    and more of each step. Blocks above 32 MiB are handed back as ever.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
