"""`gptkit plugins new KIND NAME`: a package that installs, passes its tests and is listed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptkit.cli import options
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from gptkit.skeletons.skeleton import Skeleton


def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="sampler, tokenizer, stopping, template, drafter, strategy or command.",
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What users will type: lower case, with underscores."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="The folder that the package's folder goes into. Default: here.",
            show_default=False,
        ),
    ] = Path(),
) -> None:
    """Write a package with a small plugin that works, to change into your own."""
    from gptkit.skeletons.skeleton import skeleton
    from gptkit.text.safe import safe

    chosen = skeleton(kind, name)
    _check_free(chosen)
    folder = chosen.write(output)
    files = sorted(path for path in chosen.files())
    lines = [
        f"wrote {folder}",
        *(f"  {path}" for path in files),
        "to try it:",
        f"  cd {folder}",
        "  pip install -e .",
        "  pytest",
        f"  gptkit plugins show {name}",
    ]
    print(safe("\n".join(lines)))


def _check_free(chosen: Skeleton) -> None:
    """Refuse a name that users could not reach; tell of one that they must write in full."""
    from gptkit.chat.commands import OWN
    from gptkit.plugin_host import OURS, registry

    offers = [offer for offer in registry().offers() if offer.name == chosen.name]
    mine = [offer for offer in offers if offer.kind == chosen.kind]
    is_slash = chosen.kind == "command" and chosen.name in OWN
    if is_slash or any(offer.source.distribution == OURS for offer in mine):
        raise ConfigError(
            f"'{chosen.name}' is a bundled {chosen.kind}, which keeps its name",
            hint="take another name",
        )
    if importlib.util.find_spec(chosen.module) is not None:
        raise ConfigError(
            f"a module {chosen.module} is installed already", hint="take another name"
        )
    for owner in sorted({offer.source.owner for offer in mine}):
        options.note(
            f"'{owner}' offers '{chosen.name}' too: who has both must write "
            f"{chosen.distribution}/{chosen.name}"
        )
