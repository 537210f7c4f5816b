"""Text: a row for each line of a file, or for each file of a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gptkit.jobs.forms import Form, compression_of
from gptkit.jobs.readers.record import Record
from gptkit.jobs.readers.source import Source, readable
from gptkit.jobs.readers.stream import Unreadable, decode, line_encoding, lines, open_stream
from gptkit.jobs.rows import MAX_ROW_BYTES, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT_FILES = (".txt", ".md")
"""What a folder's rows are made of; other files in it are none."""


def read(source: Source, encoding: str) -> Iterator[Record]:
    """Yield a record for each line that is not blank; its field is `text`."""
    with open_stream(source, encoding) as stream:
        encoding = line_encoding(encoding)
        for line, data in enumerate(lines(stream), start=1):
            data = data.rstrip(b"\r\n")
            if data.strip():
                text, fault = decode(data, encoding)
                digest = digest_of(data if fault else text.encode())
                yield Record(line, digest, {"text": text}, fault)


def read_folder(source: Source, encoding: str, *, by_file: bool) -> Iterator[Record]:
    """Yield a record for each text file of a folder and those in it, in the order of their paths.

    Its fields are `text`, without the last line end, and `name`; its id is the path in the folder,
    with `by_file` behind the folder's own name.
    """
    for path, within in text_files(source.path):
        inside = readable(within)
        row_id = f"{source.name}/{inside}" if by_file else inside
        one = Source(
            path, inside, f"{source.shown}/{inside}", Form("text", compression_of(path.name)[1])
        )
        try:
            with open_stream(one, encoding) as stream:
                data = stream.read(MAX_ROW_BYTES + 1)
        except (Unreadable, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise Unreadable(f"{inside}: {said}") from error
        text, fault = decode(data, line_encoding(encoding))
        digest = digest_of(data if fault else text.encode())
        text = text.replace("\r\n", "\n").removesuffix("\n")
        fields = {"text": text, "name": readable(path.name)}
        yield Record(1, digest, fields, fault, row_id, one.shown)


def text_files(folder: Path, within: str = "") -> Iterator[tuple[Path, str]]:
    """Yield the text files of a folder and of those in it, each with its path inside.

    Hidden ones are left out, and folders that are links, which may lead in a circle.
    """
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if entry.name[0] != "."), key=_by_name)
    for entry in found:
        path, name = folder / entry.name, within + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from text_files(path, f"{name}/")
        elif entry.is_file() and compression_of(entry.name)[0].endswith(TEXT_FILES):
            yield path, name


def _by_name(entry: os.DirEntry[str]) -> str:
    return entry.name
