"""The only place that opens weights: what may be opened, what it must look like, and mapping it.

A model directory is untrusted. A file is opened only if it is a regular file that lies inside the
directory, and its header is checked in plain Python, so that a model's sizes are known without
torch and before anything is allocated. Only safetensors is loaded, for only it can't run code.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.checkpoints import header, strict_json
from gptkit.checkpoints.header import DTYPES
from gptkit.checkpoints.strict_json import shown
from gptkit.errors import CheckpointError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from gptkit.checkpoints.header import TensorInfo
    from gptkit.checkpoints.layout import Shape

MAX_INDEX_BYTES = 10_000_000
MAX_SETTINGS_BYTES = 1_000_000
MAX_PROBLEMS = 5

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A safetensors file whose header has been checked."""

    path: Path
    n_bytes: int
    tensors: Mapping[str, TensorInfo]


# Opening --------------------------------------------------------------------------------------


def checked_path(folder: Path, name: str) -> Path:
    """Return the path of a regular file in `folder`; raise CheckpointError for anything else.

    A symlink may not leave the folder, but for the layout of the Hugging Face cache, whose
    `snapshots/REVISION/` holds links into `blobs/` beside it.
    """
    path = folder / name
    try:
        real = Path(os.path.realpath(path, strict=True))
        root = Path(os.path.realpath(folder, strict=True))
        mode = os.stat(real).st_mode
    except OSError as error:
        raise CheckpointError(f"cannot open {path}: {error.strerror}") from None
    in_cache = root.parent.name == "snapshots" and real.parent == root.parent.parent / "blobs"
    if not real.is_relative_to(root) and not in_cache:
        raise CheckpointError(
            f"{path} is a link to a file outside the model directory; refused",
            hint="put the file itself there",
        )
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is not a regular file; refused")
    return path


def read_json(
    folder: Path, name: str, max_bytes: int = MAX_SETTINGS_BYTES
) -> tuple[dict[str, Any], bytes]:
    """Return the object in a JSON file of `folder`, and the bytes that it was read from."""
    path = checked_path(folder, name)
    data = _read(path, max_bytes + 1)
    if len(data) > max_bytes:
        n_bytes = path.stat().st_size
        raise CheckpointError(f"{path} is {n_bytes:,} bytes; the limit is {max_bytes:,}")
    _refuse_what_is_no_data(data, path, "JSON")
    return strict_json.parse(data, str(path)), data


def _read(path: Path, n_bytes: int, start: int = 0) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(n_bytes)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


# What a file is, by its first bytes -------------------------------------------------------------


def _refuse_what_is_no_data(head: bytes, path: Path, wanted: str) -> None:
    """Refuse what is commonly found where data should be: nothing, a pointer, a web page."""
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes)", hint="download it again")
    if head.startswith(b"version https://git-lfs"):
        n_bytes = path.stat().st_size
        raise CheckpointError(
            f"{path} is a Git LFS pointer ({n_bytes:,} bytes), not {wanted}",
            hint="run `git lfs pull` in its folder",
        )
    start = head[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        first = shown(start[:9].decode("ascii", "replace"))
        raise CheckpointError(
            f"{path} looks like an HTML page (first bytes '{first}'), not {wanted}",
            hint="download it again; the server may have wanted a login",
        )


_CONVERT = "convert it to safetensors; weights as pickle can run code and are not loaded"
_OTHER_FORMATS = (
    (b"\x1f\x8b", "compressed with gzip", "unpack it"),
    (b"PK\x03\x04", "a zip archive, as torch.save writes", _CONVERT),
    (b"\x80", "a Python pickle", _CONVERT),
    (b"GGUF", "a GGUF file", "convert it to safetensors"),
)


def _refuse_other_formats(head: bytes, path: Path) -> None:
    # A small safetensors header may begin with any byte, so ask first whether it is one.
    if head[4:9] == b"\0\0\0\0{":
        return
    for magic, what, hint in _OTHER_FORMATS:
        if head.startswith(magic):
            raise CheckpointError(f"{path} is {what}, not safetensors", hint=hint)


# Reading ----------------------------------------------------------------------------------------


def read_header(folder: Path, name: str) -> WeightsFile:
    """Check the header of a safetensors file by all rules of the format and our limits."""
    path = checked_path(folder, name)
    n_file = path.stat().st_size
    head = _read(path, 512)
    _refuse_what_is_no_data(head, path, "weights")
    _refuse_other_formats(head, path)
    if path.suffix in PICKLED:
        raise CheckpointError(f"{path}: weights of this kind are not loaded", hint=_CONVERT)
    n_header = header.length(head, n_file, str(path))
    tensors = header.parse(_read(path, n_header, 8), n_file, str(path))
    return WeightsFile(path, n_file, tensors)


# The files of a model ---------------------------------------------------------------------------


def find_weights(folder: Path, name: str | None = None) -> list[WeightsFile]:
    """Return the checked weights of a model directory: one file, or the shards of an index.

    `name` chooses one file of the folder.
    """
    if name is None:
        for name in (WEIGHTS, INDEX):
            if os.path.lexists(folder / name):
                break
        else:
            raise _no_weights(folder)
    if name.endswith(".index.json"):
        return _shards(folder, name)
    return [read_header(folder, name)]


def _no_weights(folder: Path) -> CheckpointError:
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (*PICKLED, ".gguf"))
    if others:
        return CheckpointError(
            f"no safetensors weights in {folder}, only {shown(others[0])}, which is not loaded",
            hint="convert it to safetensors" if others[0].endswith(".gguf") else _CONVERT,
        )
    return CheckpointError(f"no weights in {folder}: looked for {WEIGHTS}, {INDEX}")


def _shards(folder: Path, index_name: str) -> list[WeightsFile]:
    index, _ = read_json(folder, index_name, MAX_INDEX_BYTES)
    where = folder / index_name
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        found = strict_json.kind(weight_map) if "weight_map" in index else "missing"
        raise CheckpointError(f"{where}: weight_map is {found}, not an object of tensor to file")
    header.check_count(len(weight_map), str(where))
    for key, name in weight_map.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{where}: the file of tensor {shown(key)} is not text")
        if not re.fullmatch(r"[^/\\:\0]+", name) or name in (".", ".."):
            raise CheckpointError(
                f"{where}: index names a file outside the model directory: '{shown(name)}'; refused"
            )
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not os.path.lexists(folder / name)]
    if missing:
        raise CheckpointError(
            f"shard {shown(missing[0])} is missing in {folder} "
            f"({len(names) - len(missing)} of {len(names)} present)",
            hint="download it again",
        )
    shards = [read_header(folder, name) for name in names]
    _check_index({shard.path.name: shard for shard in shards}, weight_map, where)
    return shards


def _check_index(
    shards: Mapping[str, WeightsFile], weight_map: Mapping[str, str], where: Path
) -> None:
    held: dict[str, str] = {}
    for name, shard in shards.items():
        for key in shard.tensors:
            if key in held:
                raise CheckpointError(
                    f"{shard.path}: tensor {shown(key)} stands in {shown(held[key])} as well"
                )
            held[key] = name
    for key, name in weight_map.items():
        if held.get(key) != name:
            place = f"it is in {shown(held[key])}" if key in held else "it is in no shard"
            raise CheckpointError(
                f"{where}: tensor {shown(key)} is not in {shown(name)} as the index says; {place}"
            )
    strays = held.keys() - weight_map.keys()
    if strays:
        raise CheckpointError(f"{where}: the index lacks tensor {shown(min(strays))}")


def check_tensors(
    expected: Mapping[str, Shape], found: Mapping[str, TensorInfo], where: str
) -> None:
    """Compare names, shapes and dtypes with what the config implies; name up to five problems."""
    wrong = [
        name
        for name, info in found.items()
        if name in expected and (info.shape != expected[name] or info.dtype not in DTYPES)
    ]
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    # Missing and unexpected ones in turn: together they often are one name, spelt two ways.
    in_turn = itertools.zip_longest(sorted(missing), sorted(unexpected))
    problems = [*wrong, *(name for pair in in_turn for name in pair if name is not None)]
    if problems:
        more = len(problems) - MAX_PROBLEMS
        listed = [_problem(name, expected, found) for name in problems[:MAX_PROBLEMS]]
        listed += [f"and {more:,} more"] if more > 0 else []
        raise CheckpointError(
            f"{where} does not fit the config: {'; '.join(listed)}",
            hint="is the config of another model beside the weights?",
        )


def _problem(name: str, expected: Mapping[str, Shape], found: Mapping[str, TensorInfo]) -> str:
    if name not in found:
        return f"missing {name} {list(expected[name])}"
    shape = shown(str(list(found[name].shape)))
    if name not in expected:
        return f"unexpected {shown(name)} {shape}"
    if found[name].shape != expected[name]:
        return f"{name}: expected {list(expected[name])}, found {shape}"
    supported = ", ".join(DTYPES)
    return f"{name}: dtype {found[name].dtype} not supported (supported: {supported})"


# The data ---------------------------------------------------------------------------------------


def load_tensors(files: Iterable[WeightsFile], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return memory-mapped tensors; `names` maps ours to the file's. Writing to one copies pages.

    The mapping is private: what a program writes into a tensor never reaches the file.
    """
    from safetensors import SafetensorError, safe_open

    theirs = {stored: ours for ours, stored in names.items()}
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file.path, framework="pt", device="cpu") as opened:
                for stored in file.tensors:
                    if stored in theirs:
                        tensors[theirs[stored]] = opened.get_tensor(stored)
        except SafetensorError as error:
            raise CheckpointError(f"{file.path}: {shown(str(error))}") from error
        except (OSError, MemoryError, RuntimeError) as error:
            raise ResourceError(f"cannot map {file.path}: {shown(str(error))}") from error
    return tensors


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each tensor that holds NaN or infinity, with how many.

    Takes 0.05 s for 124M parameters, over pages that the first forward pass needs anyway; so it
    is cheap enough to be done for every model that is loaded.
    """
    import torch

    notes = []
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = torch.aminmax(tensor)  # NaN where one is; ten times as fast as isfinite
        if not (low.isfinite() and high.isfinite()):
            count = int(tensor.isfinite().logical_not().sum())
            notes.append(f"tensor {name}: {count:,} non-finite values")
    return notes
