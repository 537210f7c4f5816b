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
    twice = _Twice(hashes)
    if allow_duplicates and twice.hashes:
        return _numbered(inputs, frozenset(twice.hashes)), found
    twice.refuse(inputs, hint="give each row an id of its own, or leave ids out")
    return inputs, found


def _bad(row: Row) -> ConfigError:
    """Return what to raise for a row that can't be read."""
    said = row.fault.message if row.fault else ""
    hint = "`on_bad_row: error_row` gives such a row an error and goes on"
    if row.fault and row.fault.type == "invalid_encoding":
        hint = f"`encoding: latin-1`, or whatever the file is written in; {hint}"
    return ConfigError(f"{row.file}:{row.line}: {said}", hint=hint)


# Keys -----------------------------------------------------------------------------------------


class _Twice:
    """The rows whose hash an earlier row has, by their numbers."""

    def __init__(self, hashes: array[int]) -> None:
        import numpy as np

        values = np.array(hashes, np.uint64)
        self._order = np.argsort(values, kind="stable")
        values = values[self._order]
        self._later = np.flatnonzero(values[1:] == values[:-1]) + 1
        self._first = np.searchsorted(values, values[self._later])
        self.hashes = [int(one) for one in values[self._later]]

    def refuse(self, inputs: Inputs, hint: str) -> None:
        """Raise ConfigError for the first row whose key, and not only the hash, is given twice."""
        for i in self._order[self._later].argsort():
            later = self._later[i]
            for earlier in range(self._first[i], later):
                _check_pair(inputs, int(self._order[earlier]), int(self._order[later]), hint)


def _numbered(inputs: Inputs, repeated: frozenset[int]) -> Inputs:
    """Return inputs whose repeated keys have numbers; raise ConfigError if those clash with ids."""
    numbered = replace(inputs, repeated=repeated)
    twice = _Twice(array("Q", (key_hash(row.key) for row in numbered)))
    twice.refuse(numbered, hint="an id that repeats is known as ID#2: rename that one")
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
