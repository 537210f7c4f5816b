"""The bytes of a text file, unpacked, in an encoding whose lines end in a byte, without a mark."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from contextlib import contextmanager
from itertools import chain
from typing import IO, TYPE_CHECKING

from gptkit.errors import ConfigError
from gptkit.jobs.rows import MAX_ROW_BYTES, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.jobs.readers.source import Source

UTF8 = "utf-8"
_CHUNK_BYTES = 2**16
_ZSTD_CHUNK_BYTES = 256
"""Zstandard's own object gives all that a piece unpacks to: 4 bytes may give 128 KiB."""
_PACKED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
"""How an archive begins, and no text does."""
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Unreadable(Exception):
    """A file that can't be read on. The message says why, not which file it is."""


@contextmanager
def open_stream(source: Source, encoding: str) -> Iterator[IO[bytes]]:
    """Open a text file; its bytes are text in `line_encoding(encoding)`."""
    with source.path.open("rb") as file:
        stream: io.BufferedReader = file
        packed = source.form and source.form.compression
        if packed:
            stream = _buffered(_gunzipped(stream) if packed == "gzip" else _unzstd(stream))
        for mark, suffix in _PACKED.items():
            if not packed and stream.peek(len(mark)).startswith(mark):
                raise ConfigError(
                    f"{source.shown} is packed", hint=f"its name must end in {suffix}"
                )
        if line_encoding(encoding) == UTF8:
            if not _is_utf8(encoding):
                stream = _buffered(_transcoded(stream, encoding))
            elif stream.peek(2)[:2] in _UTF16_MARKS:
                raise ConfigError(f"{source.shown} is UTF-16 text", hint="`encoding: utf-16`")
            if stream.peek(3)[:3] == codecs.BOM_UTF8:
                stream.read(3)
        yield stream


def line_encoding(encoding: str) -> str:
    """Return the encoding that lines come in: others than the file's where those have no such end.

    In UTF-16, say, the byte of a newline is part of other characters as well.
    """
    return encoding if "\n".encode(encoding) == b"\n" and not _is_utf8(encoding) else UTF8


def lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines that end in a newline and nothing else, none much longer than a row may be."""
    while data := stream.readline(MAX_ROW_BYTES + 1):
        part = data
        while len(part) > MAX_ROW_BYTES and not part.endswith(b"\n"):
            part = stream.readline(MAX_ROW_BYTES + 1)
        yield data


def decode(data: bytes, encoding: str) -> tuple[str, Fault | None]:
    """Return the text of a row, or what is wrong with it."""
    if len(data) > MAX_ROW_BYTES:
        return "", too_long()
    try:
        return data.decode(encoding), None
    except UnicodeDecodeError as error:
        said = f"not valid {_name(encoding)} at byte {error.start:,}"
        return "", Fault("invalid_encoding", said)


def too_long() -> Fault:
    """Return what is wrong with a row over the limit."""
    return Fault("row_too_long", f"the row is over {MAX_ROW_BYTES:,} bytes")


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in (UTF8, "utf-8-sig")


def _name(encoding: str) -> str:
    return "UTF-8" if encoding == UTF8 else encoding


# What lies between the file and its text ------------------------------------------------------


def _gunzipped(stream: io.BufferedReader) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=stream) as unpacked:
        while True:
            try:
                data = unpacked.read1(_CHUNK_BYTES)
            except EOFError as error:
                raise Unreadable("the archive ends too early") from error
            except (gzip.BadGzipFile, zlib.error) as error:
                raise _damaged(error) from error
            if not data:
                return
            yield data


def _unzstd(stream: io.BufferedReader) -> Iterator[bytes]:
    """Yield what frames unpack to; the library's own stream takes a cut one for a whole one."""
    import zstandard

    unpacker = zstandard.ZstdDecompressor()
    frame, waits = unpacker.decompressobj(), b""
    began = False
    while data := waits or stream.read(_ZSTD_CHUNK_BYTES):
        began = True
        try:
            unpacked = frame.decompress(data)
        except zstandard.ZstdError as error:
            raise _damaged(error) from error
        if unpacked:
            yield unpacked
        waits = b""
        if frame.eof:
            waits, began = frame.unused_data, False
            frame = unpacker.decompressobj()
    if began:
        raise Unreadable("the archive ends too early")


def _damaged(error: Exception) -> Unreadable:
    return Unreadable(f"the archive is damaged ({error})")


def _transcoded(stream: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    n_read = 0
    while True:
        data = stream.read(_CHUNK_BYTES)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = n_read - pending + error.start
            raise Unreadable(f"not valid {encoding} at byte {at:,}") from error
        n_read += len(data)
        yield text.encode()
        if not data:
            return


class _Chunks(io.RawIOBase):
    """A file made of pieces, some of which may be empty."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


def _buffered(pieces: Iterator[bytes]) -> io.BufferedReader:
    """Return a file made of pieces, whose first ones are joined so that a mark can be seen."""
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= len(codecs.BOM_UTF8):
            break
    return io.BufferedReader(_Chunks(chain([start], pieces)), _CHUNK_BYTES)
