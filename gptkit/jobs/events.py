"""What happens in a job, told while it happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gptkit.jobs.job import Cell


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know that is no error."""

    text: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """There is a journal to go on with, and what it has.

    `n_cut_bytes` were torn at its end, `n_damaged` lines before that can't be read; `n_gone` rows
    are in the input no more.
    """

    n_done: int
    n_rows: int
    n_cut_bytes: int = 0
    n_damaged: int = 0
    n_gone: int = 0


class Described(Protocol):
    """What is said of a model, wherever it is."""

    @property
    def name(self) -> str:
        """What its folder is called."""

    @property
    def device(self) -> str:
        """Where it computes."""

    @property
    def dtype(self) -> str:
        """What it computes in."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it."""


@dataclass(frozen=True, slots=True)
class Started:
    """A model is there; its rows come next, once for each of its cells."""

    model: Described
    cells: tuple[Cell, ...]
    n_rows: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; the last one is its summary.

    A row counts once for each cell. `n_ok` and `failures`, which counts rows by the type of their
    error, are of all rows that are done. `n_resumed` of them were done before this run; tokens are
    those of this run. `n_reused` tokens of prompts were not computed, for they were there.
    `n_shortened` counts prompts that lost examples or tokens, so that they fit.
    """

    n_rows: int
    n_ok: int = 0
    n_shortened: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    n_reused: int = 0
    n_resumed: int = 0

    @property
    def n_failed(self) -> int:
        """Rows that have an error."""
        return sum(self.failures.values())

    @property
    def n_done(self) -> int:
        """Rows that have an answer or an error."""
        return self.n_ok + self.n_failed


@dataclass(frozen=True, slots=True)
class Finished:
    """The output is there. `was_there` tells that it had been, and nothing was touched."""

    was_there: bool = False


Event = Note | Resumed | Started | Progress | Finished
