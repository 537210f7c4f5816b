"""Every error that a user may meet, each with the exit code of its kind.

GptkitError                 1  a computation that can't go on
├── ConfigError             2  a value in a settings file, a job or a command line
├── UnknownName             2  nothing is registered under that name
├── PluginError             1  a plugin broke a rule of the plugin api
│   └── NameClash           2  two plugins claim one name
├── CheckpointError         3  weights or tokenizer files that we refuse, or that don't fit
├── RequestError            2  a request that this model or mode can't serve
│   └── ContextOverflow     2  prompt and new tokens don't fit in block_size
├── NonFiniteLogits         1  the model answered with NaN or infinity
├── ResumeRefused           5  what was begun is not what is asked for now, or runs already
└── ResourceError           6  the disk or the memory gave out
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class GptkitError(Exception):
    """Root of the tree: one line that says what and where, and a hint that says what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(GptkitError):
    """A value in a settings file, a job or a command line is wrong."""

    exit_code = 2


class UnknownName(GptkitError):
    """Nothing is registered under that name."""

    exit_code = 2


class PluginError(GptkitError):
    """A plugin broke a rule of the plugin api."""


class NameClash(PluginError):
    """Two plugins claim one name."""

    exit_code = 2


class CheckpointError(GptkitError):
    """Weights or tokenizer files that we refuse, or that don't fit."""

    exit_code = 3


class RequestError(GptkitError):
    """A request that this model or mode can't serve."""

    exit_code = 2


class ContextOverflow(RequestError):
    """Prompt and new tokens don't fit in `block_size`."""


class NonFiniteLogits(GptkitError):
    """The model answered with NaN or infinity."""


class ResumeRefused(GptkitError):
    """What was begun can't go on: it is not what is asked for now, or it runs already."""

    exit_code = 5


class ResourceError(GptkitError):
    """The disk or the memory gave out."""

    exit_code = 6


class Terminated(SystemExit):
    """SIGTERM has come: whoever catches what plugins raise must let this one pass."""

    def __init__(self) -> None:
        super().__init__(143)


class plugin_code:  # used as a statement; a generator's would cost each token more
    """Run a plugin's code as that of `who`; what it raises becomes an error that names it.

    Ctrl-C and SIGTERM are the user's, and pass.
    """

    __slots__ = ("who",)

    def __init__(self, who: str) -> None:
        self.who = who

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        ours = isinstance(error, (GptkitError, Terminated))
        if not ours and isinstance(error, (Exception, SystemExit)):
            raise plugin_failure(self.who, error) from error


def plugin_failure(who: str, error: BaseException) -> PluginError:
    """Return what to raise for an exception out of a plugin's code, which may raise anything."""
    if isinstance(error, SystemExit):
        return PluginError(f"{who} called sys.exit({error.code})")
    try:
        text = " ".join(str(error).split())
    except Exception:  # the text of an exception of its own fails too
        text = ""
    return PluginError(f"{who} failed: {type(error).__name__}: {text}".removesuffix(": "))


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint that names the nearest known word, or None where nothing is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean '{near[0]}'?" if near else None
