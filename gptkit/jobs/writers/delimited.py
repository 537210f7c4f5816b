"""CSV and TSV: a header, then a line for each row; lists are JSON in their cell."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gptkit.jobs.writers.columns import Column
    from gptkit.jobs.writers.packed import Put

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet run a cell: https://owasp.org/www-community/attacks/CSV_Injection."""


def write(
    put: Put,
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column],
    delimiter: str,
    *,
    csv_safe: bool = False,
) -> None:
    """Write a header and each row as a line. No value is an empty cell, empty text is `""`.

    With `csv_safe`, text that a spreadsheet would run gets a ' before it.
    """
    # Not the csv module, whose idea of what needs quotes depends on the version of Python.
    quoted = re.compile(f'[{delimiter}"\r\n]')

    def cell(value: Any, is_text: bool) -> str:
        if value is None:
            return ""
        said = value if isinstance(value, str) else _json(value)
        if csv_safe and is_text and said.startswith(_FORMULA):
            said = f"'{said}"
        return said if said and not quoted.search(said) else '"' + said.replace('"', '""') + '"'

    put((delimiter.join(cell(one.name, True) for one in columns) + "\n").encode())
    for row in rows:
        cells = (cell(one.value(row), one.kind == "text") for one in columns)
        put((delimiter.join(cells) + "\n").encode())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
