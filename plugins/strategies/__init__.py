"""The bundled strategies, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Strategy, hookimpl

from .beam import Beam
from .cfg import ClassifierFreeGuidance
from .contrastive import Contrastive

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def gptkit_strategies() -> Iterable[type[Strategy]]:
    """Yield every bundled strategy."""
    yield from (Beam, Contrastive, ClassifierFreeGuidance)
