"""Allow only tokens that lead to a text of a given form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import ConfigError, Observed, Params, Rows, Sampler, param

from .grammar import GrammarError, Walk, compiled, llguidance, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from gptkit.plugin_api import RequestView


WHITE_SPACE = " |\\n {0,16}"
"""Between the parts of JSON one space, or a new line and its indent, unless the schema's own
`x-guidance` says otherwise: with as much as it likes a model may write nothing else."""


class Constraint(Sampler):
    """Allow only what leads to a text of one form (llguidance; Willard and Louf 2023).

    The answer matches a regex as a whole, is JSON that a schema describes, is one of some texts, or
    is a sentence of a Lark grammar. It may end only where it is complete.
    """

    name = "constraint"
    phase = "constraint"
    rank = 10
    state_from = "token"
    regex = param(
        "", off="", examples=("", "(?s:.*)", "[a-z ]*"), help="a pattern that all of it matches"
    )
    json_schema = param(
        "", off="", examples=("", '{"type": "array"}'), help="a JSON Schema, or the path of one"
    )
    choice = param(
        (), items=str, off=(), examples=((), ("yes " * 40, "no " * 40)), help="texts to choose from"
    )
    lark = param(
        "", off="", examples=("", 'start: ("a" | "b")*'), help="a Lark grammar, or a .lark file"
    )

    @classmethod
    def read_files(cls, values: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        """Return the values with the schema or the grammar itself instead of its path."""
        found = dict(values)
        schema, lark = values["json_schema"], values["lark"]
        if schema:
            found["json_schema"] = _schema(schema, folder)
        if lark and _is_path(lark):
            found["lark"] = _read("lark", folder / lark)
        return found

    def init_state(self, request: RequestView) -> Walk | None:
        """Return the walk's beginning; None where the stage is off."""
        given = [key for key in self.params if request.params[key]]
        if not given:
            return None
        if len(given) > 1:
            raise ConfigError(
                f"constraint has both {given[0]} and {given[1]}", hint="an answer has one form"
            )
        key = given[0]
        lark = _lark(key, request.params)
        try:
            walk = compiled(table_of(request.vocab), lark, request.stop_ids).start
        except GrammarError as error:
            said = str(error) if key == "lark" else re.sub(r"^at \d+\(\d+\): ", "", str(error))
            raise ConfigError(f"constraint.{key}: {said}") from error
        if walk.is_done:
            raise ConfigError(f"constraint.{key}: no text but the empty one fits")
        if not any(walk.allowed):
            raise ConfigError(f"constraint.{key}: no token of this vocabulary can begin the answer")
        return walk

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] with all that the walk of each row does not allow at -inf."""
        import numpy as np
        import torch

        allowed = np.ones((rows.R, rows.V), np.uint8)
        for row, walk in zip(allowed, rows.state, strict=True):
            if walk is not None:
                packed = np.frombuffer(walk.allowed, np.uint8)
                row[:] = np.unpackbits(packed, count=rows.V, bitorder="little")
        mask = torch.from_numpy(allowed.view(np.bool_)).to(rows.device)
        return logits.where(mask, float("-inf"))

    def advance(self, state: Any, p: Params, observed: Observed) -> Walk | None:
        """Return the walk after the token.

        It is None after one that the grammar refuses: a draft may hold such a token, and the rows
        behind it are thrown away.
        """
        return state.after(observed.token) if state is not None else None

    def is_done(self, state: Any) -> bool:
        """Return whether the answer is complete and nothing can follow."""
        return state is not None and state.is_done


def _lark(key: str, values: Mapping[str, Any]) -> str:
    """Return the grammar that one parameter asks for."""
    value = values[key]
    if key == "choice":
        return "start: " + " | ".join(json.dumps(text) for text in value)
    if key == "regex":
        return f"start: /{llguidance().regex_to_lark(value, '')}/"
    if key == "lark":
        return _read(key, Path(value)) if _is_path(value) else value
    return f"start: %json {_schema(value)}"


def _is_path(lark: str) -> bool:
    return re.fullmatch(r".*\.lark", lark) is not None


def _schema(value: str, folder: Path = Path()) -> str:
    """Return a schema as one line of JSON; what begins with a brace is no path."""
    if value.lstrip().startswith("{"):
        text, where = value, ""
    else:
        text, where = _read("json_schema", folder / value), f"{folder / value}: "
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"constraint.json_schema: {where}not JSON ({error.msg} in line {error.lineno}, column "
            f"{error.colno})"
        ) from error
    except RecursionError:
        raise ConfigError(f"constraint.json_schema: {where}nested too deeply") from None
    if not isinstance(schema, dict):
        raise ConfigError(f"constraint.json_schema: {where}a schema is an object")
    own = schema.setdefault("x-guidance", {})
    if isinstance(own, dict) and not own.keys() & {"whitespace_pattern", "whitespace_flexible"}:
        schema["x-guidance"] = {"whitespace_pattern": WHITE_SPACE, **own}
    return json.dumps(schema)


def _read(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"constraint.{key}: can't read {path}: {error.strerror or error}",
            hint="a schema in place begins with {" if key == "json_schema" else None,
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"constraint.{key}: {path} is not UTF-8 at byte {error.start:,}"
        ) from error
