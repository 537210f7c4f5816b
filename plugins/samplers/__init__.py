"""The bundled samplers, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Sampler, hookimpl

from .bad_words import BadWords
from .constraint import Constraint
from .dry import DRY
from .greedy import Greedy
from .logit_bias import LogitBias
from .min_new_tokens import MinNewTokens
from .no_repeat_ngram import NoRepeatNgram
from .penalties import Penalties
from .sample import Sample
from .temperature import Temperature
from .top_k import TopK
from .top_p import TopP

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def gptkit_samplers() -> Iterable[type[Sampler]]:
    """Yield every bundled sampler."""
    yield from (LogitBias, BadWords, MinNewTokens, Penalties, DRY, NoRepeatNgram)
    yield Constraint
    yield from (Temperature, TopK, TopP, Sample, Greedy)
