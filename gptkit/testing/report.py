"""What an examination finds, and the record of it while it goes on."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gptkit.errors import Terminated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gptkit.plugin_host import Kind

Severity = Literal["error", "warning"]

RAISED = "C0"
"""The code of a finding for an exception out of the plugin."""


class ConformanceError(AssertionError):
    """A plugin does not hold; the text lists all findings, one a line."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or that its author should know."""

    code: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.severity} {self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Report:
    """An examination: what was checked (code, title, seconds), what was found, what it costs.

    `skipped` are checks that could not be made here: code, title and reason. `costs` are numbers
    by what they measure, unit included.
    """

    name: str
    kind: Kind
    summary: str
    findings: tuple[Finding, ...]
    checks_run: tuple[tuple[str, str, float], ...]
    costs: Mapping[str, float]
    skipped: tuple[tuple[str, str, str], ...] = ()
    owner: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are none."""
        return not any(finding.severity == "error" for finding in self.findings)

    def check(self) -> None:
        """Raise ConformanceError unless all is well."""
        if not self.ok:
            lines = "\n".join(f"  {finding}" for finding in self.findings)
            raise ConformanceError(f"{self.kind} '{self.name}' does not conform:\n{lines}")


@dataclass(slots=True)
class Examination:
    """The record while a plugin is examined; `file` is where its code is."""

    name: str
    kind: Kind
    summary: str
    file: str = ""
    findings: list[Finding] = field(default_factory=list)
    checks_run: list[tuple[str, str, float]] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)

    def check(self, code: str, title: str, made: Callable[..., None], *args: Any) -> bool:
        """Make one check, `made(self, *args)`; return whether it found no error.

        What a plugin raises is a finding, wherever it does, sys.exit included.
        """
        n_before = len(self.errors)
        start = time.perf_counter()
        try:
            made(self, *args)
        except Terminated:
            raise
        except (Exception, SystemExit) as error:
            self.find(RAISED, f"{title}: {self._said(error)}")
        self.checks_run.append((code, title, time.perf_counter() - start))
        return len(self.errors) == n_before

    def find(self, code: str, message: str, severity: Severity = "error") -> None:
        """Note a finding, the first of each code: the others follow from it more often than not."""
        if not any(finding.code == code for finding in self.findings):
            self.findings.append(Finding(code, message, severity))

    def skip(self, code: str, title: str, reason: str) -> None:
        """Note a check that can't be made."""
        self.skipped.append((code, title, reason))

    @property
    def errors(self) -> list[Finding]:
        """The findings that are errors."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def report(self) -> Report:
        """Return the finished report."""
        return Report(
            self.name,
            self.kind,
            self.summary,
            tuple(self.findings),
            tuple(self.checks_run),
            dict(self.costs),
            tuple(self.skipped),
        )

    def _said(self, error: BaseException) -> str:
        """Return an exception in one line, with the last place in the plugin's file, or in any."""
        text = " ".join(str(error).split())
        said = f"{type(error).__name__}: {text}" if text else type(error).__name__
        places = traceback.extract_tb((error.__cause__ or error).__traceback__)
        own = [place for place in places if place.filename == self.file]
        last = (own or places)[-1]
        return f"{said} (line {last.lineno} of {last.filename})"
