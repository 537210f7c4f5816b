"""The `matrix` of a job: axes whose combinations are its cells. Strict about what is said twice."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gptkit.config import Document, KeyPath
    from gptkit.jobs.spec import JobSettings

AXES = ("model", "sampler", "template", "seed")
"""In the order in which cells are counted: the last one changes first."""
REPLACED = {
    "model": (("model",),),
    "sampler": (("sampling", "chain"), ("sampling", "preset")),
    "template": (("template",),),
    "seed": (("sampling", "seed"),),
}
"""The keys of a job that an axis stands in the place of."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a name on an axis means, and where in the job file it is said."""

    value: Any
    at: KeyPath


Axis = dict[str, Point]
"""The points of an axis by name: an item of a list is its own name, a mapping gives names."""


def axes(settings: JobSettings, document: Document, options: Mapping[str, str]) -> dict[str, Axis]:
    """Return the axes that a job has; raise ConfigError for one that is empty or said twice.

    `options` has, by axis, the options of the command line that would set the same.
    """
    if settings.matrix is None:
        return {}
    found: dict[str, Axis] = {}
    for name in AXES:
        values = getattr(settings.matrix, name)
        if values is not None:
            _refuse_twice(name, document, options)
            found[name] = _named(name, values, document)
    if not settings.matrix.model_fields_set:
        where = document.where(("matrix",))
        raise ConfigError(f"{where}: matrix has no axis", hint=f"give it one of: {', '.join(AXES)}")
    return found


def labels(axes: Mapping[str, Axis]) -> Iterator[dict[str, str]]:
    """Yield the label of each cell, by axis; one empty label where there is no axis."""
    for names in product(*(axes[name] for name in axes)):
        yield dict(zip(axes, names, strict=True))


def _named(name: str, values: Any, document: Document) -> Axis:
    where = document.where(("matrix", name))
    if not values:
        raise ConfigError(f"{where}: matrix.{name} is empty", hint="fill it or leave it out")
    if isinstance(values, dict):
        return {key: Point(value, ("matrix", name, key)) for key, value in values.items()}
    points: Axis = {}
    for i, value in enumerate(values):
        at = ("matrix", name, i)
        if str(value) in points:
            where = document.where(at)
            raise ConfigError(f"{where}: {value} is on matrix.{name} twice", hint="keep one")
        points[str(value)] = Point(value, at)
    return points


def _refuse_twice(name: str, document: Document, options: Mapping[str, str]) -> None:
    """Raise where the job or the command line also says what an axis says."""
    where = document.where(("matrix", name))
    for path in REPLACED[name]:
        here = document.data
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        if here is not None:
            key = ".".join(path)
            raise ConfigError(
                f"{where}: matrix.{name} stands in the place of '{key}', which is given as well "
                f"({document.where(path)})",
                hint=f"keep one: '{key}' for all cells, or the axis",
            )
    if name in options:
        raise ConfigError(
            f"{options[name]}: the job's matrix.{name} ({where}) says it for each cell",
            hint=f"--set matrix.{name}=... changes the axis, --set matrix.{name}=null removes it",
        )
