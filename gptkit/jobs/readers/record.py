"""A row as its file has it, not yet counted among the rows of all inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit.jobs.rows import Fault, digest_of, is_unicode, json_kind

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Record:
    """A row, with its line in the file; `file` is given where it is not the source's own."""

    line: int
    digest: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    id: str | int | None = None
    file: str | None = None


def record(line: int, digest: str, fields: Mapping[str, Any], fault: Fault | None = None) -> Record:
    """Return the record of a row whose id is the field `id`, where it has one that may be one."""
    row_id = fields.get("id")
    if row_id is not None and type(row_id) not in (str, int):
        said = f"id is {json_kind(row_id)}, not text or a whole number"
        return Record(line, digest, {}, Fault("invalid_id", said))
    if isinstance(row_id, str) and not is_unicode(row_id):
        row_id = None
    return Record(line, digest, fields, fault, row_id)


def digest_of_fields(fields: Any) -> str:
    """Return the digest of a row that is not a line: the same in whatever order its fields are."""
    text = json.dumps(
        fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=bytes.hex
    )
    return digest_of(text.encode("utf-8", "surrogatepass"))
