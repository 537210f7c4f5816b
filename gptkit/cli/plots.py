"""Pictures of traces and comparisons, drawn by matplotlib into a PNG or SVG file."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gptkit.decoding.comparison import Figures
    from gptkit.decoding.inspection import Inspection

SUFFIXES = (".png", ".svg")
DPI = 150
LN2 = math.log(2)


def check(path: Path) -> None:
    """Refuse, before anything is computed, a file that can't be drawn."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"--plot {path}: the name tells what to draw", hint=f"end it in {' or '.join(SUFFIXES)}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}", hint="make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed", hint='pip install "gptkit[plots]"'
        )


def draw_comparison(path: Path, figures: Sequence[Figures]) -> None:
    """Draw what chains leave, how diverse they are and what they cost."""
    figure, ((left, entropy), (words, cost)) = _panels(2, 2, (9, 6.5))
    names = [one.name for one in figures]
    for i, one in enumerate(figures):
        for axis, values in (
            (left, one.survivors),
            (entropy, [nats / LN2 for nats in one.entropy]),
        ):
            shares = [(n + 1) / len(values) for n in range(len(values))]
            axis.step(sorted(values), shares, where="post", color=f"C{i}", label=one.name)
    left.set(xscale="log", xlabel="tokens left", ylabel="share of the rows", ylim=(0, 1.02))
    entropy.set(xlabel="entropy after the chain, bits", ylim=(0, 1.02))
    left.legend(frameon=False, fontsize=8)
    groups = {f"distinct-{n}": [one.distinct(n) for one in figures] for n in (1, 2, 3)}
    groups["repeated\n4-grams"] = [one.repetition() for one in figures]
    _bars(words, groups, names)
    words.set(ylabel="share", ylim=(0, 1.02))
    costs = {
        f"{n} row{'s' * (n > 1)}": [one.cost_ms[n] for one in figures] for n in figures[0].cost_ms
    }
    _bars(cost, costs, names)
    cost.set(ylabel="ms for each step")
    _save(figure, path)


def draw_trace(path: Path, shown: Sequence[Inspection], name: Callable[[int], str]) -> None:
    """Draw the chosen token's probability, and what is left, stage by stage."""
    figure, ((p, left),) = _panels(1, 2, (9, 3.6))
    for i, one in enumerate(shown):
        labels = [view.stage.brief if view.stage else "model" for view in one.stages]
        at = range(len(labels))
        label = f"{one.n} {name(one.token_id)}"
        line = {"marker": "o", "markersize": 4, "color": f"C{i % 10}", "label": label}
        p.plot(at, [view.trace.p_after for view in one.stages], **line)
        left.plot(at, [view.trace.survivors for view in one.stages], **line)
    p.set(ylabel="probability of the token", ylim=(0, 1.02))
    left.set(yscale="log", ylabel="tokens left")
    for axis in (p, left):
        axis.set_xticks(list(at), labels, rotation=30, ha="right", fontsize=8)
    p.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _panels(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: it would look for a screen

    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.25)
    return figure, axes


def _bars(axis: Any, groups: dict[str, list[float]], names: Sequence[str]) -> None:
    """Draw a group of bars for each entry, a bar in it for each name."""
    width = 0.8 / len(names)
    for i, _ in enumerate(names):
        at = [n + (i - (len(names) - 1) / 2) * width for n in range(len(groups))]
        axis.bar(at, [values[i] for values in groups.values()], width * 0.92, color=f"C{i}")
    axis.set_xticks(range(len(groups)), list(groups), fontsize=8)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=DPI, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise ResourceError(f"can't write {path}: {error.strerror or error}") from error
