"""How long the commands take that must answer at once."""

from __future__ import annotations

import subprocess
import sys
import time

from rich.table import Table

COMMANDS = (["--help"], ["plugins", "list"], ["models", "list"], ["run", "--help"])


def table() -> Table:
    out = Table("start to exit", "best of 5, s", "wanted below", title_justify="left")
    for command in COMMANDS:
        out.add_row(f"gptkit {' '.join(command)}", f"{_best(command):.3f}", "0.25")
    return out


def _best(command: list[str]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "gptkit", *command], check=True, stdout=subprocess.DEVNULL
        )
        times.append(time.perf_counter() - start)
    return min(times)
