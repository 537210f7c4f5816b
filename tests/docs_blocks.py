"""The blocks of the documentation that are made from the program, so that they can't go stale.

A block stands between `<!-- made: KIND ARGUMENT -->` and `<!-- end -->`; a test compares each with
what the program says now, and `python -m tests.docs_blocks` writes them anew.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel

from gptkit import errors
from gptkit.cli import app
from gptkit.decoding.presets import PRESETS
from gptkit.decoding.request import resolve_chain
from gptkit.plugin_api import PHASES
from gptkit.plugin_host import OURS, registry

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- made: (\w+) ?([\w.: ]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def commands() -> dict[str, Any]:
    """Return every command by what users type after `gptkit`."""
    found: dict[str, Any] = {}

    def walk(command: Any, name: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
            return
        for key, one in inner.items():
            walk(one, f"{name} {key}".strip())

    walk(typer.main.get_command(app), "")
    return found


def options(command: str) -> str:
    """List the arguments and options of a command, with their help."""
    rows = []
    for one in commands()[command].params:
        if "--help" in one.opts:
            continue
        is_option = one.opts[0].startswith("-")
        written = ", ".join(f"`{opt}`" for opt in one.opts) if is_option else f"`{one.name}`"
        default = one.default if isinstance(one.default, (str, int)) and one.default else None
        said = one.help or ""
        if default and is_option and "Default" not in said:
            said += f" Default: `{default}`."
        rows.append((written, said))
    return _table(("option", "meaning"), rows)


def settings(path: str) -> str:
    """List the keys of a Settings class, `module:Class`, with default and description."""
    module, _, name = path.partition(":")
    cls = getattr(importlib.import_module(module), name)
    rows = []
    for key, field in cls.model_fields.items():
        choices = [f"`{one}`" for one in get_args(field.annotation) if isinstance(one, str)]
        said = [field.description or "", f"one of {', '.join(choices)}" if choices else ""]
        rows.append((f"`{key}`", _default(field), "; ".join(filter(None, said))))
    return _table(("key", "default", "meaning"), rows)


def plugins(kind: str) -> str:
    """List what the bundled plugins of a kind offer."""
    rows = []
    offers = [one for one in registry().offers() if one.source.distribution == OURS]
    for offer in offers:
        if offer.kind != kind:
            continue
        params = getattr(offer.value, "params", {})
        said = "; ".join(
            f"`{key}`: {' '.join(filter(None, (p.help + ',', p.range_text)))}".rstrip(",")
            + f" (default {p.show(p.default)})"
            for key, p in params.items()
        )
        phase = getattr(offer.value, "phase", "")
        rows.append((f"`{offer.name}`", *((phase,) if kind == "sampler" else ()), offer.summary))
        if kind in ("sampler", "stopping"):
            rows[-1] = (*rows[-1], said)
    heads = {
        "sampler": ("name", "phase", "what it does", "parameters"),
        "stopping": ("name", "what it does", "parameters"),
    }.get(kind, ("name", "what it is"))
    if kind == "sampler":
        rows.sort(key=lambda row: PHASES.index(row[1]))
    return _table(heads, rows)


def limits(path: str) -> str:
    """List a mapping of names to declared parameters, `module:NAME`."""
    module, _, name = path.partition(":")
    declared = getattr(importlib.import_module(module), name)
    return _table(
        ("key", "default", "meaning"),
        [(f"`{key}`", f"`{p.show(p.default)}`", p.help) for key, p in declared.items()],
    )


def presets(_: str) -> str:
    """List the presets with their chains."""
    known = registry()
    rows = []
    for preset in PRESETS.values():
        chain = " ".join(stage.brief for stage in resolve_chain(preset.chain, known))
        rows.append((f"`{preset.name}`", preset.engine, f"`{chain}`"))
    return _table(("preset", "as in", "its chain"), rows)


def exits(_: str) -> str:
    """List the errors with their exit codes, as errors.py draws them."""
    tree = (errors.__doc__ or "").partition("\n\n")[2].strip("\n")
    return f"```text\n{tree}\n```\n"


MAKERS = {
    "exits": exits,
    "limits": limits,
    "options": options,
    "plugins": plugins,
    "presets": presets,
    "settings": settings,
}


def made_anew(text: str) -> str:
    """Return a page with each block as the program makes it."""
    return BLOCK.sub(lambda m: m[1] + MAKERS[m[2]](m[3]) + m[5], text)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == () or value == {} or isinstance(value, BaseModel):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`".replace("'", '"')
    return f"`{value!r}`".replace("'", "") if value != "" else "empty"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", "\\n") for cell in row] for row in lines)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = made_anew(old)
        if new != old:
            page.write_text(new, encoding="utf-8")
            print(page.name)
