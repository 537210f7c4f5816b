"""The header of a safetensors file, checked by all rules of the format and our limits. No torch.

The library itself accepts a tensor that is named twice, and takes 10 s for a header of 33 MB.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.checkpoints import strict_json
from gptkit.checkpoints.strict_json import shown
from gptkit.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEADER_BYTES = 10_000_000
MAX_TENSORS = 100_000

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What weights may be stored in, by safetensors' names."""
DTYPE_SIZES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2},
    **{"BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8},
}
"""Bytes of one element, for all that a header may name (masks, optimizer state)."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def length(head: bytes, n_file: int, name: str) -> int:
    """Return the length of the header, from the first bytes of a file of `n_file` bytes."""
    if len(head) < 8:
        raise CheckpointError(f"{name} is {n_file} bytes: truncated, or not safetensors")
    (n_header,) = struct.unpack("<Q", head[:8])
    if n_header > MAX_HEADER_BYTES:
        limit = MAX_HEADER_BYTES // 1_000_000
        raise CheckpointError(f"{name}: header length {n_header:,} exceeds the limit of {limit} MB")
    if 8 + n_header > n_file:
        said = f"file is {n_file:,} bytes, its header alone {8 + n_header:,}"
        raise CheckpointError(f"{name}: {said}: truncated download?", hint="download it again")
    return int(n_header)


def parse(raw: bytes, n_file: int, name: str) -> dict[str, TensorInfo]:
    """Return the tensors that the header `raw` describes, after checking that it fits the file."""
    if not raw.startswith(b"{"):
        raise CheckpointError(f"{name} is not safetensors: its header is not JSON")
    # Counted before it is parsed, for parsing takes fifty times the memory.
    check_count(raw.count(b'"data_offsets"'), name)
    header = strict_json.parse(raw, name, key_is="tensor")
    _check_metadata(header.pop("__metadata__", {}), name)
    check_count(len(header), name)
    ranges = {}
    for key, entry in header.items():
        try:
            ranges[key] = _range(entry)
        except ValueError as error:
            raise CheckpointError(f"{name}: tensor {shown(key)}: {error}") from None
    n_data = _check_cover(ranges, name)
    n_expected = 8 + len(raw) + n_data
    if n_expected != n_file:
        said = f"{name}: file is {n_file:,} bytes, header says {n_expected:,}"
        why = "truncated download?" if n_file < n_expected else "bytes after the last tensor"
        raise CheckpointError(f"{said}: {why}", hint="download it again")
    return {key: TensorInfo(said["dtype"], tuple(said["shape"])) for key, said in header.items()}


def check_count(n_tensors: int, name: str) -> None:
    """Refuse a file that lists more tensors than any model has."""
    if n_tensors > MAX_TENSORS:
        raise CheckpointError(f"{name}: {n_tensors:,} tensors; the limit is {MAX_TENSORS:,}")


def _check_metadata(metadata: Any, name: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{name}: __metadata__ in the header is not an object of texts")


def _range(entry: Any) -> tuple[int, int]:
    """Return where a tensor's bytes begin and end; ValueError says what is wrong with its entry."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError("its entry must have dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_SIZES:
        known = ", ".join(DTYPES)
        raise ValueError(f"dtype {shown(str(dtype))} not supported (supported: {known})")
    if not _are_sizes(shape):
        raise ValueError(f"shape {shown(str(shape))} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"data_offsets {shown(str(offsets))} are not [begin, end]")
    begin, end = offsets
    n_bytes = math.prod(shape) * DTYPE_SIZES[dtype]
    if n_bytes != end - begin:
        size = f"shape {shown(str(shape))} of {dtype} is {_count(n_bytes)} bytes"
        raise ValueError(f"{size}, data_offsets hold {end - begin:,}")
    return begin, end


def _are_sizes(value: Any) -> bool:
    """Return whether a value is a short list of whole numbers from 0 to 2^63-1."""
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(size) is int and 0 <= size < 2**63 for size in value)
    )


def _count(n: int) -> str:
    return f"{n:,}" if n < 2**63 else "more than 2^63"


def _check_cover(ranges: Mapping[str, tuple[int, int]], name: str) -> int:
    """Check that ranges follow one another without overlap or hole; return where the last ends."""
    reached = 0
    for key, (begin, end) in sorted(ranges.items(), key=lambda item: item[1]):
        if begin != reached:
            what = "overlaps the tensor before it" if begin < reached else "leaves a hole before it"
            raise CheckpointError(
                f"{name}: tensor {shown(key)} {what} (it begins at {begin:,}, expected {reached:,})"
            )
        reached = end
    return reached
