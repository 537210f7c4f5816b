"""How far a computation is: bars on a terminal, a line at times elsewhere, on stderr."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gptkit.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 1.0
"""What takes no longer shows no bar."""
LINE_EVERY_S = 10.0


def has_bars() -> bool:
    """Return whether stderr is a terminal that can draw over what it showed."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ


@contextmanager
def display(unit: str = "rows") -> Iterator[Callable[[str, int, int], None]]:
    """Give a function to call with what is being done, how much is, and how much there is."""
    with _bars(unit) if has_bars() else _lines(unit) as show:
        yield show


@contextmanager
def _lines(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    said = time.perf_counter()

    def show(what: str, n_done: int, n_all: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said >= LINE_EVERY_S:
            said = now
            options.say(f"{what}: {n_done:,}/{n_all:,} {unit}")

    yield show


@contextmanager
def _bars(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn(unit),
    )
    bar = rich.Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, rich.TaskID] = {}
    start = time.perf_counter()

    def show(what: str, n_done: int, n_all: int) -> None:
        if time.perf_counter() - start < PATIENCE_S:
            return
        bar.start()
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=n_all)
        bar.update(tasks[what], completed=n_done)

    try:
        yield show
    finally:
        bar.stop()
