"""What earlier runs left beside an output, and whether this job may go on with it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.errors import ResumeRefused
from gptkit.jobs import manifest
from gptkit.jobs.files import Files, shown
from gptkit.jobs.fingerprint import differences
from gptkit.jobs.journal import Journal
from gptkit.jobs.runtime import check_chosen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gptkit.jobs.fingerprint import Fingerprint
    from gptkit.jobs.job import Job
    from gptkit.jobs.runtime import How

_OTHERWISE = "give another --output, or begin anew with --restart"
_TOLD = 4
"""Differences that a message lists."""


@dataclass(frozen=True, slots=True)
class Before:
    """What there is to go on with: a journal that is open, and its header.

    `finished` is the manifest of an output to which nothing is to be added.
    """

    journal: Journal | None = None
    header: Mapping[str, Any] | None = None
    finished: Mapping[str, Any] | None = None


def find(job: Job, files: Files, fingerprint: Fingerprint, how: How) -> Before:
    """Return what there is to go on with; raise ResumeRefused where it is another job's.

    Raise OSError where a journal can't be opened.
    """
    journal, header = _journal(files, fingerprint)
    try:
        finished = _finished(job, files, fingerprint, how, journal)
        for before in filter(None, (header, finished)):
            check_chosen(files.journal, before.get("runtime", {}), how)
    except BaseException:
        if journal is not None:
            journal.close()
        raise
    if finished is not None and journal is not None:
        journal.close()
        journal = None
    return Before(journal, header, finished)


def _journal(
    files: Files, fingerprint: Fingerprint
) -> tuple[Journal, Mapping[str, Any]] | tuple[None, None]:
    """Open the journal of this job; one that has no rows yet may be of any job."""
    if not files.journal.exists():
        return None, None
    journal = Journal.open(files.journal)
    try:
        header = journal.header()
        other = differences(header["fingerprint"], fingerprint) if header else []
        if header is not None and not other:
            return journal, header
        if next(journal.rows(), None) is not None:
            raise _other_job(files.journal, other)
        if not journal.is_ours():
            raise _in_the_way(files.journal)
    except BaseException:
        journal.close()
        raise
    journal.close()
    return None, None


def _finished(
    job: Job, files: Files, fingerprint: Fingerprint, how: How, journal: Journal | None
) -> Mapping[str, Any] | None:
    """Return the manifest of an output that is done; None where it is to be written.

    Raise ResumeRefused where an output is there that this job may not replace.
    """
    said = manifest.read(files.manifest)
    if said is None and files.manifest.exists():
        raise _in_the_way(files.manifest)
    if how.restart or how.no_resume or not files.output.exists():
        return None
    other = differences(said["fingerprint"], fingerprint) if said else []
    if said is None or other:
        if journal is not None:  # whose end nobody could tell any more
            return None
        if said is not None:
            raise _other_job(files.output, other)
        raise ResumeRefused(
            f"{shown(files.output)} is there already, and this job did not write it",
            hint=_OTHERWISE,
        )
    if not manifest.is_unchanged(files.output, said["output"]):
        raise ResumeRefused(
            f"{shown(files.output)} was changed after it was written",
            hint="move it away, and the same command writes it again",
        )
    is_same = said["written"] == written(job)
    if is_same and not (how.retry_errors and said["rows"]["retryable"]):
        return said
    if journal is None:
        raise ResumeRefused(
            f"{shown(files.journal)} is gone, so no row can be added to {shown(files.output)}",
            hint=_OTHERWISE,
        )
    return None


def written(job: Job) -> dict[str, Any]:
    """Return what decides the bytes of an output besides its rows' answers."""
    return {"inputs": job.scan.digest, "csv_safe": job.csv_safe}


def _other_job(path: Path, other: list[str]) -> ResumeRefused:
    if not other:
        return ResumeRefused(
            f"{shown(path)}: its first line is damaged, so nobody can tell which job it is of",
            hint=_OTHERWISE,
        )
    more = f", and {len(other) - _TOLD} more" if len(other) > _TOLD else ""
    return ResumeRefused(
        f"{shown(path)} belongs to a different job: {', '.join(other[:_TOLD])}{more}",
        hint=_OTHERWISE,
    )


def _in_the_way(path: Path) -> ResumeRefused:
    return ResumeRefused(
        f"{shown(path)} is in the way: it was not written by gptkit",
        hint="give another --output, or move it away, as --restart does",
    )


def drawn_seed(output: Path) -> int | None:
    """Return the seed that an earlier run drew for this output, where nobody gave one."""
    files = Files.of(output)
    said: Mapping[str, Any] | None = manifest.read(files.manifest)
    with contextlib.suppress(OSError):
        with Journal.open(files.journal) as journal:
            said = journal.header() or said
    seed = (said or {}).get("drawn_seed")
    return seed if type(seed) is int else None
