"""How long the commands take that must answer at once."""

from __future__ import annotations

import subprocess
import sys
import time

from rich.table import Table

from tests.cli.screen import Terminal, environment

COMMANDS = (["--help"], ["plugins", "list"], ["models", "list"], ["run", "--help"])


def table() -> Table:
    out = Table("start to exit", "best of 5, s", "wanted below", title_justify="left")
    for command in COMMANDS:
        out.add_row(f"gptkit {' '.join(command)}", f"{_best(command):.3f}", "0.25")
    key, prompt = (min(times) for times in zip(*(_chat() for _ in range(5)), strict=True))
    out.add_row("gptkit chat: the first key is shown", f"{key:.3f}", "0.4")
    out.add_row("gptkit chat: mini is there", f"{prompt:.3f}", "2.5")
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


def _chat() -> tuple[float, float]:
    """Return when a key that was typed at once is seen, and when the model can answer."""
    start = time.perf_counter()
    chat = Terminal([sys.executable, "-m", "gptkit", "chat", "--no-history"], env=environment())
    try:
        chat.type("h")
        chat.wait("> h")
        key = time.perf_counter() - start
        chat.wait("mini · ")
        return key, time.perf_counter() - start
    finally:
        chat.close()
