"""The only place that writes weights: a whole checkpoint appears at once, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from gptkit.checkpoints import header, safe_load
from gptkit.checkpoints.formats.gptkit import CONFIG, FORMAT, TOKENIZER, beside
from gptkit.checkpoints.layout import tensor_shapes
from gptkit.checkpoints.manifest import MANIFEST, describe, read_manifest
from gptkit.errors import CheckpointError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from gptkit.model.config import GPTConfig
    from gptkit.plugin_api import Tokenizer

CACHE_LINE = 64


def save_checkpoint(
    folder: Path,
    *,
    config: GPTConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    bos_id: int | None,
    eos_ids: Sequence[int],
    chat_template: str | None = None,
    sampling: Sequence[str | dict[str, Any]] | None = None,
    extra: Mapping[str, bytes | Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a checkpoint of ours; it replaces an older one of ours only when it is complete.

    `tensors` go by our names and are stored in their dtype; a tied head is stored once. `extra`
    adds files: bytes as they are, or tensors as safetensors. Everything is on disk before the
    folder gets its name, and other files that stand in an older checkpoint are kept. Raise
    ResourceError where the disk gives out; what was at `folder` is then still there.
    """
    if config.tied:
        tensors = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    _check_tensors(config, tensors, folder)
    said = {
        "format": FORMAT,
        "config": config.model_dump(),
        "tokenizer": tokenizer.name if tokenizer else None,
        "bos_id": bos_id,
        "eos_ids": sorted(eos_ids),
        "chat_template": chat_template,
        "sampling": None if sampling is None else list(sampling),
    }
    temporary, old = beside(folder, "tmp"), beside(folder, "old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recover(folder, old)
        _check_place(folder)
        _make(temporary)
        try:
            _write(temporary / CONFIG, json.dumps(said, indent=2, allow_nan=False).encode() + b"\n")
            _write_tensors(temporary / safe_load.WEIGHTS, tensors)
            if tokenizer:
                (temporary / TOKENIZER).mkdir()
                tokenizer.save(temporary / TOKENIZER)
            for name, content in (extra or {}).items():
                _write_extra(temporary, name, content)
            _finish(temporary)
            _put_in_place(temporary, folder, old)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _clear(old, folder)
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else folder
        raise ResourceError(
            f"cannot save {folder}: {error.strerror or error} ({where})",
            hint="an older checkpoint there is unharmed; free some space or choose another place",
        ) from error


def save_packed(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whose tensors begin at cache lines, if their sizes are whole ones.

    It appears whole or not at all. Raise OSError where the disk gives out.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_tensors(partial, tensors)
        with partial.open("rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            used = len(file.read(n_header).rstrip())
        if (8 + n_header) % CACHE_LINE:
            spare = -(8 + used + len(',"pad":""')) % CACHE_LINE
            _write_tensors(partial, tensors, pad=" " * spare)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# The files --------------------------------------------------------------------------------------


def _check_tensors(config: GPTConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    names = {f"torch.{ours}": theirs for theirs, ours in header.DTYPES.items()}
    found = {
        name: header.TensorInfo(names.get(str(t.dtype), str(t.dtype)), tuple(t.shape))
        for name, t in tensors.items()
    }
    safe_load.check_tensors(tensor_shapes(config), found, f"cannot save {folder}: what was given")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(plain, path, {"format": "pt", **metadata})
    except SafetensorError as error:
        raise OSError(None, str(error), str(path)) from error
    path.chmod(mode)  # safetensors makes files that only their owner may read


def _write_extra(folder: Path, name: str, content: bytes | Mapping[str, Tensor]) -> None:
    if (folder / name).parent != folder or os.path.lexists(folder / name):
        raise CheckpointError(f"'{name}' is no name for a further file of a checkpoint")
    if isinstance(content, bytes):
        _write(folder / name, content)
    else:
        _write_tensors(folder / name, content)


def _finish(folder: Path) -> None:
    """Bring everything to the disk, the manifest last."""
    paths = [path for path in folder.rglob("*") if not path.is_dir()]
    for path in paths:
        _sync(path)
    names = [path.relative_to(folder).as_posix() for path in paths]
    _write(folder / MANIFEST, describe(folder, names))
    _sync(folder / MANIFEST)
    for place in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(place)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The folders ------------------------------------------------------------------------------------


def _recover(folder: Path, old: Path) -> None:
    """Undo the first rename of a save that was killed before the second."""
    if os.path.lexists(folder):
        _clear(old, folder)
    elif os.path.lexists(old):
        os.replace(old, folder)


def _check_place(folder: Path) -> None:
    """Refuse to replace what is no checkpoint of ours."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise CheckpointError(f"{folder} is in the way: it is not a folder", hint="choose another")
    if any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} is in the way: it is not a checkpoint of gptkit",
            hint="choose another folder, or empty it",
        )


def _make(temporary: Path) -> None:
    """Make the folder to write into; what a killed save left there goes."""
    if os.path.lexists(temporary):
        is_ours = temporary.is_dir() and not temporary.is_symlink()
        if not is_ours or (any(temporary.iterdir()) and not (temporary / CONFIG).is_file()):
            raise CheckpointError(f"{temporary} is in the way", hint="move it away")
        shutil.rmtree(temporary)
    temporary.mkdir()


def _put_in_place(temporary: Path, folder: Path, old: Path) -> None:
    """Give the finished folder its name.

    A folder can't be renamed over a full one, so the older checkpoint steps aside for a moment;
    `open_checkpoint` looks there, should the process be killed in between.
    """
    if not (folder / CONFIG).is_file():
        os.replace(temporary, folder)
    else:
        os.replace(folder, old)
        try:
            os.replace(temporary, folder)
        except BaseException:
            os.replace(old, folder)
            raise
    _sync(folder.parent)


def _clear(old: Path, folder: Path) -> None:
    """Remove a replaced checkpoint, but move what is not part of one into the new folder.

    The new checkpoint is in place, so what can't be removed here is no reason to fail.
    """
    with contextlib.suppress(OSError):
        if not os.path.lexists(old):
            return
        ours = {CONFIG, MANIFEST, safe_load.WEIGHTS, TOKENIZER}
        with contextlib.suppress(CheckpointError):
            manifest = read_manifest(old)
            ours |= {name.partition("/")[0] for name in manifest.files} if manifest else set()
        for path in old.iterdir():
            if path.name not in ours and not os.path.lexists(folder / path.name):
                os.replace(path, folder / path.name)
        shutil.rmtree(old)
