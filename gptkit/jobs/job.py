"""A checked job: what is the same for all its rows, and its cells, each a way to answer a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.decoding.method import Method
    from gptkit.decoding.request import Chain
    from gptkit.jobs.readers import Inputs
    from gptkit.jobs.scan import Scan
    from gptkit.jobs.selection import Examples
    from gptkit.jobs.spec import Task
    from gptkit.jobs.storage import Remote
    from gptkit.plugin_api import Template
    from gptkit.plugin_host import Registry

CHAT_FIELD = "text"
"""The field of a row that is the user's turn, where the template is a chat template."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to answer every row: a model, a template, a chain and a seed.

    `label` has the names that this cell has on the axes of a matrix; without one it is empty.
    Cells of one model have the same `source`. `stop` is a block still: a template's stop tokens
    need the tokenizer. `room` is how many tokens a prompt may have.
    """

    label: Mapping[str, str]
    source: Checkpoint
    template: Template | ChatTemplate
    system: str | None
    examples: Examples
    columns: Mapping[str, str]
    chain: Chain
    method: Method
    stop: Mapping[str, Any]
    room: int
    seed: int

    @property
    def wanted(self) -> frozenset[str]:
        """The template's fields that a row must fill."""
        return wanted(self.template)


@dataclass(frozen=True, slots=True)
class Job:
    """A checked job: for each row of `inputs`, `n` answers of each cell.

    `logprobs` is how many other tokens are recorded beside each, None for no log-probabilities.
    `settings` is what the file at `path` says, changed by `--set`.
    """

    path: Path
    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]
    inputs: Inputs
    outputs: Path
    task: Task
    n: int
    logprobs: int | None
    on_overflow: str
    on_error: str
    csv_safe: bool
    keep: tuple[str, ...]
    batch_size: int
    drawn_seed: int | None
    """The seed, where nobody gave one."""
    scan: Scan
    registry: Registry
    notes: tuple[str, ...] = ()
    remote: Remote | None = None
    """Where the output goes that is made at `outputs`, if it goes anywhere else."""

    @property
    def destination(self) -> str:
        """Where the output is in the end."""
        return self.remote.url if self.remote else str(self.outputs)


def wanted(template: Template | ChatTemplate) -> frozenset[str]:
    """Return the fields of a template that a row must fill."""
    return frozenset({CHAT_FIELD}) if isinstance(template, ChatTemplate) else template.inputs
