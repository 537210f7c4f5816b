"""Templates as data: a few-shot or a chat template, from the keys of a YAML file or a job.

`$name` stands for a field, `$$` for a dollar. No code, no conditions; a template that needs more is
a class of a plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator, model_validator

from gptkit.config import Document, Settings, read_yaml
from gptkit.errors import ConfigError, did_you_mean
from gptkit.plugin_api import ChatTemplate, Segment, Template
from gptkit.text import placeholder
from gptkit.text.turns import ChatTemplateSettings, TurnTemplate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from gptkit.config import KeyPath

Segments = tuple[Segment, ...]


def read_template(resource: Path | Traversable, name: str) -> Template | ChatTemplate:
    """Return the template that a YAML file describes; `name` stands for it in messages."""
    return from_document(read_yaml(resource, f"template {name}"), f"template {name}")


def from_document(document: Document, name: str, at: KeyPath = ()) -> Template | ChatTemplate:
    """Return the template described at `at` of a document; its keys tell which kind it is."""
    data = document.data
    for key in at:
        data = data[key]
    if isinstance(data, dict) and {"user", "assistant"} & data.keys():
        return TurnTemplate(document.build(ChatTemplateSettings, at=at), name)
    return FewShotTemplate(document.build(TemplateSettings, at=at), name)


# Few-shot -------------------------------------------------------------------------------------


class TemplateSettings(Settings):
    """A few-shot template: an example is the item filled in, the prompt's own item is cut."""

    instruction: str = Field("", description="what stands before the examples")
    item: str = Field(min_length=1, description="one example; it ends with the output")
    output: str = Field(min_length=1, description="the field that the model is to write")
    separator: str = Field("\n\n", description="stands after each piece, and stops")

    @field_validator("instruction")
    @classmethod
    def _has_no_fields(cls, text: str) -> str:
        if found := placeholder.names(text):
            raise ValueError(f"${found[0]} can't stand here, only the item has fields")
        return text

    @field_validator("item")
    @classmethod
    def _is_well_formed(cls, text: str) -> str:
        placeholder.names(text)
        return text

    @model_validator(mode="after")
    def _item_ends_with_output(self) -> Self:
        if self.output not in placeholder.names(self.item):
            raise ValueError(f"the item has no ${self.output}, which is the output")
        _, after = placeholder.cut(self.item, self.output)
        if found := placeholder.names(after):
            raise ValueError(f"${found[0]} stands after ${self.output}, which must be the last")
        if not after and not self.separator:
            raise ValueError("nothing would end an output: give a separator")
        return self


class FewShotTemplate(Template):
    """A few-shot template made of its settings; stops at what follows an output."""

    def __init__(self, settings: TemplateSettings, label: str) -> None:
        self.output = settings.output
        self._label = label
        self._instruction = placeholder.fill(settings.instruction, {})
        self._separator = settings.separator
        before, after = placeholder.cut(settings.item, settings.output)
        self._whole = before
        # Without the blank: a tokenizer joins it with the word that follows.
        self._before = before.rstrip(" \t")
        self._after = placeholder.fill(after, {})
        self.inputs = frozenset(placeholder.names(before))

    def head(self) -> Segments:
        """Return the instruction, if there is one."""
        return (Segment(self._instruction + self._separator),) if self._instruction else ()

    def example(self, fields: Mapping[str, str]) -> Segments:
        """Return the item filled in, and the separator."""
        if self.output not in fields:
            raise self._missing(self.output, fields)
        before = self._fill(self._whole, fields)
        return (Segment(before + fields[self.output] + self._after + self._separator),)

    def item(self, fields: Mapping[str, str]) -> Segments:
        """Return the item up to where the output begins."""
        return (Segment(self._fill(self._before, fields)),)

    @property
    def stops(self) -> Segments:
        """Return what follows an output in an example."""
        return (Segment(self._after or self._separator),)

    def _fill(self, text: str, fields: Mapping[str, str]) -> str:
        try:
            return placeholder.fill(text, fields)
        except KeyError as error:
            raise self._missing(error.args[0], fields) from None

    def _missing(self, field: str, fields: Mapping[str, str]) -> ConfigError:
        there = ", ".join(fields) or "nothing"
        return ConfigError(
            f"{self._label} uses ${field}; there is: {there}", hint=did_you_mean(field, fields)
        )
