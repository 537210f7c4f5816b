"""Parquet, by batches of rows, so that a file may be larger than memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gptkit.jobs.readers.delimited import check_names
from gptkit.jobs.readers.record import Record, digest_of_fields, record
from gptkit.jobs.readers.stream import Unreadable, too_long
from gptkit.jobs.rows import MAX_ROW_BYTES, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gptkit.jobs.readers.source import Source

BATCH_ROWS = 256
_BUFFER_BYTES = 2**20
_BROKEN = object()


def read(source: Source) -> Iterator[Record]:
    """Yield a record for each row. What JSON does not know becomes text, and NaN becomes null.

    Times are written with all of their digits, and so are decimal numbers. Bytes stay bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The default one keeps what it frees: 17 MiB more after 100,000 rows, measured.
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        # A buffer, for many files have one row group alone, which would be read as a whole.
        with pq.ParquetFile(source.path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            names = file.schema_arrow.names
            check_names(names, source.shown)
            line = 0
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                columns = [_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    line += 1
                    yield _record(line, dict(zip(names, values, strict=True)))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable(f"not valid Parquet ({str(error).splitlines()[0]})") from error


def _record(line: int, fields: Mapping[str, Any]) -> Record:
    broken = next((name for name, value in fields.items() if value is _BROKEN), None)
    fields = {name: _plain(value) for name, value in fields.items() if value is not _BROKEN}
    digest = digest_of_fields(fields)
    if broken is not None:
        return Record(line, digest, fault=_not_utf8(broken))
    if _size(fields) > MAX_ROW_BYTES:
        return Record(line, digest, fault=too_long())
    return record(line, digest, fields)


def _not_utf8(name: str) -> Fault:
    return Fault("invalid_encoding", f"field '{name}' is not valid UTF-8")


def _values(column: Any) -> list[Any]:
    """Return the values of a column, `_BROKEN` in the place of text that can't be decoded."""
    wanted = _plain_type(column.type)
    if wanted != column.type:
        column = column.cast(wanted)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _BROKEN


def _plain_type(type: Any) -> Any:
    """Return a type that Python has as well, in which nothing is lost: text for most others.

    What pyarrow itself would return for a time depends on whether pandas is there.
    """
    import pyarrow as pa

    known = pa.types
    if known.is_temporal(type) or known.is_decimal(type):
        return pa.string()
    if known.is_dictionary(type):
        return _plain_type(type.value_type)
    if known.is_struct(type):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in type])
    if known.is_map(type):
        return pa.map_(_plain_type(type.key_type), _plain_type(type.item_type))
    if known.is_fixed_size_list(type):
        return pa.list_(_plain_type(type.value_type), type.list_size)
    if known.is_large_list(type):
        return pa.large_list(_plain_type(type.value_type))
    if known.is_list(type):
        return pa.list_(_plain_type(type.value_type))
    return type


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):  # a map is a list of pairs
        return [_plain(one) for one in value]
    return value


def _size(value: Any) -> int:
    """Return about how many bytes a value has; text counts by its characters."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(len(name) + _size(one) for name, one in value.items())
    if isinstance(value, list):
        return sum(map(_size, value))
    return 8
