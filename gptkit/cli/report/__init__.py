"""`gptkit report OUT`: what came of a batch job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gptkit.cli import options
from gptkit.errors import ConfigError


def report(
    outputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="OUT...", help="Outputs of batch jobs; several are put side by side."
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with plots, which is one file."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what came of a batch job: counts, lengths, errors, and its cells side by side."""
    from gptkit.cli.report import view
    from gptkit.jobs.reports.report import make_report

    if html is not None:
        _check_page(html)
    made = make_report(outputs)
    for line in made.notes:
        options.note(line)
    if as_json:
        print(json.dumps(view.report_record(made), ensure_ascii=False, allow_nan=False))
    else:
        view.print_report(made)
    if html is not None:
        from gptkit.cli.report.page import write_page

        write_page(html, made)
        options.say(f"written to {html}")


def _check_page(path: Path) -> None:
    """Refuse, before anything is read, a page that can't be written."""
    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"--html {path}: the page is HTML", hint="end its name in .html")
    if not path.parent.is_dir():
        raise ConfigError(f"--html {path}: there is no folder {path.parent}", hint="make it first")
    if path.exists() and not path.is_file():
        raise ConfigError(f"--html {path} is no regular file", hint="give the path of a file")
