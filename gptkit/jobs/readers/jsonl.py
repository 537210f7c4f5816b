"""JSONL: an object on each line. Strict: what JSON does not know is refused, and a key twice."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from gptkit.jobs.readers.record import Record, record
from gptkit.jobs.readers.stream import decode, line_encoding, lines, open_stream
from gptkit.jobs.rows import Fault, digest_of, is_unicode, json_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.jobs.readers.source import Source


def read(source: Source, encoding: str) -> Iterator[Record]:
    """Yield a record for each line that is not blank."""
    with open_stream(source, encoding) as stream:
        encoding = line_encoding(encoding)
        for line, data in enumerate(lines(stream), start=1):
            data = data.rstrip(b"\r\n")
            if data.strip():
                yield _record(line, data, encoding)


def _record(line: int, data: bytes, encoding: str) -> Record:
    text, fault = decode(data, encoding)
    digest = digest_of(data if encoding == "utf-8" or fault else text.encode())
    value: Any = None
    if fault is None:
        value, fault = _parse(text)
    if fault is None and not isinstance(value, dict):
        fault = Fault("not_an_object", f"expected an object, got {json_kind(value)}")
    if fault is None and "\\u" in text and not is_unicode(json.dumps(value, ensure_ascii=False)):
        fault = Fault("invalid_unicode", "half of a surrogate pair stands alone")
    return record(line, digest, value if isinstance(value, dict) else {}, fault)


def _parse(text: str) -> tuple[Any, Fault | None]:
    try:
        return _DECODER.decode(text), None
    except json.JSONDecodeError as error:
        said = f"not valid JSON (column {error.colno:,})"
    except RecursionError:
        said = "nested too deeply"
    except _Refused as error:
        said = str(error)
    except ValueError:  # Python's own limit of digits
        said = "a number of too many digits"
    return None, Fault("invalid_json", said)


class _Refused(ValueError):
    """Something that Python's reader takes and JSON, or a careful reader, does not."""


def _constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"{text[:20]} is too large a number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"key {twice!r} is given twice")
    return made


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float, object_pairs_hook=_object)
