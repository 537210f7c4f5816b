"""The bundled stopping criteria, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import StoppingCriterion, hookimpl

from .entropy import Entropy
from .regex import Regex
from .repeat import Repeat
from .sentences import Sentences
from .strings import Strings
from .tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def gptkit_stopping_criteria() -> Iterable[type[StoppingCriterion]]:
    """Yield every bundled criterion."""
    yield from (Tokens, Strings, Regex, Sentences, Repeat, Entropy)
