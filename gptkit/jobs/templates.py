"""The templates of a job: each with what its fields are called in the rows, and its examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit import assembly
from gptkit.errors import ConfigError, did_you_mean
from gptkit.jobs.examples import read_examples
from gptkit.jobs.job import wanted
from gptkit.jobs.selection import Examples, choose
from gptkit.plugin_api import ChatTemplate, Template
from gptkit.text.template import from_document

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gptkit.config import Document, KeyPath
    from gptkit.jobs.matrix import Axis
    from gptkit.jobs.spec import JobSettings
    from gptkit.plugin_host import Registry


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """A template in a job. `columns` says which field of a row serves as which of its own."""

    template: Template | ChatTemplate
    columns: Mapping[str, str]
    pool: tuple[Mapping[str, str], ...]
    _chosen: dict[int, Examples] = field(default_factory=dict)

    def names(self, *, with_output: bool = False) -> set[str]:
        """Return the fields that a row must have, that of the output only if it is to be scored."""
        fields = _fields(self.template) if with_output else wanted(self.template)
        return {self.columns.get(name, name) for name in fields}

    def examples(self, settings: JobSettings, seed: int) -> Examples:
        """Return the examples in the order that the job's `select` means, the same for one seed."""
        if isinstance(self.template, ChatTemplate):
            return Examples()
        seed = seed if settings.select == "random" else 0
        if seed not in self._chosen:
            self._chosen[seed] = choose(
                self.pool,
                settings.select,
                settings.k,
                inputs=self.template.inputs,
                output=self.template.output,
                seed=seed,
            )
        return self._chosen[seed]


def read_templates(
    settings: JobSettings, document: Document, axis: Axis | None, registry: Registry, folder: Path
) -> dict[str | None, JobTemplate]:
    """Return the templates by their name on the axis, or one under None where there is no axis.

    Raise ConfigError for a template that is wrong or does not go with the rest of the job.
    """
    found: dict[str | None, Template | ChatTemplate] = {}
    if axis is None:
        if settings.template is None:
            raise ConfigError(f"{document.where(())}: 'template' is missing")
        found[None] = _template(settings.template, document, ("template",), registry)
    else:
        for on_axis, point in axis.items():
            found[on_axis] = _template(point.value, document, point.at, registry)
    for template in found.values():
        _check_kind(template, settings, document)
    _check_columns(settings, document, [known for one in found.values() for known in _fields(one)])
    made: dict[str | None, JobTemplate] = {}
    for name, template in found.items():
        columns = {key: to for key, to in settings.fields.items() if key in _fields(template)}
        pool: tuple[Mapping[str, str], ...] = ()
        if isinstance(template, Template):
            pool = read_examples(settings, document, template, columns, folder)
        made[name] = JobTemplate(template, columns, pool)
    return made


def _template(
    said: str | dict[str, Any], document: Document, at: KeyPath, registry: Registry
) -> Template | ChatTemplate:
    if isinstance(said, dict):
        return from_document(document, document.name, at=at)
    with document.locating(*at):
        return assembly.template(said, registry)


def _check_kind(
    template: Template | ChatTemplate, settings: JobSettings, document: Document
) -> None:
    if isinstance(template, ChatTemplate):
        if settings.examples:
            raise ConfigError(
                f"{document.where(('examples',))}: a chat template takes no examples",
                hint="choose a few-shot template",
            )
    elif settings.system is not None:
        raise ConfigError(
            f"{document.where(('system',))}: only a chat template takes 'system'",
            hint="write it as the template's instruction",
        )


def _fields(template: Template | ChatTemplate) -> frozenset[str]:
    outputs = [template.output] if isinstance(template, Template) else []
    return wanted(template).union(outputs)


def _check_columns(settings: JobSettings, document: Document, known: list[str]) -> None:
    for name in settings.fields:
        if name not in known:
            raise ConfigError(
                f"{document.where(('fields', name))}: the template has no ${name}; "
                f"it has: {', '.join(sorted(set(known)))}",
                hint=did_you_mean(name, known),
            )
