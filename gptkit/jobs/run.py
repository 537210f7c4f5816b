"""A job from its lock to its output: what is done is found, the rest is computed, all is written.

A row is done from the moment that its line is in the journal. Whatever happens after that, the same
command goes on from there, and the output is the same.
"""

from __future__ import annotations

import errno
import shutil
import time
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gptkit import __version__
from gptkit.decoding.request import resolve_stops
from gptkit.errors import ResourceError
from gptkit.jobs import manifest, runtime
from gptkit.jobs.done import Counts, Done, match
from gptkit.jobs.engine import LocalEngine, Ready
from gptkit.jobs.events import Finished, Note, Progress, Resumed, Started
from gptkit.jobs.files import Files, shown
from gptkit.jobs.fingerprint import fingerprint
from gptkit.jobs.journal import Journal
from gptkit.jobs.lock import hold
from gptkit.jobs.resume import find, written
from gptkit.jobs.runtime import How
from gptkit.jobs.writers import columns, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path

    from gptkit.assembly import Model
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.jobs.batch import Result
    from gptkit.jobs.engine import Engine
    from gptkit.jobs.events import Event
    from gptkit.jobs.job import Job
    from gptkit.jobs.writers import Column

BYTES_PER_TOKEN, BYTES_PER_ROW = 4, 300
BYTES_PER_LOGPROB = 45
"""Of an answer, of what stands around it, and of a token's: to estimate the space for a job."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(
    job: Job,
    load: Callable[[Checkpoint], Model],
    how: How | None = None,
    engine: Engine | None = None,
) -> Generator[Event]:
    """Compute what is not done of a job and write its output, which appears whole or not at all.

    `load` is called for each model that has rows to compute, unless an engine is given. Closing
    the iterator, like an exception, keeps what is done. Raise ResumeRefused where another job, or
    another run of this one, is in the way, and ResourceError where the disk gives out.
    """
    how = how or How()
    engine = engine or LocalEngine(job, load, how)
    files, remote = Files.of(job.outputs), job.remote
    files.check_reads([job.path, *job.inputs.files])
    with ExitStack() as stack:
        with _writing(files):
            note = stack.enter_context(hold(files.lock) if remote is None else remote.hold())
        if note:
            yield Note(note)
        events = _Run(job, engine, how, files, stack).run()
        yield from events if remote is None else remote.mirrored(events, how)


class _Run:
    """One run of a job, which has the lock."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        how: How,
        files: Files,
        stack: ExitStack,
    ) -> None:
        self.job, self.engine, self.how, self.files, self.stack = job, engine, how, files, stack
        self.fingerprint = fingerprint(job, how.tokenizer)
        self.runtime: Mapping[str, Any] = {}
        self.done = Done(job.scan.n_rows, len(job.cells))
        self.counts = Counts()
        self.journal: Journal | None = None
        self.n_resumed = self.prompt_tokens = self.new_tokens = self.n_reused = 0
        self.started = datetime.now()
        self.load_s = self.compute_s = 0.0

    def run(self) -> Generator[Event]:
        """Yield what happens, to the end."""
        with _writing(self.files):
            self.files.sweep()
            aside = self._set_aside()
            before = find(self.job, self.files, self.fingerprint, self.how)
        if aside is not None:
            yield Note(f"what was there is {aside.name} now")
        if before.finished is not None:
            yield _progress_of(before.finished)
            yield Finished(was_there=True)
            return
        if before.journal is not None and before.header is not None:
            self.journal = self.stack.enter_context(before.journal)
            self.runtime = before.header["runtime"]
            yield self._resume(before.journal)
        if self.done.n_left():
            self._check_space()
            yield from self._compute()
        yield self._progress()
        self._write()
        yield Finished()

    def _set_aside(self) -> Path | None:
        """Give what is there another name, where this run is not to go on with it."""
        if self.how.no_resume:
            aside = self.files.set_aside() if self.files.journal.exists() else None
            self.stack.callback(self.files.journal.unlink, missing_ok=True)
            return aside
        return self.files.set_aside() if self.how.restart else None

    def _resume(self, journal: Journal) -> Resumed:
        """Find what is done in the journal of an earlier run."""
        with _writing(self.files):
            damage = journal.repair()
        rows = self.job.inputs
        self.counts = match(journal, rows, self.done, retry_errors=self.how.retry_errors)
        self.n_resumed = self.done.n_done
        return Resumed(
            self.n_resumed,
            self.done.n_all,
            damage.n_cut_bytes,
            damage.n_lines,
            self.counts.n_gone,
        )

    def _check_space(self) -> None:
        """Refuse to begin what the disk has no room for, by an estimate."""
        needed = 1.2 * (self.done.n_left() + self.done.n_all) * self._bytes_per_row()
        folder = self.files.output.parent
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ResourceError(
                f"{folder} has {free / 1e9:,.1f} GB free, this job needs about {needed / 1e9:,.1f}",
                hint="free some space there, or give another --output",
            )

    def _bytes_per_row(self) -> float:
        """Return the mean of the rows that are done; without them, half of what they may have."""
        if self.journal is not None and self.done.n_done:
            return self.journal.n_bytes / self.done.n_done
        if self.job.task == "score":
            return BYTES_PER_ROW
        most = max(resolve_stops(c.stop, self.job.registry).max_new_tokens for c in self.job.cells)
        tokens = most * self.job.n / 2
        listed = 0 if self.job.logprobs is None else 1 + self.job.logprobs
        return BYTES_PER_ROW + tokens * (BYTES_PER_TOKEN + listed * BYTES_PER_LOGPROB)

    # The rows that are left -------------------------------------------------------------------

    def _compute(self) -> Iterator[Event]:
        here = self.engine.runtime(self.runtime.get("threads"))
        if self.runtime:
            runtime.check_same(self.files.journal, self.runtime, here)
            yield from (Note(text) for text in runtime.notes(self.runtime, here))
        else:
            self.runtime = here
        for cells in self._models():
            yield from self._compute_cells(cells)

    def _models(self) -> Iterator[list[int]]:
        """Yield the numbers of the cells of each model that has rows to compute."""
        by_source: dict[int, list[int]] = {}
        for i, cell in enumerate(self.job.cells):
            if self.done.n_left(i):
                by_source.setdefault(id(cell.source), []).append(i)
        yield from by_source.values()

    def _new_journal(self) -> Journal:
        header = {
            "gptkit": __version__,
            "started": self.started.isoformat(timespec="seconds"),
            "fingerprint": self.fingerprint,
            "runtime": self.runtime,
            "drawn_seed": self.job.drawn_seed,
        }
        with _writing(self.files):
            return self.stack.enter_context(Journal.create(self.files.journal, header))

    def _compute_cells(self, cells: list[int]) -> Iterator[Event]:
        start = time.perf_counter()
        with closing(self.engine.compute(cells, self.done, self.runtime)) as steps:
            for step in steps:
                if isinstance(step, Ready):
                    self.load_s += time.perf_counter() - start
                    start = time.perf_counter()
                    self.journal = self.journal or self._new_journal()
                    n_left = sum(map(self.done.n_left, cells))
                    yield Started(step.model, tuple(self.job.cells[i] for i in cells), n_left)
                    continue
                for result in step.results:
                    self._keep(step.cell, result)
                self.new_tokens += step.new_tokens
                yield from (Note(text) for text in step.notes)
                yield self._progress()
        self.compute_s += time.perf_counter() - start

    def _keep(self, cell: int, result: Result) -> None:
        """Bring a row that has ended to the disk: from here on it is done."""
        row, output = result.row, result.output
        if self.journal is None:
            raise RuntimeError("a row came before its model")
        error = output.get("error")
        record: dict[str, Any] = {"cell": cell, "key": row.key, "digest": row.digest}
        if result.may_retry:
            record["may_retry"] = True
        if result.is_shortened:
            record["shortened"] = True
        with _writing(self.files, self._safe()):
            place = self.journal.add({**record, "row": output})
        self.done.add(row.index, cell, place)
        self.counts.add(error["type"] if error else None, result.may_retry, result.is_shortened)
        self.prompt_tokens += result.prompt_tokens
        self.n_reused += result.n_reused

    def _safe(self) -> Done | None:
        """Return the rows that outlast this run."""
        return None if self.how.no_resume else self.done

    def _progress(self) -> Progress:
        return Progress(
            self.done.n_all,
            self.counts.n_ok,
            self.counts.n_shortened,
            self.prompt_tokens,
            self.new_tokens,
            dict(self.counts.failures),
            self.n_reused,
            self.n_resumed,
        )

    # The end ----------------------------------------------------------------------------------

    def _write(self) -> None:
        """Put the output in place, then its manifest.

        The manifest of an older output goes first: an output without one is written again.
        """
        with _writing(self.files, self._safe()):
            self.files.manifest.unlink(missing_ok=True)
            rows = self._outputs(self.journal) if self.journal is not None else ()
            write_rows(self.files.output, rows, self._columns(), csv_safe=self.job.csv_safe)
            manifest.write(self.files.manifest, self._manifest())

    def _columns(self) -> tuple[Column, ...]:
        job = self.job
        return columns(job.task, job.n, job.logprobs, job.cells[0].label, job.keep)

    def _outputs(self, journal: Journal) -> Iterator[dict[str, Any]]:
        """Yield the lines of the output: row by row, for each row its cells."""
        for index in range(self.done.n_rows):
            for cell in range(self.done.n_cells):
                record = journal.read(self.done.place(index, cell))
                yield {**record["row"], "index": index}  # rows may have moved since

    def _manifest(self) -> dict[str, Any]:
        counts, job = self.counts, self.job
        return {
            "gptkit": __version__,
            "job": {"file": str(job.path), "settings": job.settings},
            "inputs": {"files": [one.shown for one in job.inputs.sources], "rows": job.scan.n_rows},
            "output": manifest.describe(self.files.output),
            "written": written(job),
            "rows": {
                "n": self.done.n_all,
                "ok": counts.n_ok,
                "failures": dict(counts.failures),
                "shortened": counts.n_shortened,
                "retryable": counts.n_retryable,
            },
            "drawn_seed": job.drawn_seed,
            "fingerprint": self.fingerprint,
            "runtime": self.runtime,
            "last_run": {
                "started": self.started.isoformat(timespec="seconds"),
                "finished": datetime.now().isoformat(timespec="seconds"),
                "rows_computed": self.done.n_all - self.n_resumed,
                "load_s": round(self.load_s, 3),
                "compute_s": round(self.compute_s, 3),
                "prompt_tokens": self.prompt_tokens,
                "reused_tokens": self.n_reused,
                "new_tokens": self.new_tokens,
            },
        }


def _progress_of(said: Mapping[str, Any]) -> Progress:
    """Return how far a job is by the manifest of its output."""
    rows = said["rows"]
    n = rows["n"]
    return Progress(n, rows["ok"], rows["shortened"], failures=rows["failures"], n_resumed=n)


@contextmanager
def _writing(files: Files, done: Done | None = None) -> Iterator[None]:
    """Say in words what a disk refuses, and how many rows are on it."""
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        safe = f"; {done.n_done:,} of {done.n_all:,} rows are safe" if done else ""
        if error.errno in _FULL:
            text = f"disk full: can't write {shown(files.output)}: {said}"
            raise ResourceError(text + safe, hint="free space and run the same command") from error
        text = f"can't write {shown(files.output)}: {said}"
        raise ResourceError(text + safe, hint="run the same command to go on") from error
