"""`gptkit plugins test`: the conformance kit over the plugins of a distribution, file or name."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptkit.cli import options
from gptkit.cli.progress import display

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from gptkit.testing.report import Report
    from gptkit.testing.subjects import Subject

OK, FAILED, WARNING, SKIPPED = "ok", "FAILED", "warning", "skipped"
STYLES = {OK: "green", FAILED: "red", WARNING: "yellow", SKIPPED: "dim"}


def test(
    target: Annotated[
        str,
        typer.Argument(
            metavar="DIST|FILE|NAME",
            help="A distribution, a .py file, the .yaml file of a template, or a plugin's name; "
            "gptkit for all that ship.",
        ),
    ],
    seed: Annotated[
        str,
        typer.Option(metavar="SEED", help="Another seed tries other values, logits and schedules."),
    ] = "0",
    as_json: options.Json = False,
) -> None:
    """Examine plugins by the conformance kit; exit code 1 where one does not hold."""
    from gptkit.testing import subjects

    number = options.parse_seed(seed)
    found = subjects.find(target)
    records = []
    with display("plugins") as show:
        for n, subject in enumerate(found):
            show("examining", n, len(found))
            records.append(_record(subject, number))
            if not as_json:
                _print(records[-1])
        show("examining", len(found), len(found))
    n_failed = sum(not record["ok"] for record in records)
    if as_json:
        print(json.dumps(records, ensure_ascii=False))
    else:
        print(f"{len(records) - n_failed} of {len(records)} passed")
    if n_failed:
        raise typer.Exit(1)


def _record(subject: Subject, seed: int) -> dict[str, Any]:
    """Examine one; one that did not load has failed."""
    from gptkit.testing import examine

    record: dict[str, Any] = {
        "kind": subject.kind,
        "name": subject.name,
        "from": subject.owner,
        "ok": False,
        "reason": subject.reason,
        "checks": [],
        "costs": {},
    }
    if subject.reason is not None:
        return record
    with contextlib.redirect_stdout(sys.stderr):  # a plugin's prints must not spoil JSON
        report = examine(subject.plugin, seed=seed)
    checks = list(_checks(report))
    costs = {what: round(cost, 6) for what, cost in report.costs.items()}
    return {**record, "ok": report.ok, "checks": checks, "costs": costs}


def _checks(report: Report) -> Iterator[dict[str, Any]]:
    """Yield a row for each check, with what it found; then what belongs to none of them."""
    left = list(report.findings)
    for code, title, seconds in report.checks_run:
        # An exception out of the plugin has a code of its own, and the check's title before it.
        mine = [one for one in left if one.code == code or one.message.startswith(f"{title}: ")]
        left = [one for one in left if one not in mine]
        severities = {one.severity for one in mine}
        result = FAILED if "error" in severities else WARNING if mine else OK
        said = "; ".join(one.message.removeprefix(f"{title}: ") for one in mine)
        yield _check(code, title, result, said, seconds)
    for one in left:
        yield _check(one.code, "", FAILED if one.severity == "error" else WARNING, one.message)
    for code, title, reason in report.skipped:
        yield _check(code, title, SKIPPED, reason)


def _check(
    code: str, title: str, result: str, said: str, seconds: float | None = None
) -> dict[str, Any]:
    cost = None if seconds is None else round(seconds, 4)
    return {"code": code, "check": title, "result": result, "said": said, "seconds": cost}


def _print(record: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from gptkit.text.safe import safe_line

    console = _console()
    console.print(Text(safe_line(f"{record['kind']} {record['name']}  [{record['from']}]")))
    if record["reason"] is not None:
        console.print(Text(safe_line(f"  {FAILED}: {record['reason']}"), style=STYLES[FAILED]))
    if record["checks"]:
        table = Table("  ", "check", "result", box=None, pad_edge=False)
        table.add_column("ms", justify="right", no_wrap=True)
        for one in record["checks"]:
            said = f"{one['result']}: {one['said']}" if one["said"] else one["result"]
            cost = "" if one["seconds"] is None else f"{1000 * one['seconds']:,.0f}"
            result = Text(safe_line(said), style=STYLES[one["result"]])
            table.add_row(f"  {one['code']}", Text(safe_line(one["check"])), result, cost)
        console.print(table)
    if record["costs"]:
        said = ", ".join(_cost(what, cost) for what, cost in record["costs"].items())
        console.print(Text(safe_line(f"  cost: {said}")))
    console.print()


def _cost(what: str, cost: float) -> str:
    """Write `1 row, ms` and its number as `1 row 0.05 ms`."""
    name, _, unit = what.rpartition(", ")
    return f"{name} {cost:,.3g} {unit}" if cost < 1000 else f"{name} {cost:,.0f} {unit}"


def _console() -> Console:
    from gptkit.cli.plugins.listing import console

    return console()
