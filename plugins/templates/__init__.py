"""The bundled templates, YAML files beside this one."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from gptkit.plugin_api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.resources.abc import Traversable


@hookimpl
def gptkit_templates() -> Iterable[Traversable]:
    """Yield every bundled template; a file's name is the template's."""
    yield from sorted(
        (file for file in files(__name__).iterdir() if file.name.endswith(".yaml")),
        key=lambda file: file.name,
    )
