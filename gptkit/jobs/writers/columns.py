"""The columns of a table of output rows: what the job asks for decides them, not what came out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Kind = Literal["whole", "number", "text", "logprobs", "samples", "samples with logprobs"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and where its value stands in an output row, which may lack it."""

    path: tuple[str, ...]
    kind: Kind

    @property
    def name(self) -> str:
        """The keys on the way to the value."""
        return "_".join(self.path)

    def value(self, row: Mapping[str, Any]) -> Any:
        """Return the value of a row; None where there is none.

        A column of text has text alone: an id that is a number is written as one, other values of
        the input as JSON.
        """
        value: Any = row
        for key in self.path:
            value = value.get(key) if isinstance(value, dict) else None
        if self.kind == "text" and value is not None and not isinstance(value, str):
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        return value


def columns(
    task: str, n: int, logprobs: int | None, axes: Iterable[str] = (), keep: Iterable[str] = ()
) -> tuple[Column, ...]:
    """Return the columns of a job's output.

    `axes` are those of its matrix, `keep` the fields of the input that go into the output.
    """
    found = [
        Column(("index",), "whole"),
        Column(("id",), "text"),
        *(Column(("cell", axis), "text") for axis in axes),
        *(Column(("fields", name), "text") for name in keep),
    ]
    if task == "score":
        found += [
            Column(("tokens",), "whole"),
            *(Column((name,), "number") for name in ("logprob", "perplexity", "bits_per_byte")),
        ]
    elif n > 1:
        kind: Kind = "samples" if logprobs is None else "samples with logprobs"
        found += [Column(("prompt_tokens",), "whole"), Column(("samples",), kind)]
    else:
        found += [
            *(Column((name,), "text") for name in ("text", "finish_reason")),
            *(Column((name,), "whole") for name in ("prompt_tokens", "new_tokens", "seed")),
        ]
        if logprobs is not None:
            found.append(Column(("logprobs",), "logprobs"))
    return (*found, Column(("error", "type"), "text"), Column(("error", "message"), "text"))
