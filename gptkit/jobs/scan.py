"""The look at all rows before anything is computed: how many, which fields, whose keys differ."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gptkit.errors import ConfigError
from gptkit.jobs.rows import key_hash

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from gptkit.jobs.readers import Inputs
    from gptkit.jobs.rows import Row

LENIENT = "invalid_unicode"
"""The fault that is never refused: half a character is a matter of its row alone."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a look at all rows found: how many, and which of the wanted fields any row has.

    `fields` are the names in the first row that has any. `digest` changes with any row.
    """

    n_rows: int
    seen: frozenset[str]
    fields: tuple[str, ...]
    digest: str


def scan(
    inputs: Inputs, wanted: Collection[str], *, refuse_bad: bool, allow_duplicates: bool = False
) -> tuple[Inputs, Scan]:
    """Read all rows once; return them, with keys that differ, and what was found.

    Raise ConfigError for an id given twice, unless that is allowed, and, if asked to, for a row
    that can't be read. Needs 8 bytes for each row, and 24 for a moment.
    """
    missing = set(wanted)
    first: tuple[str, ...] = ()
    hashes, digest = array("Q"), hashlib.sha256()
    for row in inputs:
        if refuse_bad and row.fault is not None and row.fault.type != LENIENT:
            raise _bad(row)
        first = first or tuple(row.fields)
        missing -= row.fields.keys()
        hashes.append(key_hash(row.key))
        digest.update(f"{row.key}\0{row.digest}\n".encode())
    found = Scan(len(hashes), frozenset(wanted) - missing, first, digest.hexdigest())
    pairs = _pairs(hashes)
    if not pairs:
        return inputs, found
    if allow_duplicates:
        return _numbered(inputs, frozenset(hashes[later] for _, later in pairs)), found
    for earlier, later in pairs:
        _check_pair(inputs, earlier, later, "give each row an id of its own, or leave ids out")
    return inputs, found


def _bad(row: Row) -> ConfigError:
    """Return what to raise for a row that can't be read."""
    said = row.fault.message if row.fault else ""
    hint = "`on_bad_row: error_row` gives such a row an error and goes on"
    if row.fault and row.fault.type == "invalid_encoding":
        hint = f"`encoding: latin-1`, or whatever the file is written in; {hint}"
    return ConfigError(f"{row.file}:{row.line}: {said}", hint=hint)


# Keys -----------------------------------------------------------------------------------------


def _pairs(hashes: array[int]) -> list[tuple[int, int]]:
    """Return the numbers of rows whose hash an earlier row has, each with that row's, in order."""
    import numpy as np

    values = np.frombuffer(hashes, np.uint64) if hashes else np.zeros(0, np.uint64)
    order = np.argsort(values, kind="stable")
    again = np.flatnonzero(values[order[1:]] == values[order[:-1]])
    pairs = ((int(order[i]), int(order[i + 1])) for i in again)
    return sorted(pairs, key=lambda pair: pair[1])


def _numbered(inputs: Inputs, repeated: frozenset[int]) -> Inputs:
    """Return inputs whose repeated keys have numbers; raise ConfigError if those clash with ids."""
    numbered = replace(inputs, repeated=repeated)
    hashes = array("Q", (key_hash(row.key) for row in numbered))
    for earlier, later in _pairs(hashes):
        _check_pair(
            numbered, earlier, later, "an id that repeats is known as ID#2: rename that one"
        )
    return numbered


def _check_pair(inputs: Inputs, earlier: int, later: int, hint: str) -> None:
    """Raise if two rows have one key, and not only one hash."""
    first, second = _two(inputs, earlier, later)
    if first.key != second.key:
        return
    name = f"id {first.id if first.id is not None else first.key!r}"
    if first.file == second.file:
        raise ConfigError(
            f"{first.file}: {name} at lines {first.line:,} and {second.line:,}", hint=hint
        )
    raise ConfigError(
        f"inputs: {name} at {first.file}:{first.line} and {second.file}:{second.line}", hint=hint
    )


def _two(inputs: Inputs, earlier: int, later: int) -> Iterator[Row]:
    rows = iter(inputs)
    for row in rows:
        if row.index in (earlier, later):
            yield row
        if row.index >= later:
            return
