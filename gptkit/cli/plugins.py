"""`gptkit plugins list|show`: what is installed, what each offers, and what failed."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptkit.cli.options import Json
from gptkit.errors import UnknownName, did_you_mean

if TYPE_CHECKING:
    from gptkit.plugin_api import Param
    from gptkit.plugin_host import Offer, Registry

app = typer.Typer(help="What is installed, and what each plugin offers.", no_args_is_help=True)

WIDE = 200
DISTRIBUTION = "gptkit"


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every plugin with what it offers; those that failed with the reason."""
    from gptkit.plugin_host import registry

    found = registry()
    if as_json:
        print(json.dumps([_record(plugin) for plugin in found.plugins], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gptkit.text.safe import safe_line

    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "name", "parameters", "summary"):
        table.add_column(heading, no_wrap=heading in ("kind", "name"))
    for offer in sorted(found.offers(), key=lambda o: (o.kind, _place(o), o.name)):
        row = (offer.kind, offer.name, ", ".join(_params(offer)), _whose(offer))
        table.add_row(*(Text(safe_line(cell)) for cell in row))
    # What is no terminal has no width; there a line for each is what other programs want.
    as_wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if as_wide else WIDE)
    console.print(table)
    for plugin in found.failed:
        said = f"FAILED  {plugin.source.name} of {plugin.source.owner}: {plugin.reason}"
        console.print(Text(safe_line(said), style="red"))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="What users type, as in the list.")],
    as_json: Json = False,
) -> None:
    """Show one sampler, criterion, tokenizer or template with its parameters and ranges."""
    from gptkit.plugin_host import registry
    from gptkit.text.safe import safe

    found = registry()
    bare = name.rpartition("/")[2]
    kinds = sorted({offer.kind for offer in found.offers() if offer.name == bare})
    if not kinds:
        failed = "; ".join(f"plugin '{p.source.owner}' failed: {p.reason}" for p in found.failed)
        near = did_you_mean(name, [offer.name for offer in found.offers()])
        raise UnknownName(
            f"nothing is called '{name}'" + (f"; {failed}" if failed else ""),
            hint=near or "see gptkit plugins list",
        )
    offers = [found.find(kind, name) for kind in kinds]
    if as_json:
        print(json.dumps([_detail(offer) for offer in offers], ensure_ascii=False))
        return
    for offer in offers:
        print(safe(_page(offer, found)))


def _place(offer: Offer) -> tuple[int, int]:
    from gptkit.plugin_api import PHASES

    phase = getattr(offer.value, "phase", None)
    return (PHASES.index(phase), offer.value.rank) if phase in PHASES else (0, 0)


def _params(offer: Offer) -> dict[str, Param]:
    return dict(getattr(offer.value, "params", {}))


def _whose(offer: Offer) -> str:
    """Return the summary, and whose it is where it is not ours."""
    theirs = offer.source.distribution != DISTRIBUTION
    return f"{offer.summary} [{offer.source.owner}]" if theirs else offer.summary


def _page(offer: Offer, found: Registry) -> str:
    lines = [f"{offer.name}  {offer.summary}  [{offer.kind}, {offer.source.owner}]"]
    first = True
    for key, declared in _params(offer).items():
        kind = f"list of {declared.items.__name__}" if declared.items else declared.kind.__name__
        span = f" ({declared.range_text})" if declared.range_text else ""
        line = f"  {key:<12} {kind:<12} {declared.show(declared.default):<6} {declared.help}{span}"
        if first and offer.kind == "sampler":
            line += f"    e.g. -s {offer.name}=VALUE"
        lines.append(line)
        first = False
    if offer.kind == "sampler":
        memory = "keeps state" if offer.value.state_from else "stateless"
        lines.append(f"  phase {offer.value.phase}, {memory}")
    body = (offer.value.__doc__ or "").partition("\n")[2] if isinstance(offer.value, type) else ""
    if body.strip():
        lines += ["", *(line.strip() for line in body.strip().splitlines())]
    if not isinstance(offer.value, type):
        lines += ["", offer.value.read_text(encoding="utf-8").rstrip()]
    return "\n".join(lines)


def _record(plugin: Any) -> dict[str, Any]:
    return {
        "plugin": plugin.source.name,
        "distribution": plugin.source.distribution,
        "version": plugin.source.version,
        "status": "failed" if plugin.reason else "ok",
        "reason": plugin.reason,
        "import_s": round(plugin.import_s, 4),
        "offers": [_detail(offer) for offer in plugin.offers],
    }


def _detail(offer: Offer) -> dict[str, Any]:
    params = {
        key: {
            "type": p.items.__name__ + "[]" if p.items else p.kind.__name__,
            "default": p.show(p.default),
            "range": p.range_text,
            "help": p.help,
        }
        for key, p in _params(offer).items()
    }
    phase = getattr(offer.value, "phase", None)
    return {
        "kind": offer.kind,
        "name": offer.name,
        "summary": offer.summary,
        "from": offer.source.owner,
        **({"phase": phase} if phase else {}),
        "params": params,
    }
