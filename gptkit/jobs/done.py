"""Which rows are done, in which cells: those of the input that have a line in the journal."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit.errors import ResumeRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gptkit.jobs.journal import Journal
    from gptkit.jobs.rows import Row

NOWHERE = -1


class Done:
    """The place in the journal of each row and cell that is done: 8 bytes each."""

    def __init__(self, n_rows: int, n_cells: int) -> None:
        self.n_rows, self.n_cells = n_rows, n_cells
        self._places = array("q", [NOWHERE]) * (n_rows * n_cells)
        self.n_done = 0

    @property
    def n_all(self) -> int:
        """How many there will be."""
        return len(self._places)

    def n_left(self, cell: int | None = None) -> int:
        """Return how many are not done, in one cell or in all."""
        if cell is None:
            return self.n_all - self.n_done
        return self._places[cell :: self.n_cells].count(NOWHERE)

    def place(self, index: int, cell: int) -> int:
        """Return where a row's line stands; NOWHERE where it is not done."""
        return self._places[index * self.n_cells + cell]

    def add(self, index: int, cell: int, place: int) -> None:
        """Note where the line of a row stands."""
        self.n_done += self.place(index, cell) == NOWHERE
        self._places[index * self.n_cells + cell] = place


@dataclass(slots=True)
class Counts:
    """What is done: answers, errors by type, and how many of those may be retried.

    `n_shortened` counts shortened prompts, `n_gone` rows of the journal that the input has no more.
    """

    n_ok: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    n_retryable: int = 0
    n_shortened: int = 0
    n_gone: int = 0

    def add(self, error: str | None, may_retry: bool, is_shortened: bool) -> None:
        """Count one more; `error` is the type of its error, if it has one."""
        if error is None:
            self.n_ok += 1
        else:
            self.failures[error] += 1
        self.n_retryable += may_retry
        self.n_shortened += is_shortened


@dataclass(frozen=True, slots=True)
class _Kind:
    """What else is known of a line in the journal; there are few different ones."""

    error: str | None
    may_retry: bool
    is_shortened: bool


def match(journal: Journal, rows: Iterable[Row], done: Done, *, retry_errors: bool) -> Counts:
    """Find the rows of an input in the journal, and add them to those that are done.

    With `retry_errors` an error that came up while computing is not done, nor is a row that had an
    error and was changed since. Raise ResumeRefused for any other row that was changed.

    Needs 50 bytes for each line of the journal while it runs.
    """
    import numpy as np

    names, digests, places, kinds = array("Q"), array("Q"), array("q"), array("H")
    known: dict[_Kind, int] = {}
    for place, record in journal.rows():
        names.append(_name(record["cell"], record["key"], record["digest"]))
        digests.append(int(record["digest"], 16))
        places.append(place)
        kinds.append(known.setdefault(_kind(record), len(known)))
    order = np.argsort(np.frombuffer(names, np.uint64), kind="stable")
    by_name = array("Q", np.frombuffer(names, np.uint64)[order].tobytes())
    del names
    by_kind = list(known)
    counts, found = Counts(), 0
    for row in rows:
        for cell in range(done.n_cells):
            name = _name(cell, row.key, row.digest)
            at = bisect_right(by_name, name) - 1  # the last of several: that one counts
            if at < 0 or by_name[at] != name:
                continue
            line = int(order[at])
            kind = by_kind[kinds[line]]
            if digests[line] != int(row.digest, 16):
                if not _is_same(journal.read(places[line]), cell, row):
                    continue  # another row, whose name has the same hash
                found += 1
                if not (retry_errors and kind.error):
                    raise _changed(row)
                continue
            found += 1
            if retry_errors and kind.may_retry:
                continue
            done.add(row.index, cell, places[line])
            counts.add(kind.error, kind.may_retry, kind.is_shortened)
    counts.n_gone = len(by_name) - _n_repeated(by_name) - found
    return counts


def _kind(record: Mapping[str, Any]) -> _Kind:
    error = record["row"].get("error")
    return _Kind(
        error["type"] if error else None,
        record.get("may_retry", False),
        record.get("shortened", False),
    )


def _name(cell: int, key: str, digest: str) -> int:
    """Return a hash of what a row of a cell is known by."""
    text = "{} {} {}".format(cell, *_known_by(key, digest)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _known_by(key: str, digest: str) -> tuple[str, str]:
    """Return what stays of a row when its content changes: its id, or where it has none its line.

    The key of a row without id ends with its digest.
    """
    of_line = key.endswith(f":{digest}")
    return ("line", key.removesuffix(digest)) if of_line else ("id", key)


def _is_same(record: Mapping[str, Any], cell: int, row: Row) -> bool:
    known_by = _known_by(record["key"], record["digest"])
    return record["cell"] == cell and known_by == _known_by(row.key, row.digest)


def _n_repeated(names: array[int]) -> int:
    return sum(names[i] == names[i - 1] for i in range(1, len(names)))


def _changed(row: Row) -> ResumeRefused:
    if row.id is None:
        said = "this line was changed since it was computed"
        hint = "put it back, or begin anew with --restart; a row with an id may stand anywhere"
    else:
        said = f"row {row.id!r} was changed since it was computed"
        hint = "put it back or give it another id; --restart computes all rows anew"
    return ResumeRefused(f"{row.file}:{row.line}: {said}", hint=hint)
