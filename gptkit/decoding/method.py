"""How tokens come about besides the chain: who guesses ahead, or whose loop it is. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptkit.decoding.request import Choice, resolve_choice
from gptkit.decoding.speculation import DraftModel
from gptkit.errors import ConfigError
from gptkit.plugin_api import Params

if TYPE_CHECKING:
    from gptkit.decoding.request import Item
    from gptkit.plugin_host import Registry


@dataclass(frozen=True, slots=True)
class Method:
    """A drafter or a strategy, or neither."""

    speculate: Choice | None = None
    strategy: Choice | None = None

    @property
    def width(self) -> int:
        """How many sequences a request is computed as."""
        if self.strategy is None:
            return 1
        return int(self.strategy.plugin().width(Params(self.strategy.values)))

    @property
    def named(self) -> dict[str, Choice]:
        """What was chosen, by the name of its setting."""
        both = {"speculate": self.speculate, "strategy": self.strategy}
        return {name: choice for name, choice in both.items() if choice is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name} {choice}" for name, choice in self.named.items())


def resolve_method(speculate: Item | None, strategy: Item | None, registry: Registry) -> Method:
    """Return the method that two items name; raise ConfigError where they can't be had."""
    if speculate is not None and strategy is not None:
        raise ConfigError(
            "speculate and strategy don't go together: a strategy has a loop of its own",
            hint="keep one",
        )
    drafter = loop = None
    if speculate is not None:
        drafter = resolve_choice(speculate, "drafter", registry, {"model": DraftModel})
    if strategy is not None:
        loop = resolve_choice(strategy, "strategy", registry)
    method = Method(drafter, loop)
    if method.speculate and method.speculate.plugin is DraftModel:
        if not method.speculate.values["model"]:
            raise ConfigError("speculate: model names no model", hint="write model:model=NAME")
    _ = method.width  # a strategy may refuse its parameters
    return method
