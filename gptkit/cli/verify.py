"""`gptkit run JOB --verify N`: what came of rows that were computed again."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gptkit.cli import options
from gptkit.jobs.events import Note
from gptkit.text.safe import safe_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from gptkit.assembly import Model
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.jobs.job import Job
    from gptkit.jobs.runtime import How
    from gptkit.jobs.verify import Compared, Difference

MAX_SHOWN = 60
"""Characters of a value that a difference shows."""


def show_verified(
    job: Job, load: Callable[[Checkpoint], Model], how: How, n: int, *, as_json: bool
) -> bool:
    """Compute n rows again and print what came of it; return whether all were equal."""
    from gptkit.jobs.verify import verify

    for line in job.notes:
        options.note(line)
    found: list[Compared] = []
    with closing(verify(job, load, how, n)) as events:
        for event in events:
            if isinstance(event, Note):
                options.note(event.text)
            else:
                found.append(event)
    different = [one for compared in found for one in compared.differences]
    if as_json:
        print(json.dumps(_summary(found, different), ensure_ascii=False))
        return not different
    for one in different:
        print(_sentence(one))
    print(_conclusion(job, found))
    return not different


def _sentence(one: Difference) -> str:
    cell = "".join(f", {axis} {name}" for axis, name in one.cell.items())
    named = f" (id {one.id})" if one.id is not None else ""
    pair = " -> ".join(_cut(json.dumps(v, ensure_ascii=False)) for v in (one.there, one.again))
    return safe_line(f"row {one.index:,}{named}{cell}: {one.field}: {pair}")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _conclusion(job: Job, found: list[Compared]) -> str:
    rows = {one.index for one in found}
    differ = {one.index for one in found if one.differences}
    by_clock = sum(one.by_clock for one in found)
    n_cells = len(job.cells)
    said = f"{len(rows):,} row{'s' * (len(rows) != 1)} recomputed alone"
    said += f" in {n_cells:,} cells: " if n_cells > 1 else ": "
    said += f"{len(differ):,} different" if differ else "all equal"
    if by_clock:
        said += f"; {by_clock:,} ended by the clock, which can't be compared"
    return said


def _summary(found: list[Compared], different: list[Difference]) -> dict[str, Any]:
    return {
        "rows": sorted({one.index for one in found}),
        "lines": len(found),
        "by_clock": sum(one.by_clock for one in found),
        "differences": [{**asdict(one), "cell": dict(one.cell)} for one in different],
    }
