"""What `gptkit sampler compare` shows: a table in 80 columns, and a record for programs."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from gptkit.cli.sampler_view import bits
from gptkit.text.safe import safe_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from gptkit.decoding.comparison import Figures, Walk

NAME_WIDTH = 16


def print_comparison(
    model: str, seed: int, walks: Sequence[Walk], figures: Sequence[Figures]
) -> None:
    """Print one table, a column for each chain; as many columns as the screen has room for."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    rows = [_column(one) for one in figures]
    at = 0
    while at < len(figures):
        n = _n_fitting(console, figures[at:])
        console.print(_comparison_table(figures[at : at + n], rows[at : at + n]))
        console.print()
        at += n
    for one in figures:
        chain = " ".join(stage.brief for stage in one.chain if not stage.is_off)
        console.print(Text(safe_line(f"{one.name}: {chain}"), style="dim"))
    said = f"{_n_rows(walks):,} rows, {len(walks)} prompts, model {model}, seed {seed}"
    console.print(Text(f"{said}; without a chain the entropy is {bits(_raw_entropy(walks))}"))


def _n_fitting(console: Console, figures: Sequence[Figures]) -> int:
    width, n = max(map(len, _column(figures[0]))), 0
    for one in figures:
        cells = (one.name[:NAME_WIDTH], *_column(one).values())
        width += 2 + max(map(len, cells))
        if width > console.width:
            break
        n += 1
    return max(1, n)


def _comparison_table(figures: Sequence[Figures], rows: Sequence[dict[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("", box=None, pad_edge=False)
    for one in figures:
        table.add_column(Text(safe_line(one.name)), justify="right", max_width=NAME_WIDTH)
    refused = any(one.n_failed for one in figures)
    for label in rows[0]:
        if label != "rows refused" or refused:
            table.add_row(label, *(row[label] for row in rows))
    return table


def _column(one: Figures) -> dict[str, str]:
    """Return what a chain came to, by what each figure is called."""

    def mean(values: Sequence[float]) -> float:
        return statistics.fmean(values) if values else math.nan

    median = statistics.median(one.survivors) if one.survivors else math.nan
    return {
        "tokens left, mean": f"{mean(one.survivors):,.1f}",
        "tokens left, median": f"{median:,.0f}",
        "entropy": bits(mean(one.entropy)),
        "mass removed": f"{100 * mean(one.removed):.1f} %",
        "best token kept": f"{100 * one.agreement:.1f} %",
        "distinct-1": f"{one.distinct(1):.3f}",
        "distinct-2": f"{one.distinct(2):.3f}",
        "distinct-3": f"{one.distinct(3):.3f}",
        "repetition (4-grams)": f"{one.repetition():.3f}",
        **{f"ms a step, {n} row{'s' * (n > 1)}": f"{ms:.2f}" for n, ms in one.cost_ms.items()},
        "rows refused": f"{one.n_failed:,}",
    }


def _n_rows(walks: Sequence[Walk]) -> int:
    return sum(len(walk.rows) for walk in walks)


def _raw_entropy(walks: Sequence[Walk]) -> float:
    """Return the mean entropy of the recorded rows, in nats."""
    return statistics.fmean(value for walk in walks for value in walk.entropy())


def comparison_record(
    model: str, seed: int, walks: Sequence[Walk], figures: Sequence[Figures]
) -> dict[str, Any]:
    """Return what `print_comparison` prints, for programs; entropies in nats."""

    def mean(values: Sequence[float]) -> float | None:
        return statistics.fmean(values) if values else None

    return {
        "model": model,
        "seed": seed,
        "prompts": len(walks),
        "rows": _n_rows(walks),
        "model_entropy_nats": _raw_entropy(walks),
        "chains": [
            {
                "name": one.name,
                "chain": [str(stage) for stage in one.chain],
                "survivors": {
                    "mean": mean(one.survivors),
                    "median": statistics.median(one.survivors) if one.survivors else None,
                },
                "entropy_nats": mean(one.entropy),
                "removed_mass": mean(one.removed),
                "argmax_agreement": one.agreement if one.survivors else None,
                "rows_refused": one.n_failed,
                "distinct": {str(n): one.distinct(n) for n in (1, 2, 3)},
                "seq_rep_4": one.repetition(),
                "ms_per_step": {str(n): round(ms, 4) for n, ms in one.cost_ms.items()},
                "tokens": sum(map(len, one.texts)),
            }
            for one in figures
        ],
    }
