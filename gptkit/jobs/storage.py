"""Inputs and outputs on object storage, which fsspec knows: `s3://bucket/rows.jsonl`.

What is read is copied to this machine. What is written is made here, with its journal. That can't
be appended to over there: what is new in it goes there every half minute as an object of its own, a
part, and all parts in order are the journal. The next run, on whatever machine, begins with them.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import socket
import tempfile
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gptkit.errors import ConfigError, GptkitError, ResourceError, ResumeRefused
from gptkit.jobs.events import Finished, Note, Progress, Resumed
from gptkit.jobs.files import Files, shown
from gptkit.jobs.lock import Owner

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from gptkit.jobs.events import Event
    from gptkit.jobs.runtime import How

PART_S, PART_BYTES = 30.0, 8 * 2**20
"""A part of a journal is sent when it is this old, or this large."""
BEAT_S, STALE_S = 60.0, 600.0
"""How often a lock is written again, and after which time without that it is nobody's."""
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.]+):/+(?P<rest>.+)", re.DOTALL)


def url_of(name: str | Path) -> str | None:
    """Return the URL that a name is, or None where it is a path, also as `file://`.

    A Path that was made of a URL has lost a slash.
    """
    found = _URL.fullmatch(str(name))
    if found is None or found["scheme"] == "file":
        return None
    return f"{found['scheme']}://{found['rest']}"


def path_of(name: str | Path) -> Path:
    """Return the path that a name is, which is no URL but `file://`'s."""
    found = _URL.fullmatch(str(name))
    return Path("/" + found["rest"]) if found else Path(name)


def open_url(url: str) -> IO[bytes]:
    """Open what is at a URL, to read it; raise ConfigError."""
    with _reading(url):
        fs, key = _file_system(url)
        file: IO[bytes] = fs.open(key, "rb")
        return file


def matches(url: str) -> list[str]:
    """Return the URLs that a pattern matches, sorted."""
    with _reading(url):
        fs, key = _file_system(url)
        return sorted(fs.unstrip_protocol(found) for found in fs.glob(key))


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and what it is called there; raise ConfigError."""
    try:
        fsspec = importlib.import_module("fsspec")
    except ModuleNotFoundError as error:
        said = f"{url}: object storage needs the package fsspec"
        raise ConfigError(said, hint="pip install 'gptkit[ray]'") from error
    try:
        fs, key = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url}: {' '.join(str(error).split())}",
            hint="the driver of a protocol is a package of its own, such as s3fs or gcsfs",
        ) from error
    return fs, key


@contextmanager
def _reading(url: str) -> Iterator[None]:
    try:
        yield
    except GptkitError:
        raise
    except Exception as error:  # drivers raise what their libraries do
        raise ConfigError(f"can't read {url}: {_said(error)}") from error


@contextmanager
def _writing(url: str) -> Iterator[None]:
    try:
        yield
    except GptkitError:
        raise
    except Exception as error:
        raise ResourceError(
            f"can't write {url}: {_said(error)}", hint="run the same command to go on"
        ) from error


def _said(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:200] or type(error).__name__


class Remote:
    """An output at a URL, and the folder of this machine where it is made, at `path`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.key = _file_system(url)
        self.folder = Path(tempfile.mkdtemp(prefix="gptkit-")).resolve()
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.path = self.folder / self.key.rpartition("/")[2]
        self.files = Files.of(self.path)
        self._parts: list[str] = []
        """The parts that are there, as far as this run knows."""
        self._pushed, self._pushed_at = 0, time.monotonic()
        self._pushing = 0
        """Up to where the journal was being sent when that failed, if it did."""
        self._has_rows = False
        self._is_lost = False
        """Whether another run has taken the lock, as of one that is no more."""

    # What is there ----------------------------------------------------------------------------

    def pull(self) -> None:
        """Copy here what earlier runs left there: journal, manifest and what it describes."""
        with _reading(self.url):
            self.fs.invalidate_cache()
            self._parts, _ = self._list()
            if self._parts:
                with self.files.journal.open("wb") as file:
                    for name in self._parts:
                        file.write(self.fs.cat_file(f"{self.key}.journal/{name}"))
                    self._pushed = file.tell()
            has_output = self.fs.exists(self.key)
            if self.fs.exists(f"{self.key}.manifest.json"):
                self.fs.get_file(f"{self.key}.manifest.json", str(self.files.manifest))
                if has_output:
                    self.fs.get_file(self.key, str(self.path))
            elif has_output:
                self.path.touch()  # of nobody knows what: that it is there is enough

    def _list(self) -> tuple[list[str], list[str]]:
        """Return the names of the parts that are the beginning of the journal, and of the others.

        Others are there only where somebody took one away.
        """
        folder = f"{self.key}.journal"
        if not self.fs.exists(folder):
            return [], []
        found, others, end = [], [], 0
        for path in sorted(self.fs.ls(folder, detail=False)):
            name = path.rstrip("/").rpartition("/")[2]
            start, _, stop = name.partition("-")
            if start.isdigit() and stop.isdigit() and int(start) == end:
                found.append(name)
                end = int(stop)
            else:
                others.append(name)
        return found, others

    # Who writes it ----------------------------------------------------------------------------

    @contextmanager
    def hold(self) -> Iterator[str | None]:
        """Take the lock of the output, and give a note where it was somebody's who has gone.

        Raise ResumeRefused where another run has it.
        """
        name = f"{self.key}.lock"
        mine = json.dumps(asdict(Owner.me())).encode()
        with _writing(self.url):
            note = self._take(name, mine)
        stopped = threading.Event()
        beat = threading.Thread(
            target=self._beat, args=(name, mine, stopped), name="lock", daemon=True
        )
        beat.start()
        try:
            yield note
        finally:
            stopped.set()
            beat.join(BEAT_S)
            with suppress(Exception):
                if self.fs.cat_file(name) == mine:
                    self.fs.rm_file(name)

    def _take(self, name: str, mine: bytes) -> str | None:
        note = None
        try:
            self.fs.pipe_file(name, mine, mode="create")
        except FileExistsError:
            before = _owner(self.fs.cat_file(name))
            if before is not None and self._is_held(name, before):
                raise ResumeRefused(
                    f"{self.url}.lock is held by {before}",
                    hint=f"wait for it; {STALE_S / 60:g} minutes after its end it is given up",
                ) from None
            self.fs.pipe_file(name, mine)
            self._check_lock(name, mine)
            note = f"{self.url}.lock: taken over from {before or 'another run'}, which has ended"
        self.fs.invalidate_cache()
        parts, others = self._list()
        if parts != self._parts:
            raise ResumeRefused(
                f"{self.url} was changed while this run began", hint="run the same command again"
            )
        for one in others:
            self.fs.rm_file(f"{self.key}.journal/{one}")
        return note

    def _is_held(self, name: str, owner: Owner) -> bool:
        if owner.host == socket.gethostname():
            return owner.is_alive()
        modified = self.fs.modified(name)
        now = datetime.now(UTC) if modified.tzinfo else datetime.now()
        return bool((now - modified).total_seconds() < STALE_S)

    def _beat(self, name: str, mine: bytes, stopped: threading.Event) -> None:
        """Write the lock again and again, so that its time is never old."""
        while not stopped.wait(BEAT_S):
            try:
                self._check_lock(name, mine)
                self.fs.pipe_file(name, mine)
            except ResumeRefused:
                self._is_lost = True
                return
            except Exception:  # the next one may get through
                continue

    def _check_lock(self, name: str, mine: bytes) -> None:
        found = self.fs.cat_file(name)
        if found != mine:
            raise ResumeRefused(
                f"{self.url}.lock was taken by {_owner(found) or 'another run'}",
                hint="that run goes on with what this one had sent",
            )

    # What is new ------------------------------------------------------------------------------

    def mirrored(self, events: Generator[Event], how: How) -> Generator[Event]:
        """Yield the events of a run, and copy there what it makes: its journal now and then, and
        whatever happens, and its output at the end."""
        journaled = not how.no_resume
        try:
            if how.restart or how.no_resume:
                with _writing(self.url):
                    self._set_aside()
            for event in events:
                if self._is_lost:
                    self._has_rows = False
                    raise ResumeRefused(f"{self.url}.lock was taken by another run")
                if isinstance(event, Finished) and not event.was_there:
                    if journaled:
                        self._push()
                    self._publish()
                elif isinstance(event, Resumed) and event.n_cut_bytes:
                    with _writing(self.url):
                        self._set_aside()
                elif isinstance(event, Progress) and journaled and event.n_done:
                    self._has_rows = True  # one without is begun anew by the next run
                    yield from self._push_in_time()
                yield event
        except GptkitError as error:
            home, said = self.url.rpartition("/")[0], str(error)
            for here in (str(self.folder), shown(self.folder)):
                said = said.replace(here, home)
            error.args = (said,)
            raise
        finally:
            events.close()
            if self._has_rows:
                self._push()

    def _push_in_time(self) -> Iterator[Note]:
        """Copy what is new, when it is time; a failure now is none for good."""
        waited = time.monotonic() - self._pushed_at
        if waited < PART_S:
            size = self.files.journal.stat().st_size if waited > 1 else 0
            if size - self._pushed < PART_BYTES:
                return
        try:
            self._push()
        except ResourceError as error:
            self._pushed_at = time.monotonic()
            yield Note(f"{error}; it is tried again in {PART_S:g} seconds")

    def _push(self) -> None:
        """Copy what is new in the journal.

        What failed before is tried again just as it was: it may have got there.
        """
        with _writing(self.url), self.files.journal.open("rb") as file:
            size = self.files.journal.stat().st_size
            while self._pushed < size:
                end = self._pushing = self._pushing or min(size, self._pushed + 4 * PART_BYTES)
                file.seek(self._pushed)
                name = f"{self._pushed:020}-{end:020}"
                self.fs.pipe_file(f"{self.key}.journal/{name}", file.read(end - self._pushed))
                self._pushed, self._pushed_at, self._pushing = end, time.monotonic(), 0

    def _set_aside(self) -> None:
        """Give the journal and the manifest that are there names that end in a free number."""
        kept = [f"{self.key}.manifest.json", f"{self.key}.journal"]
        number = next(
            n for n in count(1) if not any(self.fs.exists(f"{name}.{n}") for name in kept)
        )
        for name in kept:
            if self.fs.exists(name):
                self.fs.mv(name, f"{name}.{number}", recursive=True)
        self._pushed = self._pushing = 0

    def _publish(self) -> None:
        """Put the output in place, then its manifest: an output without one is written again."""
        manifest = f"{self.key}.manifest.json"
        with _writing(self.url):
            if self.fs.exists(manifest):
                self.fs.rm_file(manifest)
            self.fs.put_file(str(self.path), self.key)
            self.fs.put_file(str(self.files.manifest), manifest)


def _owner(data: bytes) -> Owner | None:
    try:
        return Owner(**json.loads(data))
    except (ValueError, TypeError):
        return None
