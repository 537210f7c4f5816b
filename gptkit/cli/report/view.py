"""What `gptkit report` shows on a terminal, and the record of it for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gptkit.cli.report.tables import QUANTILES, SPREADS, tables
from gptkit.text.safe import safe_line

if TYPE_CHECKING:
    import rich.table

    from gptkit.cli.report.tables import Table
    from gptkit.jobs.reports.figures import Example, Figures, Measures
    from gptkit.jobs.reports.report import Report
    from gptkit.jobs.reports.tally import Spread

TEXT_WIDTH, NAME_WIDTH = 16, 6
"""Columns that a text and a name have at least; numbers are never cut."""
GAP = 2


def print_report(report: Report) -> None:
    """Print the tables, one below the other."""
    from rich.text import Text

    from gptkit.cli.plugins.listing import console

    shown = console()
    for i, table in enumerate(tables(report)):
        if i:
            shown.print()
        shown.print(Text(table.title, style="bold"))
        shown.print(_drawn(table, shown.width))
        if table.note:
            shown.print(Text(table.note, style="dim"))


def _drawn(table: Table, width: int) -> rich.table.Table:
    """Return a table in which a text gives way to numbers where there is no room for both."""
    import rich.table
    from rich.cells import cell_len
    from rich.text import Text

    lines = [tuple(map(safe_line, line)) for line in (table.head, *table.lines)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for side, least in ((".", TEXT_WIDTH), ("<", NAME_WIDTH)):
        at = [i for i, one in enumerate(table.sides) if one == side and widths[i] > least]
        while at and sum(widths) + GAP * (len(widths) - 1) > width:
            widest = max(at, key=widths.__getitem__)
            widths[widest] -= 1
            at = [i for i in at if widths[i] > least]
    drawn = rich.table.Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for head, side, n in zip(lines[0], table.sides, widths, strict=True):
        drawn.add_column(
            Text(head),
            justify="right" if side == ">" else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=n,
        )
    for line in lines[1:]:
        drawn.add_row(*map(Text, line))
    return drawn


# The record -----------------------------------------------------------------------------------


def report_record(report: Report) -> dict[str, Any]:
    """Return all figures, for programs; log-probabilities and entropies in nats."""
    return {
        "outputs": [str(source.path) for source in report.sources],
        "finished": all(source.done for source in report.sources),
        "notes": report.notes,
        "rows": report.n_rows,
        "rows_compared": report.n_compared,
        "cells": [_cell_record(report, one) for one in report.cells.values()],
        "manifests": [dict(source.manifest) for source in report.sources],
    }


def _cell_record(report: Report, one: Figures) -> dict[str, Any]:
    return {
        "cell": dict(one.label),
        "rows": one.n_rows,
        "ok": one.n_ok,
        "failed": one.n_failed,
        "failures": {
            kind: {"rows": why.n_rows, "first_index": why.index, "message": why.message}
            for kind, why in one.failures.items()
        },
        "finish_reasons": dict(one.finish_reasons.most_common()),
        **{
            what.replace(" ", "_"): _spread_record(spread)
            for what, of in SPREADS.items()
            if (spread := of(one))
        },
        "answers": one.n_samples,
        "empty": one.n_empty,
        "repeated": {
            "rows": one.repeated.n_rows,
            "texts": one.repeated.n_texts,
            "most": one.repeated.most,
            "most_common": one.most_common,
        },
        "shortest": _example_record(one.shortest, "characters"),
        "longest": _example_record(one.longest, "characters"),
        "easiest": _example_record(one.easiest, "perplexity"),
        "hardest": _example_record(one.hardest, "perplexity"),
        "of_all_rows": _measures_record(one.own),
        "of_rows_compared": {
            **_measures_record(one.compared),
            "same_as_first": one.compared.n_same,
            "better_than_first": one.compared.n_better,
        }
        if report.n_compared
        else None,
    }


def _spread_record(spread: Spread) -> dict[str, Any]:
    quantiles = {name: spread.at(share) for name, share in QUANTILES.items()}
    return {**quantiles, "mean": spread.mean, "total": spread.total}


def _example_record(found: Example | None, unit: str) -> dict[str, Any] | None:
    if found is None:
        return None
    record = asdict(found)
    record[unit] = _finite(record.pop("size"))
    return record


def _measures_record(one: Measures) -> dict[str, Any]:
    return {
        "rows": one.n_rows,
        "mean_new_tokens": _finite(one.mean_new_tokens),
        "distinct_1": _finite(one.grams.distinct(1)),
        "distinct_2": _finite(one.grams.distinct(2)),
        "distinct_is_exact": one.grams.is_exact,
        "different_samples": _finite(one.mean_different),
        "mean_logprob": _finite(one.mean_logprob),
        "mean_entropy_at_least": _finite(one.mean_entropy),
        "scored_tokens": one.likelihood.n_tokens,
        "perplexity": _finite(one.likelihood.perplexity),
        "bits_per_byte": _finite(one.likelihood.bits_per_byte),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
