"""The tables of a report, as texts: a terminal and a page show the same ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptkit.cli.sampler_view import bits
from gptkit.jobs.reports.tally import Spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from gptkit.jobs.reports.figures import Example, Figures, Measures
    from gptkit.jobs.reports.report import Report

    Line = tuple[str, ...]

BARS = "▁▂▃▄▅▆▇█"
N_BARS = 12
QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
NOTHING, ALL = "-", "all"


@dataclass(frozen=True, slots=True)
class Table:
    """Lines of texts under a head.

    `sides` has for each column "<" for names, ">" for numbers, "." for texts, "▁" for bars.
    """

    title: str
    head: Line
    sides: str
    lines: list[Line]
    note: str = ""


def tables(report: Report) -> list[Table]:
    """Return the tables that have something to say."""
    made = [_cells(report), _failures(report), _finish_reasons(report), *_lengths(report)]
    made += [_perplexities(report), _answers(report), _examples(report)]
    return [table for table in made if table.lines]


def _cells(report: Report) -> Table:
    """Return what each cell came to, a line for each."""
    cells, axes = list(report.cells.values()), _axes(report)
    counts = {"rows": [one.n_rows for one in cells], "failed": [one.n_failed for one in cells]}
    columns = {name: [f"{n:,}" for n in ns] for name, ns in counts.items()}
    for measure in measures(report):
        columns[measure.name] = [measure.show(report.measures(one)) for one in cells]
    lines = [
        (*_names(report, one), *(column[i] for column in columns.values()))
        for i, one in enumerate(cells)
    ]
    sides = "<" * len(axes) + ">" * len(columns)
    return Table("Rows", (*axes, *columns), sides, lines, _basis(report))


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure that cells are compared by: `of` gives the number, `show` writes it.

    `name` is the head of a column, `title` that of a plot.
    """

    name: str
    title: str
    of: Callable[[Measures], float]
    show: Callable[[Measures], str]


def measures(report: Report) -> list[Measure]:
    """Return what the cells of a report can be compared by."""
    made = []
    all_ = [report.measures(one) for one in report.cells.values()]

    def add(
        name: str, title: str, of: Callable[[Measures], float], write: Callable[[float], str]
    ) -> None:
        made.append(Measure(name, title, of, lambda one: write(of(one))))

    if any(one.n_samples for one in all_):
        add("new tokens", "New tokens, mean", lambda one: one.mean_new_tokens, lambda x: real(x, 1))
        add("distinct-1", "Distinct-1", lambda one: one.grams.distinct(1), share)
        add("distinct-2", "Distinct-2", lambda one: one.grams.distinct(2), share)
    if any(one.n_several for one in all_):
        add(
            "different",
            "Different samples of a row",
            lambda one: one.mean_different,
            lambda x: real(x, 2),
        )
    if any(one.n_logprobs for one in all_):
        add(
            "logprob",
            "Log-probability of a token, nats",
            lambda one: one.mean_logprob,
            lambda x: real(x, 3),
        )
    if any(one.n_entropies for one in all_):
        add("entropy", "Entropy, at least", lambda one: one.mean_entropy, lambda x: f"≥ {bits(x)}")
    scores = any(one.likelihood.n_tokens for one in all_)
    if scores:
        add("perplexity", "Perplexity", lambda one: one.likelihood.perplexity, perplexity)
        add(
            "bits/byte",
            "Bits per byte",
            lambda one: one.likelihood.bits_per_byte,
            lambda x: real(x, 3),
        )
    if report.n_compared:
        name = "better" if scores else "same"
        title = "More probable than in the first cell" if scores else "Same as in the first cell"

        def counted(one: Measures) -> int:
            return one.n_better if scores else one.n_same

        made.append(
            Measure(
                name,
                title,
                lambda one: counted(one) / one.n_rows,
                lambda one: percent(counted(one), one.n_rows),
            )
        )
    return made


def _basis(report: Report) -> str:
    """Say which rows the figures are of."""
    if len(report.cells) == 1:
        return ""
    if not report.n_compared:
        return "no row was answered by every cell, so each has the figures of its own rows"
    on = f"figures are of the {report.n_compared:,} rows that every cell answered"
    if any(one.n_samples for one in report.cells.values()):
        return f"{on}; same: those with the first cell's answer"
    return f"{on}; better: those more probable than in the first cell"


def _failures(report: Report) -> Table:
    lines = [
        (*_names(report, one), kind, f"{why.n_rows:,}", f"{why.index:,}", why.message)
        for one in report.cells.values()
        for kind, why in sorted(one.failures.items(), key=lambda item: -item[1].n_rows)
    ]
    axes = _axes(report)
    head = (*axes, "error", "rows", "first row", "what it says")
    return Table("Errors", head, "<" * (len(axes) + 1) + ">>.", lines)


def _finish_reasons(report: Report) -> Table:
    cells, reasons = list(report.cells.values()), finish_reasons(report)
    axes = _axes(report)
    if len(cells) == 1:
        (one,) = cells
        lines: list[Line] = [
            (reason, f"{one.finish_reasons[reason]:,}", _share_of(one, reason))
            for reason in reasons
        ]
        return Table("Finish reasons", ("why it ended", "answers", "share"), "<>>", lines)
    lines = [
        (*_names(report, one), *(_share_of(one, why) for why in reasons))
        for one in cells
        if reasons
    ]
    sides = "<" * len(axes) + ">" * len(reasons)
    return Table("Finish reasons", (*axes, *reasons), sides, lines)


def finish_reasons(report: Report) -> list[str]:
    """Return the reasons of all cells, the most common one first."""
    counts: dict[str, int] = {}
    for one in report.cells.values():
        for reason, n in one.finish_reasons.items():
            counts[reason] = counts.get(reason, 0) + n
    return sorted(counts, key=lambda reason: (-counts[reason], reason))


def _share_of(one: Figures, reason: str) -> str:
    return percent(one.finish_reasons[reason], one.n_samples)


def _lengths(report: Report) -> list[Table]:
    """Return how long prompts and answers are: one table, or one for each with several cells."""
    axes, made = _axes(report), []
    for what in SPREADS:
        found = spreads(report, what)
        joined = Spread.joined(spread for _, spread in found)
        lines = []
        for one, spread in found:
            names = _names(report, one) if one else (ALL,) * len(axes)
            quantiles = (f"{spread.at(q):,}" for q in QUANTILES.values())
            bars = text_bars(spread, joined)
            lines.append((*names, *quantiles, real(spread.mean, 1), bars))
        head = (*axes, *QUANTILES, "mean", "")
        made.append(Table(what.capitalize(), head, "<" * len(axes) + ">" * 6 + "▁", lines))
    if axes:
        return made
    lines = [(table.title.lower(), *line) for table in made for line in table.lines]
    return [Table("Lengths", ("of a row", *QUANTILES, "mean", ""), "<>>>>>>▁", lines)]


def spreads(report: Report, what: str) -> list[tuple[Figures | None, Spread]]:
    """Return lengths of cells that have some; those of all cells, once, where they are the same."""
    found = [(one, SPREADS[what](one)) for one in report.cells.values()]
    first = found[0][1]
    if len(found) > 1 and first and all(spread == first for _, spread in found):
        return [(None, first)]
    return [(one, spread) for one, spread in found if spread]


def _perplexities(report: Report) -> Table:
    """Return how probable rows are, each for itself."""
    lines = []
    for one in report.cells.values():
        if one.millinats:
            quantiles = (perplexity(one.row_perplexity(q)) for q in QUANTILES.values())
            lines.append((*_names(report, one), *quantiles))
    axes = _axes(report)
    sides = "<" * len(axes) + ">" * len(QUANTILES)
    return Table("Perplexity of a row", (*axes, *QUANTILES), sides, lines)


SPREADS: dict[str, Callable[[Figures], Spread]] = {
    "prompt tokens": lambda one: one.prompt_tokens,
    "new tokens": lambda one: one.new_tokens,
    "tokens": lambda one: one.scored_tokens,
}
"""The lengths that a cell has, by what they are called."""


def text_bars(spread: Spread, all_: Spread) -> str:
    """Draw how often values are, in a few characters; they range over those of all cells."""
    _, counts = spread.bins(N_BARS, all_.at(0), all_.at(1))
    top = max(counts)
    return "".join(BARS[math.ceil(n / top * len(BARS)) - 1] if n else " " for n in counts)


def _answers(report: Report) -> Table:
    lines = []
    for one in report.cells.values():
        if not one.n_samples:
            continue
        common = NOTHING if one.most_common is None else one.most_common
        counts = (one.n_samples, one.n_empty, one.repeated.n_rows, one.repeated.most)
        lines.append((*_names(report, one), *(f"{n:,}" for n in counts), common))
    axes = _axes(report)
    head = (*axes, "answers", "empty", "repeated", "most often", "the most common")
    note = "repeated: rows whose answer another row has as well" if lines else ""
    return Table("Answers", head, "<" * len(axes) + ">>>>.", lines, note)


def _examples(report: Report) -> Table:
    lines: list[Line] = []
    for one in report.cells.values():
        answers = {"longest": one.longest, "shortest": one.shortest}
        scores = {"hardest": one.hardest, "easiest": one.easiest}
        for which, found in answers.items():
            if found is not None and (which == "longest" or found != one.longest):
                size = f"{found.size:,.0f} characters"
                lines.append((*_names(report, one), which, _row(found), size, found.text))
        for which, found in scores.items():
            if found is not None and (which == "hardest" or found != one.hardest):
                size = f"perplexity {perplexity(found.size)}"
                lines.append((*_names(report, one), which, _row(found), size, ""))
    axes = _axes(report)
    head, sides = (*axes, "which", "row", "size"), "<" * (len(axes) + 2) + ">"
    if any(one.n_samples for one in report.cells.values()):
        return Table("Rows that stand out", (*head, "text"), f"{sides}.", lines)
    return Table("Rows that stand out", head, sides, [line[:-1] for line in lines])


def _row(found: Example) -> str:
    return row_name(found.index, found.id)


def row_name(index: int, id: str | int | None) -> str:
    """Return how a row is called: its number, and its id where that says more."""
    return f"{index:,}" if id is None or id == index else f"{index:,} ({id})"


# Cells ----------------------------------------------------------------------------------------


def _axes(report: Report) -> Line:
    """Return the names of what cells differ in; none where there is one cell."""
    if len(report.cells) == 1:
        return ()
    return tuple(dict.fromkeys(axis for label in report.cells for axis, _ in label))


def _names(report: Report, one: Figures) -> Line:
    return tuple(dict(one.label).get(axis, NOTHING) for axis in _axes(report))


# Numbers --------------------------------------------------------------------------------------


def real(value: float, digits: int) -> str:
    """Write a number with so many digits behind the point."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else NOTHING


def share(value: float) -> str:
    """Write a part of one, small ones in two digits."""
    return f"{value:.2g}" if 0 < value < 0.01 else real(value, 3)


def perplexity(value: float) -> str:
    """Write a perplexity in four digits or more."""
    if math.isnan(value):
        return NOTHING
    return f"{value:.4g}" if value < 1000 else f"{value:,.0f}"


def percent(part: int, whole: int) -> str:
    """Write a share in percent; one that is neither none nor all does not look so."""
    if not whole:
        return NOTHING
    shown = 100 * part / whole
    if round(shown) in (0, 100) and 0 < part < whole:
        return f"{shown:.2g} %" if shown < 50 else f"{min(99.9, shown):.3g} %"
    return f"{shown:.0f} %"
