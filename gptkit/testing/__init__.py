"""The conformance kit for plugin authors: does a plugin hold in every mode?

    from gptkit.testing import check_sampler

    def test_top_a():
        check_sampler(TopA)

`examine` gives the whole report of any kind of plugin, `check_...` raise ConformanceError with all
findings. What is tried comes from the declared ranges, choices and examples alone. pytest loads
`pytest_plugin` from here at every start, so nothing here imports torch before it is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gptkit import plugin_api
from gptkit.errors import PluginError
from gptkit.testing.report import ConformanceError, Finding, Report

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from gptkit.plugin_api import (
        ChatTemplate,
        Command,
        Drafter,
        Sampler,
        StoppingCriterion,
        Strategy,
        Template,
        Tokenizer,
    )

__all__ = [
    "ConformanceError",
    "Finding",
    "Report",
    "check_command",
    "check_drafter",
    "check_sampler",
    "check_stopping",
    "check_strategy",
    "check_template",
    "check_tokenizer",
    "examine",
]

_EXAMINERS: dict[type[plugin_api.Plugin], str] = {
    plugin_api.Sampler: "samplers",
    plugin_api.Tokenizer: "tokenizers",
    plugin_api.StoppingCriterion: "stopping",
    plugin_api.Template: "templates",
    plugin_api.ChatTemplate: "templates",
    plugin_api.Drafter: "drafters",
    plugin_api.Strategy: "strategies",
    plugin_api.Command: "commands",
}
"""The module of each kind's checks; they import torch."""


def examine(plugin: Any, *, seed: int = 0) -> Report:
    """Examine a plugin class of any kind, a tokenizer that is built, or a template's YAML file.

    Another seed tries other values, logits and schedules.
    """
    cls = plugin if isinstance(plugin, type) else type(plugin)
    found = [module for base, module in _EXAMINERS.items() if issubclass(cls, base)]
    if not found and hasattr(plugin, "read_text"):
        found = ["templates"]
    if not found or (found[0] not in ("templates", "tokenizers") and cls is not plugin):
        raise PluginError(f"{plugin!r} is no plugin that the kit can examine")
    examiner = importlib.import_module(f"gptkit.testing.{found[0]}")
    report: Report = examiner.examine(plugin, seed=seed)
    return report


def check_sampler(cls: type[Sampler], *, seed: int = 0) -> None:
    """Raise ConformanceError unless a sampler passes."""
    examine(cls, seed=seed).check()


def check_tokenizer(tokenizer: type[Tokenizer] | Tokenizer, *, seed: int = 0) -> None:
    """Raise ConformanceError unless a tokenizer passes; give one that is built, or a class.

    A class is trained on a text of ours where it can be, else loaded without a path.
    """
    examine(tokenizer, seed=seed).check()


def check_stopping(cls: type[StoppingCriterion], *, seed: int = 0) -> None:
    """Raise ConformanceError unless a stopping criterion passes."""
    examine(cls, seed=seed).check()


def check_template(template: type[Template | ChatTemplate] | Traversable, *, seed: int = 0) -> None:
    """Raise ConformanceError unless a template, a class or a YAML file, passes."""
    examine(template, seed=seed).check()


def check_drafter(cls: type[Drafter], *, seed: int = 0) -> None:
    """Raise ConformanceError unless a drafter passes."""
    examine(cls, seed=seed).check()


def check_strategy(cls: type[Strategy], *, seed: int = 0) -> None:
    """Raise ConformanceError unless a strategy passes."""
    examine(cls, seed=seed).check()


def check_command(cls: type[Command], *, seed: int = 0) -> None:
    """Raise ConformanceError unless a slash command passes."""
    examine(cls, seed=seed).check()
