"""The bundled samplers, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Sampler, hookimpl

from .bad_words import BadWords
from .constraint import Constraint
from .dry import DRY
from .dynamic_temperature import DynamicTemperature
from .epsilon import Epsilon
from .eta import Eta
from .greedy import Greedy
from .logit_bias import LogitBias
from .min_new_tokens import MinNewTokens
from .min_p import MinP
from .mirostat import Mirostat
from .no_repeat_ngram import NoRepeatNgram
from .penalties import Penalties
from .sample import Sample
from .smoothing import Smoothing
from .tail_free import TailFree
from .temperature import Temperature
from .top_a import TopA
from .top_k import TopK
from .top_n_sigma import TopNSigma
from .top_p import TopP
from .typical import Typical
from .xtc import XTC

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def gptkit_samplers() -> Iterable[type[Sampler]]:
    """Yield every bundled sampler."""
    yield from (LogitBias, BadWords, MinNewTokens, Penalties, DRY, NoRepeatNgram)
    yield Constraint
    yield from (DynamicTemperature, Temperature, Smoothing)
    yield from (TopNSigma, TopK, TopP, MinP, TopA, Typical, Epsilon, Eta, TailFree, Mirostat, XTC)
    yield from (Sample, Greedy)
