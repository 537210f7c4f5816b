"""The bundled samplers, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Sampler, hookimpl

from .greedy import Greedy
from .sample import Sample
from .temperature import Temperature
from .top_k import TopK
from .top_p import TopP

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def gptkit_samplers() -> Iterable[type[Sampler]]:
    """Yield every bundled sampler."""
    yield from (Temperature, TopK, TopP, Sample, Greedy)
