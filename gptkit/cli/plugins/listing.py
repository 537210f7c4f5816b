"""`gptkit plugins list`: all that is on offer, and what failed."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from gptkit.cli import options
from gptkit.cli.plugins.records import USES, params_of, plugin_record

if TYPE_CHECKING:
    from rich.console import Console

    from gptkit.plugin_host import Offer

WIDE = 240
ROOMY = 120
"""Columns from which on there is room for a sampler's phase, and for all parameters in a line."""
NARROW = 22
"""Columns for parameters where there is less room."""
SLOW_S = 2.0
"""What takes longer to import is pointed at: every command waits for it."""


def list_(as_json: options.Json = False) -> None:
    """List every plugin with what it offers; those that failed with the reason."""
    from gptkit.plugin_host import registry

    found = registry()
    if as_json:
        print(json.dumps([plugin_record(plugin) for plugin in found.plugins], ensure_ascii=False))
        options.refuse_failed(found)
        return
    from rich.table import Table
    from rich.text import Text

    from gptkit.text.safe import safe_line

    shown = console()
    table = Table(box=None, pad_edge=False)
    is_roomy = shown.width >= ROOMY
    heads = ("kind", "name", *(("phase",) if is_roomy else ()))
    for heading in heads:
        table.add_column(heading, no_wrap=True)
    table.add_column("parameters", max_width=None if is_roomy else NARROW)
    table.add_column("summary")
    kinds = list(USES)
    for offer in sorted(found.offers(), key=lambda o: (kinds.index(o.kind), _place(o), o.name)):
        row = (offer.kind, offer.name, getattr(offer.value, "phase", ""))[: len(heads)]
        row = (*row, ", ".join(params_of(offer)), _whose(offer))
        table.add_row(*(Text(safe_line(cell)) for cell in row))
    shown.print(table)
    for plugin in found.failed:
        said = f"FAILED  {plugin.source.name} of {plugin.source.owner}: {plugin.reason}"
        shown.print(Text(safe_line(said), style="red"))
    for plugin in found.plugins:
        if plugin.import_s > SLOW_S:
            said = f"SLOW    {plugin.source.name} of {plugin.source.owner}: its import took "
            shown.print(Text(safe_line(f"{said}{plugin.import_s:.1f} s"), style="yellow"))
    options.refuse_failed(found)


def console() -> Console:
    """Return where tables go: what is no terminal has no width, and wants a line for each row."""
    from rich.console import Console

    as_wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if as_wide else WIDE, highlight=False)


def _place(offer: Offer) -> tuple[int, int]:
    from gptkit.plugin_api import PHASES

    phase = getattr(offer.value, "phase", None)
    return (PHASES.index(phase), offer.value.rank) if phase in PHASES else (0, 0)


def _whose(offer: Offer) -> str:
    """Return the summary, and whose it is where it is not ours."""
    from gptkit.plugin_host import OURS

    theirs = offer.source.distribution != OURS
    return f"{offer.summary} [{offer.source.owner}]" if theirs else offer.summary
