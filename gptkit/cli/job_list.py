"""`gptkit run --list`: the jobs that ship with gptkit, each with the first line of its file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gptkit.jobs.spec import bundled_jobs

if TYPE_CHECKING:
    from pathlib import Path


def show_jobs(*, as_json: bool) -> None:
    """Print the bundled jobs, as a table or as JSON."""
    found = {name: (_about(path), path) for name, path in bundled_jobs().items()}
    if as_json:
        records = [{"name": n, "about": about, "path": str(p)} for n, (about, p) in found.items()]
        print(json.dumps(records, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "what it does", box=None, pad_edge=False)
    for name, (about, _) in found.items():
        table.add_row(name, Text(about))
    Console().print(table)


def _about(path: Path) -> str:
    """Return the comment that a job file begins with, its first line."""
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip().removesuffix(".")
