"""What `inputs` says -> sources: paths, patterns, folders of text files, standard input."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import stat
import sys
import tempfile
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gptkit.errors import ConfigError, ResourceError, did_you_mean
from gptkit.jobs import storage
from gptkit.jobs.forms import COMPRESSIONS, SUFFIXES, Form, check_extras, form_of
from gptkit.jobs.readers import text
from gptkit.jobs.readers.source import Source, readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STDIN = "-"
_PIPE_HINT = "rows are read more than once: write them to a file, or use --no-resume"


class Temporary:
    """A file that is there as long as somebody holds this."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="gptkit-")
        os.close(handle)
        self.path = Path(name)
        self._remove = weakref.finalize(self, self.path.unlink, missing_ok=True)


class Resolver:
    """Finds the sources of a job; what comes through a pipe is spooled, where that is allowed."""

    def __init__(self, folder: Path, *, spool: bool, key: str) -> None:
        self.folder, self.spool, self.key = folder, spool, key
        self.spooled: list[Temporary] = []
        self._seen: dict[tuple[int, int], str] = {}

    def sources(self, inputs: Sequence[str]) -> Iterator[Source]:
        """Yield a source for each file or folder; raise ConfigError for the first that is wrong."""
        for name in inputs:
            for found in self._named(name):
                yield self._checked(found)

    def is_pattern(self, name: str) -> bool:
        """Return whether a name may mean several files; a path that is there does not."""
        return glob.has_magic(name) and not (self.folder / name).exists()

    def _named(self, name: str) -> list[str]:
        if not self.is_pattern(name):
            return [name]
        if url := storage.url_of(name):
            return self._matched(name, storage.matches(url))
        found = sorted(glob.glob(name, root_dir=self.folder, recursive=True))
        found = [one for one in found if not (self.folder / one).is_dir()]
        return self._matched(str(self.folder / name), found)

    def _matched(self, pattern: str, found: list[str]) -> list[str]:
        if not found:
            raise ConfigError(f"{self.key}: no file matches {pattern}")
        return found

    def _checked(self, name: str) -> Source:
        if _is_stdin(name):
            return self._stdin(name)
        if url := storage.url_of(name):
            return self._remote(url)
        path = self.folder / storage.path_of(name)
        shown = readable(str(path))
        try:
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                self._check_twice(found, shown)
                return self._folder(path, name, shown)
            if not stat.S_ISREG(found.st_mode):
                return self._pipe(path, name, shown)
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(
                f"{self.key}: can't read {shown}: {error.strerror}", hint=_near(path)
            ) from error
        self._check_twice(found, shown)
        form = form_of(name)
        if form is None:
            raise self._no_form(path.name)
        check_extras(form, shown)
        return Source(path, readable(name), shown, form)

    def _check_twice(self, found: os.stat_result, shown: str) -> None:
        file = found.st_dev, found.st_ino
        if file in self._seen:
            raise ConfigError(
                f"{self.key}: {shown} is read twice, also as {self._seen[file]}",
                hint="name it once",
            )
        self._seen[file] = shown

    def _folder(self, path: Path, name: str, shown: str) -> Source:
        if next(text.text_files(path), None) is None:
            raise ConfigError(
                f"{self.key}: {shown} has no text files (.txt, .md)",
                hint=f"other files are given by a pattern: {name.rstrip('/')}/*.jsonl",
            )
        return Source(path, readable(name.rstrip("/")), shown.rstrip("/"), None)

    # Pipes ------------------------------------------------------------------------------------

    def _stdin(self, name: str) -> Source:
        form = form_of(name) if name != STDIN else Form("jsonl")
        if form is None:
            raise self._no_form(name)
        if not self.spool:
            raise ConfigError(f"{self.key}: standard input is no file", hint=_PIPE_HINT)
        if STDIN in self._seen.values():
            raise ConfigError(f"{self.key}: standard input is read twice", hint="name it once")
        self._seen[(-1, -1)] = STDIN
        return self._spooled(sys.stdin.buffer, name, "stdin", form)

    def _remote(self, url: str) -> Source:
        """Copy what is on object storage to this machine, for it is read more than once."""
        form = form_of(url)
        if form is None:
            raise self._no_form(url.rpartition("/")[2])
        with storage.open_url(url) as file:
            return self._spooled(file, url, url, form)

    def _pipe(self, path: Path, name: str, shown: str) -> Source:
        if not self.spool:
            raise ConfigError(f"{self.key}: {shown} is no regular file", hint=_PIPE_HINT)
        form = form_of(name) or Form("jsonl")  # <(...) has a number for a name
        with path.open("rb") as pipe:
            return self._spooled(pipe, readable(name), shown, form)

    def _spooled(self, pipe: IO[bytes], name: str, shown: str, form: Form) -> Source:
        check_extras(form, shown)
        copy = Temporary()
        self.spooled.append(copy)
        try:
            with copy.path.open("wb") as file:
                shutil.copyfileobj(pipe, file)
        except OSError as error:
            raise ResourceError(
                f"{self.key}: can't copy {shown} to {copy.path}: {error.strerror or error}",
                hint="set TMPDIR to a folder with more space",
            ) from error
        return Source(copy.path, name, shown, form)

    def _no_form(self, name: str) -> ConfigError:
        return ConfigError(
            f"{self.key}: {readable(name)} is of no form that we read",
            hint=f"one of {', '.join(SUFFIXES)}; also with {' and '.join(COMPRESSIONS)}, but for "
            "Parquet",
        )


def _is_stdin(name: str) -> bool:
    """Return whether a name is `-`, or `-` and the form that comes from there: `-.csv`."""
    return name == STDIN or name.startswith("-.")


def _near(path: Path) -> str | None:
    """Return a hint that names the file beside a missing one whose name is most like its."""
    with contextlib.suppress(OSError):
        if not os.path.lexists(path):
            return did_you_mean(path.name, map(readable, os.listdir(path.parent)))
    return None
