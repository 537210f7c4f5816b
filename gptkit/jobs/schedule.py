"""In which order rows are computed: those that begin alike together, the longest first.

The engine keeps a prefix for as long as somebody has it, so rows that share one are best computed
side by side. And the last row to begin should be a short one: whoever is long then, is alone.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptkit.jobs.batch import Task
    from gptkit.jobs.rows import Row

Prefix = tuple[int, ...]


class Waiting:
    """The tasks that wait for a place, and which of them is next."""

    def __init__(self) -> None:
        self._by_prefix: dict[Prefix, list[tuple[int, int, Task]]] = {}
        self._current: Prefix | None = None
        self._came = count()

    def __len__(self) -> int:
        return sum(map(len, self._by_prefix.values()))

    def add(self, task: Task) -> None:
        """Take in one more."""
        ids = task.request.prompt_ids
        prefix = ids[: task.request.n_shared]
        group = self._by_prefix.setdefault(prefix, [])
        heapq.heappush(group, (-len(ids), next(self._came), task))

    def take(self) -> Task:
        """Hand out the next one, of which there must be one: the longest that shares the prefix of
        the one before, else of the prefix that the most tasks share."""
        if self._current is None or self._current not in self._by_prefix:
            groups = self._by_prefix
            self._current = max(groups, key=lambda prefix: (len(groups[prefix]), len(prefix)))
        group = self._by_prefix[self._current]
        *_, task = heapq.heappop(group)
        if not group:
            del self._by_prefix[self._current]
        return task

    def drop(self, row: Row) -> None:
        """Forget the tasks of a row."""
        for prefix, group in list(self._by_prefix.items()):
            kept = [entry for entry in group if entry[2].row.index != row.index]
            if not kept:
                del self._by_prefix[prefix]
            elif len(kept) < len(group):
                heapq.heapify(kept)
                self._by_prefix[prefix] = kept
