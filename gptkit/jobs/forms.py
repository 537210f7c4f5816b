"""The forms that rows come in and go out in, told by the end of a name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

from gptkit.errors import ConfigError

Kind = Literal["jsonl", "csv", "tsv", "parquet", "text"]
Compression = Literal["gzip", "zstd"]

JSONL = (".jsonl", ".ndjson")
SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys(JSONL, "jsonl"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Form:
    """How the rows of a file are written, and what they are packed in."""

    kind: Kind
    compression: Compression | None = None


def form_of(name: str) -> Form | None:
    """Return the form that a name says, or None. Parquet packs itself."""
    name, compression = compression_of(name)
    kind = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)
    if kind is None or (kind == "parquet" and compression):
        return None
    return Form(kind, compression)


def compression_of(name: str) -> tuple[str, Compression | None]:
    """Return the name of what is packed, in small letters, and how it is packed."""
    name = name.lower()
    for suffix, packed in COMPRESSIONS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), packed
    return name, None


def check_extras(form: Form, name: str) -> None:
    """Raise ConfigError where a form needs a package that is not there."""
    if form.kind == "parquet":
        _check_package("pyarrow", f"{name}: Parquet", "parquet")
    if form.compression == "zstd":
        _check_package("zstandard", f"{name}: Zstandard", "zstd")


def _check_package(package: str, what: str, extra: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ConfigError(
            f"{what} needs the package {package}, which is not installed",
            hint=f"pip install 'gptkit[{extra}]'",
        ) from error
