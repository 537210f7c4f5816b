"""A pytest plugin: `pytest --gptkit DIST` examines each plugin of an installed distribution.

DIST may also be a `.py` file, as in GPTKIT_PLUGINS, or one plugin's name. pytest loads this at
every start, wherever gptkit is installed, so it imports next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gptkit.errors import GptkitError
from gptkit.testing import ConformanceError, examine, subjects

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --gptkit."""
    parser.getgroup("gptkit").addoption(
        "--gptkit",
        dest="gptkit_plugins",
        action="append",
        default=[],
        metavar="DIST",
        help="run gptkit's conformance kit on every plugin of a distribution or of a file",
    )


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add an item for each plugin that was asked for."""
    for name in config.getoption("gptkit_plugins"):
        items += _items(session, name)


class PluginItem(pytest.Item):
    """One plugin to examine, or the reason why it did not load."""

    def __init__(self, *, plugin: Any, reason: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plugin, self.reason = plugin, reason

    def runtest(self) -> None:
        """Examine it."""
        if self.reason is not None:
            raise ConformanceError(f"{self.name} did not load: {self.reason}")
        examine(self.plugin).check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the findings; where they come from in the kit helps nobody."""
        if isinstance(excinfo.value, ConformanceError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return what stands in the list of failures."""
        return self.path, None, f"gptkit {self.name}"


def _items(session: pytest.Session, target: str) -> Iterator[PluginItem]:
    try:
        found = subjects.find(target)
    except GptkitError as error:
        raise pytest.UsageError(f"--gptkit: {error}") from error
    for one in found:
        name = f"{one.kind}:{one.name}"
        yield PluginItem.from_parent(session, name=name, plugin=one.plugin, reason=one.reason)
