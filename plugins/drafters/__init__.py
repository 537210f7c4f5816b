"""The bundled drafters, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Drafter, hookimpl

from .prompt_lookup import PromptLookup

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def gptkit_drafters() -> Iterable[type[Drafter]]:
    """Yield every bundled drafter."""
    yield PromptLookup
