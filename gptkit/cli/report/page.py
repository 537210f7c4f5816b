"""A report as one HTML file: no script, nothing from elsewhere, light or dark as the reader is."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from gptkit import __version__
from gptkit.cli.report import charts
from gptkit.cli.report.facts import facts, flat
from gptkit.cli.report.tables import (
    SPREADS,
    finish_reasons,
    measures,
    perplexity,
    row_name,
    spreads,
    tables,
)
from gptkit.errors import ResourceError
from gptkit.jobs.reports.figures import likelihood
from gptkit.jobs.reports.report import N_SHOWN
from gptkit.jobs.writers.whole import whole
from gptkit.text.safe import safe, safe_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from gptkit.cli.report.tables import Table
    from gptkit.jobs.reports.report import Report, ShownRow
    from gptkit.jobs.reports.results import Label, Result

N_COLOURS = 6
"""Classes c0 to c5 for finish reasons; what is rarer shares the last one."""
STYLE = """
:root { color-scheme: light dark;
  --back: #ffffff; --fore: #1b1f24; --quiet: #5b6570; --edge: #d9dee4; --soft: #f4f6f8;
  --c0: #2f6fb2; --c1: #d98a1f; --c2: #2a9078; --c3: #9a5fb0; --c4: #58a8d0; --c5: #9aa3ad;
  --bad: #c8382e; }
@media (prefers-color-scheme: dark) { :root {
  --back: #14171a; --fore: #e3e7eb; --quiet: #98a2ad; --edge: #333a42; --soft: #1d2226;
  --c0: #6aa5e0; --c1: #e6a64c; --c2: #52b89e; --c3: #bd8fd0; --c4: #8ecbe8; --c5: #707a85;
  --bad: #ec6a60; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--back);
  color: var(--fore); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .25rem 0; }
.quiet, figcaption span { color: var(--quiet); }
.note { border-left: 3px solid var(--c1); padding-left: .75rem; margin: .75rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--edge); overflow-wrap: normal; }
th { color: var(--quiet); font-weight: 500; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.name { white-space: nowrap; }
td.text { min-width: 14rem; overflow-wrap: anywhere; }
.figures { display: grid; gap: 1.75rem 2.5rem; margin: 1.75rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; justify-content: space-between; gap: 1rem; font-size: .9rem;
  font-weight: 600; margin-bottom: .35rem; }
figcaption span { font-weight: 400; }
svg { display: block; width: 100%; overflow: visible; }
svg text { fill: var(--fore); font-size: 13px; font-variant-numeric: tabular-nums; }
svg text.quiet { fill: var(--quiet); }
svg .rail { fill: var(--soft); }
svg .whisker { stroke: var(--c5); stroke-width: 2; }
svg .median { stroke: var(--fore); stroke-width: 2; }
svg .axis { stroke: var(--edge); }
svg .c0 { fill: var(--c0); } svg .c1 { fill: var(--c1); } svg .c2 { fill: var(--c2); }
svg .c3 { fill: var(--c3); } svg .c4 { fill: var(--c4); } svg .c5 { fill: var(--c5); }
svg .bad { fill: var(--bad); }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; font-size: .85rem; padding: 0;
  margin: .5rem 0 0; list-style: none; }
.key svg { display: inline-block; width: 10px; margin-right: .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.25rem; font-size: .9rem;
  margin: 1rem 0; }
dt { color: var(--quiet); } dd { margin: 0; }
details { margin: .75rem 0; } summary { cursor: pointer; }
.row { border-top: 1px solid var(--edge); padding: .75rem 0; }
.row > div > p { font-size: .9rem; margin: 0 0 .3rem; }
.row h3 { font-size: .9rem; font-weight: 600; margin: 0 0 .4rem; }
.cells { display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.cell { background: var(--soft); border-radius: 6px; padding: .5rem .7rem; font-size: .9rem;
  min-width: 0; }
.cell header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  font-size: .8rem; color: var(--quiet); margin-bottom: .15rem; }
.cell p { white-space: pre-wrap; margin: 0; }
.cell p + p { border-top: 1px dashed var(--edge); margin-top: .4rem; padding-top: .4rem; }
.cell .failed { color: var(--bad); }
.row.one { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 3fr);
  gap: .25rem 1rem; }
.wide + .quiet { font-size: .9rem; }
@media (max-width: 40rem) { .row.one { grid-template-columns: minmax(0, 1fr); }
  .texts, .texts tbody, .texts tr { display: block; } .texts thead { display: none; }
  .texts tr { border-bottom: 1px solid var(--edge); padding: .4rem 0; }
  .texts td { display: inline-block; border: 0; padding: 0 1rem 0 0; }
  .texts td.text { display: block; min-width: 0; padding: 0; }
  .texts td::before { content: attr(data-head) ": "; color: var(--quiet); }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  body { padding-top: 1rem; } }
@media print { body { max-width: none; } .row { break-inside: avoid; } }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page may load: nothing, whatever stands in its texts."""


def write_page(path: Path, report: Report) -> None:
    """Write the page, whole or not at all; raise ResourceError."""
    made = page(report).encode()
    try:
        with whole(path) as file:
            file.write(made)
    except OSError as error:
        raise ResourceError(f"can't write {path}: {error.strerror or error}") from error


def page(report: Report) -> str:
    """Return the page."""
    names = ", ".join(source.path.name for source in report.sources)
    title = line(f"Report of {names}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n{''.join(_body(report))}</body>\n</html>\n"
    )


def _body(report: Report) -> Iterator[str]:
    n_cells = len(report.cells)
    counts = f"{report.n_rows:,} rows" + (f" × {n_cells:,} cells" if n_cells > 1 else "")
    failed = sum(one.n_failed for one in report.cells.values())
    yield f'<p class="quiet">{counts}, {failed:,} failed · gptkit {__version__}</p>\n'
    for note in report.notes:
        yield f'<p class="note">{line(note)}</p>\n'
    for source in report.sources:
        yield _facts(source.manifest)
    first, *others = tables(report)
    yield _table(first)
    if figures := list(_figures(report)):
        yield f'<div class="figures">\n{"".join(figures)}</div>\n'
    for table in others:
        yield _table(table)
    yield _rows(report)


# What the manifest says -----------------------------------------------------------------------


def _facts(manifest: Mapping[str, Any]) -> str:
    """Return what a manifest says: first what is asked most, then all of it, known or not."""
    if not manifest:
        return ""
    first, all_ = _list(facts(manifest)), _list(flat(manifest))
    return f"{first}<details><summary>All of the manifest</summary>{all_}</details>\n"


def _list(named: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{line(name)}</dt><dd>{line(text)}</dd>" for name, text in named)
    return f"<dl>{items}</dl>\n" if items else ""


# Plots ----------------------------------------------------------------------------------------


def _figures(report: Report) -> Iterator[str]:
    cells = report.cells
    if len(cells) > 1:
        for measure in measures(report):
            values = [
                (_name(label), measure.of(mine), measure.show(mine))
                for label, mine in ((label, report.measures(one)) for label, one in cells.items())
            ]
            yield _figure(measure.title, "", charts.bars(measure.title, values))
    for what in SPREADS:
        found = spreads(report, what)
        if len(found) == 1:
            ((_, spread),) = found
            note = f"median {spread.at(0.5):,}"
            yield _figure(what.capitalize(), note, charts.histogram(what, spread))
        elif found:
            named = [(_name(one.label if one else ()), spread) for one, spread in found]
            yield _figure(what.capitalize(), "p10 – median – p90", charts.ranges(what, named))
    if reasons := finish_reasons(report):
        yield _reasons_figure(report, reasons)


def _reasons_figure(report: Report, reasons: list[str]) -> str:
    """Return how answers ended, failed rows among them."""
    classes = {why: f"c{min(i, N_COLOURS - 1)}" for i, why in enumerate(reasons)}
    lines = []
    for label, one in report.cells.items():
        counts = [(classes[why], one.finish_reasons[why]) for why in reasons]
        note = f"{one.n_failed:,} failed" if one.n_failed else ""
        lines.append((_name(label), note, [*counts, ("bad", one.n_failed)]))
    any_failed = any(one.n_failed for one in report.cells.values())
    keys = [*classes.items(), *([("failed", "bad")] if any_failed else [])]
    key = "".join(
        f'<li><svg height="10" aria-hidden="true"><rect class="{css}" width="10" height="10"/>'
        f"</svg>{line(why)}</li>"
        for why, css in keys
    )
    drawn = charts.stacked("finish reasons", lines)
    return _figure("Finish reasons", "", f'{drawn}<ul class="key">{key}</ul>')


def _figure(title: str, note: str, drawn: str) -> str:
    said = f"<span>{line(note)}</span>" if note else ""
    return f"<figure><figcaption>{line(title)}{said}</figcaption>{drawn}</figure>\n"


def _name(label: Label) -> str:
    return safe_line(" · ".join(name for _, name in label) or "all rows")


# Tables and rows ------------------------------------------------------------------------------


def _table(table: Table) -> str:
    kinds = {"<": "name", ">": "number", ".": "text"}
    at = [i for i, side in enumerate(table.sides) if side in kinds]  # bars are drawn better
    css = [kinds.get(side, "") for side in table.sides]
    texts = "." in table.sides
    css_of_table = ' class="texts"' if texts else ""
    head = "".join(f'<th scope="col" class="{css[i]}">{line(table.head[i])}</th>' for i in at)
    lines = "".join(
        f"<tr>{''.join(_data(css[i], table.head[i], cells[i], texts) for i in at)}</tr>\n"
        for cells in table.lines
    )
    note = f'<p class="quiet">{line(table.note)}</p>\n' if table.note else ""
    return (
        f'<h2>{line(table.title)}</h2>\n<div class="wide">'
        f"<table{css_of_table}>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{lines}</tbody>\n</table></div>\n{note}"
    )


def _data(css: str, head: str, text: str, named: bool) -> str:
    """Return one cell; a small screen shows `head` before it, where it is `named`."""
    more = f' data-head="{line(head)}"' if named else ""
    if css == "text":
        more += ' dir="auto"'
    return f'<td class="{css}"{more}>{line(text)}</td>'


def _rows(report: Report) -> str:
    n_more = report.n_rows - len(report.shown)
    first = next(iter(report.cells))
    rows = "".join(_row(one, first, report.cells) for one in report.shown)
    more = f'<p class="quiet">and {n_more:,} more rows</p>\n' if n_more else ""
    title = f"The first {N_SHOWN} rows" if n_more else "The rows"
    return f"<h2>{title}</h2>\n{rows}{more}"


def _row(row: ShownRow, first: Label, labels: Iterable[Label]) -> str:
    cells = "".join(
        _cell(label, row.results[label], row.results.get(first) if label != first else None)
        for label in labels
        if label in row.results
    )
    name = line(f"row {row_name(row.index, row.id)}")
    css = "row" if len(row.results) > 1 else "row one"
    kept = next(iter(row.results.values())).kept
    given = "".join(
        f'<p dir="auto"><span class="quiet">{line(field)}:</span> {line(text)}</p>'
        for field, text in kept.items()
    )
    return (
        f'<section class="{css}"><div><h3>{name}</h3>{given}</div>'
        f'<div class="cells">{cells}</div></section>\n'
    )


def _cell(label: Label, result: Result, first: Result | None) -> str:
    """Return what a cell made of a row; `first` is what the first one did, unless this is it."""
    if result.fault is not None:
        how = result.fault.type
        said = f'<p class="failed">{line(result.fault.message)}</p>'
    elif result.score is not None:
        how = f"{result.score.tokens:,} tokens"
        said = f"<p>perplexity {perplexity(likelihood(result.score).perplexity)}</p>"
    else:
        one, *others = result.samples
        how = f"{one.finish_reason}, {one.new_tokens:,} tokens"
        if others:
            how = f"{len(result.samples):,} samples"
        if first is not None and result.texts == first.texts:
            how += " · same as the first"
        said = "".join(f'<p dir="auto">{escape(safe(text))}</p>' for text in result.texts)
    name = f"<b>{line(_name(label))}</b>" if label else ""
    return f'<div class="cell"><header>{name}<span>{line(how)}</span></header>{said}</div>'


def line(text: str) -> str:
    """Return a text for a page: on one line, with nothing that HTML or a terminal would take."""
    return escape(safe_line(text))
