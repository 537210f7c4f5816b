"""Every system by turns, some rounds: a table of medians, ratios within a round, and a picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Group
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[3]
PICTURE = ROOT / "docs" / "images" / "speed.png"
ROUNDS = 5
DTYPES = {
    "float32": ("gptkit", "llama.cpp", "CTranslate2", "transformers"),
    "bfloat16": ("gptkit", "llama.cpp", "transformers"),
    "int8": ("gptkit", "llama.cpp", "CTranslate2"),
    "int4": ("gptkit", "llama.cpp"),
}
"""Who has what: bfloat16 in CTranslate2 needs other processors."""
MODULES = {"llama.cpp": "llama_cpp", "CTranslate2": "ctranslate2", "transformers": "transformers"}
ASKED: dict[str, tuple[Any, ...]] = {
    "1": ("rate", 1, 64),
    "4": ("rate", 4, 64),
    "16": ("rate", 16, 32),
    "64": ("rate", 64, 24),
    "first 64": ("first", 64),
    "first 512": ("first", 512),
}
COLOURS = {"gptkit": "C0", "llama.cpp": "C1", "CTranslate2": "C2", "transformers": "0.6"}

Key = tuple[str, str]
"""A dtype and a system."""


class Worker:
    """A process that holds one system."""

    def __init__(self, dtype: str, system: str, folder: Path, threads: int) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.peers.worker"]
        self.process = subprocess.Popen(
            [*command, system, dtype, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.start: dict[str, float] = self._answer()

    def ask(self, *question: Any) -> float:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())


def table() -> Group:
    """Measure, write the picture, and return figures and ratios."""
    from tests.benchmarks.peers.weights import write

    threads = torch.get_num_threads()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        write(folder)
        workers = {
            (dtype, system): stack.enter_context(Worker(dtype, system, folder, threads))
            for dtype, systems in DTYPES.items()
            for system in systems
            if system not in MODULES or find_spec(MODULES[system])
        }
        found: dict[tuple[Key, str], list[float]] = defaultdict(list)
        reading = []
        for i in range(ROUNDS):
            reading.append(_reading())
            turns = list(workers.items())[:: -1 if i % 2 else 1]
            for what, question in ASKED.items():
                for key, worker in turns:
                    found[key, what].append(worker.ask(*question))
        starts = {key: worker.start for key, worker in workers.items()}
    _draw({key: median(values) for key, values in found.items()}, list(workers))
    limit = f"memory is read at {median(reading) / 1e9:.0f} GB/s ({threads} threads, torch's amax)"
    tables = _figures(found, starts), _ratios(found, list(workers))
    return Group(*tables, limit, f"wrote {PICTURE.name}")


def _reading() -> float:
    """Return how many bytes a second can be read: one token reads all weights once."""
    numbers = torch.ones(2**27)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        numbers.amax()
        seconds.append(time.perf_counter() - start)
    return numbers.nbytes / median(seconds)


def _figures(
    found: dict[tuple[Key, str], list[float]], starts: dict[Key, dict[str, float]]
) -> Table:
    out = Table(
        "124M shape",
        *("1 seq.", "4", "16", "64", "first of 64", "of 512", "memory", "load"),
        title="tokens/s, prompts of 64, greedy; seconds to a first token; MiB; seconds",
        title_justify="left",
    )
    for key, start in starts.items():
        dtype, system = key
        values = {what: median(found[key, what]) for what in ASKED}
        out.add_row(
            f"{system} {dtype}",
            *(f"{values[what]:,.0f}" for what in ("1", "4", "16", "64")),
            *(f"{values[what]:.3f}" for what in ("first 64", "first 512")),
            f"{start['memory'] / 2**20:,.0f}",
            f"{start['load']:.2f}",
        )
    return out


def _ratios(found: dict[tuple[Key, str], list[float]], keys: list[Key]) -> Table:
    """Return how many times as fast gptkit is as each other, in the median of the rounds."""
    out = Table(
        "gptkit against",
        *("1 seq.", "4", "16", "64", "first of 64", "of 512"),
        title="how many times as fast, at equal precision",
        title_justify="left",
    )
    for dtype, system in keys:
        if system == "gptkit":
            continue
        cells = []
        for what in ASKED:
            pairs = zip(found[(dtype, "gptkit"), what], found[(dtype, system), what], strict=True)
            is_time = what.startswith("first")
            cells.append(f"{median(b / a if is_time else a / b for a, b in pairs):.2f}")
        out.add_row(f"{system} {dtype}", *cells)
    return out


def _draw(values: dict[tuple[Key, str], float], keys: list[Key]) -> None:
    """Draw rates of one sequence and of 16, and the time to a first token, by dtype."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = {
        "1": "1 sequence: tokens/s",
        "16": "16 sequences: tokens/s together",
        "first 512": "seconds to the first token after 512",
    }
    for axis, (what, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        _bars(axis, {key: values[key, what] for key in keys})
        axis.set_title(title, fontsize=9, loc="left")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(f"GPT-2's 124M shape, 2 cores with AVX-512, {date.today()}", fontsize=9)
    figure.savefig(PICTURE, dpi=110)


def _bars(axis: Axes, values: dict[Key, float]) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    named = set()
    for place, dtype in enumerate(DTYPES):
        systems = [system for one, system in values if one == dtype]
        for i, system in enumerate(systems):
            at = place + (i - (len(systems) - 1) / 2) * 0.2
            label = None if system in named else system
            axis.bar(at, values[dtype, system], 0.18, color=COLOURS[system], label=label)
            named.add(system)
    axis.set_xticks(range(len(DTYPES)), list(DTYPES), fontsize=8)
