"""All rows of a job's inputs, one after the other, as often as they are asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptkit.errors import ConfigError
from gptkit.jobs.readers import delimited, jsonl, parquet, text
from gptkit.jobs.readers.resolve import Resolver
from gptkit.jobs.readers.stream import UTF8, Unreadable
from gptkit.jobs.rows import Row, key_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gptkit.jobs.readers.record import Record
    from gptkit.jobs.readers.resolve import Temporary
    from gptkit.jobs.readers.source import Source


@dataclass(frozen=True, slots=True)
class Inputs:
    """The rows of some files, as a stream; memory does not grow with their number.

    With `by_file` a row without id is known by its file as well as its line. `repeated` are hashes
    of the keys that several rows have: the second one gets "#2" behind it.
    """

    sources: tuple[Source, ...]
    encoding: str
    by_file: bool
    repeated: frozenset[int] = frozenset()
    spooled: tuple[Temporary, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files and folders that are read."""
        return tuple(source.path for source in self.sources)

    def __str__(self) -> str:
        more = len(self.sources) - 1
        return self.sources[0].shown + f" and {more:,} more" * bool(more)

    def __iter__(self) -> Iterator[Row]:
        index, times = 0, Counter[int]()
        for source in self.sources:
            for found in self._records(source):
                key = self._key(source, found)
                if self.repeated and (hashed := key_hash(key)) in self.repeated:
                    times[hashed] += 1
                    key += f"#{times[hashed]}" * (times[hashed] > 1)
                yield Row(
                    index,
                    found.line,
                    found.id,
                    key,
                    found.fields,
                    found.fault,
                    found.digest,
                    found.file or source.shown,
                )
                index += 1

    def _key(self, source: Source, found: Record) -> str:
        if found.id is not None:
            return str(found.id)
        key = f"{found.line}:{found.digest}"
        return f"{source.name}:{key}" if self.by_file else key

    def _records(self, source: Source) -> Iterator[Record]:
        """Yield what a source has; raise ConfigError where it can't be read to its end."""
        n = 0
        try:
            for found in self._read(source):
                yield found
                n += 1
        except (Unreadable, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{source.shown}: {said}, after row {n:,}") from error

    def _read(self, source: Source) -> Iterator[Record]:
        if source.form is None:
            return text.read_folder(source, self.encoding, by_file=self.by_file)
        if source.form.kind == "parquet":
            return parquet.read(source)
        if source.form.kind == "jsonl":
            return jsonl.read(source, self.encoding)
        if source.form.kind == "text":
            return text.read(source, self.encoding)
        return delimited.read(source, self.encoding)


def open_inputs(
    inputs: str | Sequence[str],
    folder: Path,
    *,
    encoding: str = UTF8,
    spool: bool = False,
    key: str = "inputs",
) -> Inputs:
    """Find the files of a job's inputs, relative to a folder; raise ConfigError.

    `key` is what a message calls them: the key of the job file.

    Standard input and other pipes can be read only once: with `spool` they are copied to temporary
    files, which are there as long as the result is.
    """
    names = [inputs] if isinstance(inputs, str) else inputs
    resolver = Resolver(folder, spool=spool, key=key)
    sources = tuple(resolver.sources(names))
    # A pattern may match more files tomorrow; that must not change the names of rows.
    by_file = len(sources) > 1 or any(resolver.is_pattern(name) for name in names)
    return Inputs(sources, encoding, by_file, spooled=tuple(resolver.spooled))


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one file."""
    yield from open_inputs(str(path.name), path.parent)
