"""`make bench`: every figure that the docs quote, measured side by side in one run.

`python -m tests.benchmarks NAME ...` runs some of its PARTS.
"""

from __future__ import annotations

import platform
import sys
from datetime import date

import torch
from rich.console import Console

from tests.benchmarks import agreement, chat, engine, jobs, learning, startup
from tests.benchmarks.peers import comparison

PARTS = {
    "agreement": agreement.table,
    "startup": startup.table,
    "engine": engine.table,
    "chat": chat.table,
    "jobs": jobs.table,
    "learning": learning.table,
    "peers": comparison.table,
}


def main(names: list[str]) -> None:
    console = Console(width=100)
    console.print(
        f"{date.today()}  {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
    for name in names or PARTS:
        console.print(PARTS[name]())


main(sys.argv[1:])
