"""Packing what is written, so that the same text always gives the same bytes."""

from __future__ import annotations

import gzip
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gptkit.jobs.forms import Compression

    Put = Callable[[bytes], object]

GZIP_LEVEL, ZSTD_LEVEL = 6, 3


@contextmanager
def packed(file: IO[bytes], compression: Compression | None) -> Iterator[Put]:
    """Give a function that packs bytes into a file, which stays open."""
    if compression is None:
        yield file.write
    elif compression == "gzip":
        # Neither time nor name: they would differ from run to run.
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packing:
            yield packing.write
    else:
        import zstandard

        packer = zstandard.ZstdCompressor(ZSTD_LEVEL, write_checksum=True)
        with packer.stream_writer(file, closefd=False) as packing:
            yield packing.write
