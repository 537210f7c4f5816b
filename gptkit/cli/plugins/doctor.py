"""`gptkit plugins doctor`: what became of every entry point and file, and what to do about it.

Each plugin is imported in a fresh interpreter, so that its import time is its own, what it imports
is seen, and one that hangs or kills its interpreter is only one line of the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.cli import options
from gptkit.cli.plugins.listing import SLOW_S, console
from gptkit.cli.progress import display
from gptkit.errors import NameClash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.plugin_host import Found, Loaded, Offer, Registry

PATIENCE_S = 60.0
"""Seconds after which an import is given up."""
PROGRAM = """
import json, sys
from gptkit.plugin_host import discover, load
(plugin,) = load([discover()[int(sys.argv[1])]])
print(json.dumps({
    "offers": [(offer.kind, offer.name, offer.summary) for offer in plugin.offers],
    "reason": plugin.reason,
    "import_s": plugin.import_s,
    "api": plugin.api,
    "imports_torch": "torch" in sys.modules,
}))
"""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What became of a plugin in an interpreter of its own."""

    plugin: Loaded
    imports_torch: bool = False
    is_noisy: bool = False
    """Whether it printed something."""


def doctor(as_json: options.Json = False) -> None:
    """Check every plugin: status, reason, import time, API version, names and who else has them."""
    from gptkit.plugin_host import discover, index

    found = discover()
    seen = []
    with display("plugins") as show:
        for n, source in enumerate(found):
            show("importing", n, len(found))
            seen.append(_diagnosis(n, source))
        show("importing", len(found), len(found))
    registry = index(one.plugin for one in seen)
    clashes = [_clash(offers, registry) for offers in registry.clashes()]
    if as_json:
        from gptkit.plugin_api import API_VERSION

        plugins = [_record(one) for one in seen]
        record = {"api": API_VERSION, "plugins": plugins, "clashes": clashes}
        print(json.dumps(record, ensure_ascii=False))
    else:
        _print(seen, clashes)
    options.refuse_failed(registry)


def _diagnosis(n: int, source: Found) -> Diagnosis:
    """Import the n-th plugin that `discover` finds in a fresh interpreter."""
    from gptkit.plugin_host import Loaded, Offer

    command = [sys.executable, "-P", "-c", PROGRAM, str(n)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"its import did not end in {PATIENCE_S:g} s"
        return Diagnosis(Loaded(source, reason=reason, import_s=PATIENCE_S))
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        reason = f"it ended the interpreter (status {done.returncode}): {last}"
        return Diagnosis(Loaded(source, reason=reason))
    offers = tuple(
        Offer(kind, name, summary, source, None) for kind, name, summary in said["offers"]
    )
    plugin = Loaded(source, offers, said["reason"], said["import_s"], said["api"])
    return Diagnosis(plugin, said["imports_torch"], bool(done.stderr))


def _clash(offers: list[Offer], registry: Registry) -> dict[str, Any]:
    """Return one name that several claim: whose it is, and what to write for the others."""
    kind, name = offers[0].kind, offers[0].name
    record: dict[str, Any] = {"kind": kind, "name": name, "winner": None}
    try:
        winner = registry.find(kind, name).source
        record["winner"] = winner.owner
        others = [one for one in offers if one.source.distribution != winner.distribution]
        record["hint"] = f"write {' or '.join(map(_in_full, others))}"
    except NameClash as error:
        record["hint"] = error.hint or "one distribution offers it twice"
    return {**record, "owners": [offer.source.owner for offer in offers]}


def _in_full(offer: Offer) -> str:
    return f"'{offer.source.distribution}/{offer.name}'"


def _record(one: Diagnosis) -> dict[str, Any]:
    plugin = one.plugin
    return {
        "plugin": plugin.source.name,
        "distribution": plugin.source.distribution,
        "version": plugin.source.version,
        "module": plugin.source.module,
        "status": "failed" if plugin.reason else "ok",
        "reason": plugin.reason,
        "import_s": round(plugin.import_s, 4),
        "api": plugin.api,
        "imports_torch": one.imports_torch,
        "is_noisy": one.is_noisy,
        "offers": [{"kind": offer.kind, "name": offer.name} for offer in plugin.offers],
    }


def _print(seen: list[Diagnosis], clashes: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from gptkit.text.safe import safe_line

    table = Table("status", "plugin", "from", "api", box=None, pad_edge=False)
    table.add_column("import ms", justify="right", no_wrap=True)
    table.add_column("offers")
    for one in seen:
        plugin = one.plugin
        row = (
            "FAILED" if plugin.reason else "ok",
            plugin.source.name,
            plugin.source.owner,
            "-" if plugin.api is None else str(plugin.api),
            f"{1000 * plugin.import_s:,.0f}",
            ", ".join(offer.name for offer in plugin.offers) or "-",
        )
        style = "red" if plugin.reason else ""
        table.add_row(*(Text(safe_line(cell), style=style) for cell in row))
    shown = console()
    shown.print(table)
    for line in _complaints(seen, clashes):
        style = "red" if line.startswith("FAILED") else "yellow"
        shown.print(Text(safe_line(line), style=style), soft_wrap=True)
    n_failed = sum(one.plugin.reason is not None for one in seen)
    said = [f"{len(seen)} plugins", f"{n_failed} failed" if n_failed else "none failed"]
    said.append(f"{len(clashes)} name{'s' * (len(clashes) != 1)} claimed twice")
    print(", ".join(said if clashes else said[:2]))


def _complaints(seen: list[Diagnosis], clashes: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each thing that someone should do something about."""
    for one in seen:
        plugin, who = one.plugin, f"{one.plugin.source.name} of {one.plugin.source.owner}"
        if plugin.reason:
            yield f"FAILED  {who}: {plugin.reason}"
            yield f"        hint: mend it, or {_way_out(plugin.source)}"
            continue
        if one.imports_torch:
            yield f"TORCH   {who}: its import brings torch, so every command is slow to start"
            yield "        hint: import torch inside the functions that need it"
        elif plugin.import_s > SLOW_S:
            yield f"SLOW    {who}: its import took {plugin.import_s:.1f} s"
        if one.is_noisy:
            yield f"NOISY   {who}: it prints when it is imported"
    for clash in clashes:
        owners = " and ".join(f"'{owner}'" for owner in clash["owners"])
        winner = clash["winner"]
        whose = f"the bare name is that of '{winner}'" if winner else "the bare name is an error"
        yield f"CLASH   {clash['kind']} '{clash['name']}' of {owners}: {whose}"
        yield f"        hint: {clash['hint']}"


def _way_out(source: Found) -> str:
    is_file = source.module == source.distribution
    return "take it out of GPTKIT_PLUGINS" if is_file else f"pip uninstall {source.distribution}"
