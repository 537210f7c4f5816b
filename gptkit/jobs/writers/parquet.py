"""Parquet: columns with types that the job decides; samples and log-probabilities are nested."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gptkit.jobs.writers.columns import Column

GROUP_ROWS, GROUP_BYTES = 8192, 32 * 2**20
"""A row group ends with the row that reaches either; bytes are those of its texts, roughly."""


def write(
    file: IO[bytes],
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column],
) -> None:
    """Write the rows as a table, by groups of rows, with settings that are the same everywhere."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(one.name, _type(one)) for one in columns])
    with pq.ParquetWriter(file, schema, compression="zstd", version="2.6") as writer:
        group: list[dict[str, Any]] = []
        n_bytes = 0
        for row in rows:
            group.append({one.name: one.value(row) for one in columns})
            n_bytes += _size(row)
            if len(group) >= GROUP_ROWS or n_bytes >= GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group, n_bytes = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))


def _type(column: Column) -> Any:
    import pyarrow as pa

    whole, number, text = pa.int64(), pa.float64(), pa.string()
    token = [("token", text), ("logprob", number)]
    logprobs = pa.list_(pa.struct([*token, ("top", pa.list_(pa.struct(token)))]))
    sample = [("text", text), ("finish_reason", text), ("new_tokens", whole), ("seed", whole)]
    return {
        "whole": whole,
        "number": number,
        "text": text,
        "logprobs": logprobs,
        "samples": pa.list_(pa.struct(sample)),
        "samples with logprobs": pa.list_(pa.struct([*sample, ("logprobs", logprobs)])),
    }[column.kind]


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list):
        return sum(map(_size, value))
    return 8
