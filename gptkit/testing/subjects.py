"""What there is to examine: the plugins of a distribution or a file, or those of one name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.errors import UnknownName, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gptkit.plugin_host import Found, Loaded


@dataclass(frozen=True, slots=True)
class Subject:
    """One plugin to examine, `plugin`, or one that did not load and the reason for that."""

    kind: str
    name: str
    owner: str
    plugin: Any = None
    reason: str | None = None


def find(target: str) -> list[Subject]:
    """Return the plugins of a distribution, of a file, or of a name; raise UnknownName.

    A `.py` file is as in GPTKIT_PLUGINS, a `.yaml` file one template; a name is as users type it,
    `distribution/name` too.
    """
    from gptkit.plugin_host import discover, index, load

    if target.endswith(".py"):
        return list(_of(load(discover(entry_points=(), files=(target,)))))
    if target.endswith(".yaml"):
        return [_template(Path(target))]
    installed = discover()
    if mine := [one for one in installed if _normal(one.distribution) == _normal(target)]:
        return list(_of(load(mine)))
    registry = index(load(installed))
    bare = target.rpartition("/")[2]
    kinds = sorted({offer.kind for offer in registry.offers() if offer.name == bare})
    if not kinds:
        known = [*_distributions(installed), *(offer.name for offer in registry.offers())]
        raise UnknownName(
            f"no distribution, plugin or file is called '{target}'",
            hint=did_you_mean(target, known) or "see gptkit plugins list",
        )
    offers = [registry.find(kind, target) for kind in kinds]
    return [Subject(one.kind, one.name, one.source.owner, one.value) for one in offers]


def _of(plugins: Iterable[Loaded]) -> Iterator[Subject]:
    for plugin in plugins:
        source = plugin.source
        if plugin.reason is not None:
            yield Subject("plugin", source.name, source.owner, reason=plugin.reason)
        for offer in plugin.offers:
            yield Subject(offer.kind, offer.name, source.owner, offer.value)


def _template(path: Path) -> Subject:
    reason = None if path.is_file() else f"no such file: {path}"
    return Subject("template", path.stem, str(path), path, reason)


def _distributions(installed: list[Found]) -> list[str]:
    return sorted({one.distribution for one in installed})


def _normal(name: str) -> str:
    """Return a distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
