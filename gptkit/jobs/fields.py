"""What a template takes from a row or an example: its fields, as text."""

from __future__ import annotations

import json
from base64 import b64encode
from itertools import islice
from typing import TYPE_CHECKING, Any

from gptkit.errors import RequestError
from gptkit.jobs.rows import json_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gptkit.jobs.rows import Row


class BadRow(RequestError):
    """A row that can't fill its template; `type` is the word for it in the output."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


def texts(
    row: Mapping[str, Any], names: Iterable[str], columns: Mapping[str, str]
) -> dict[str, str]:
    """Return the fields `names` of a row; raise BadRow naming the first that is wrong.

    `columns` says which field of the row serves as which of the template. Numbers are written as
    in JSON; there is no obvious text for a list, an object, null, or true and false.
    """
    made = {}
    for name in sorted(names):
        column = columns.get(name, name)
        if column not in row:
            has = ", ".join(islice(row, 10)) or "none"
            raise BadRow("missing_field", f"no field '{column}'; there are: {has}")
        value = row[column]
        if type(value) in (int, float):
            value = json.dumps(value)
        if not isinstance(value, str):
            raise BadRow("invalid_field", f"field '{column}' is {json_kind(value)}, not text")
        made[name] = value
    return made


def kept(row: Row, names: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a row that go into the output: null for one that it has not.

    Bytes, which Parquet may have, are written in base 64.
    """
    return {name: _written(row.fields.get(name)) for name in names}


def _written(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _written(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_written(one) for one in value]
    return value
