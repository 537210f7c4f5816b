"""The kernels as machine code: compiled by numba once, kept on disk, and loaded without numba.

To import numba, and to have it find its own copy of the code, would take most of a second.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import stat
import sys
import threading
from ctypes import CFUNCTYPE, c_int64
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llvmlite import binding

from gptkit.config import home
from gptkit.model.cpu import processor

if TYPE_CHECKING:
    from collections.abc import Iterator

    Code = dict[str, dict[str, Any]]
    """Of each function its object file in base64, its symbol, and the symbols that it needs."""

SOURCES = (
    *("arithmetic", "attention", "best", "kernels", "layout", "library", "panel", "processor"),
    *("step", "threads"),
)
"""The modules that the code depends on."""
FUNCTIONS = {
    "panels": (None, 17),
    "part": (None, 3),
    "wake": (None, 2),
    "lead": (None, 4),
    "follow": (c_int64, 5),
}
"""What each returns and takes: numbers in int64."""
_LOCK = threading.Lock()


class Library:
    """The functions of `kernels` and `threads`, as those of a C library."""

    def __init__(self, code: Code) -> None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_default_triple().create_target_machine(jit=True)
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        for name in FUNCTIONS:
            for needed in code[name]["needs"]:
                _bind(needed)
            machine_code = base64.b64decode(code[name]["object"])
            self._engine.add_object_file(binding.ObjectFileRef.from_data(machine_code))
        self._engine.finalize_object()
        symbols = {name: code[name]["symbol"] for name in FUNCTIONS}
        at = {name: self._engine.get_function_address(it) for name, it in symbols.items()}
        self.panels, self.part = at["panels"], at["part"]
        self.wake, self.lead, self.follow = (
            CFUNCTYPE(FUNCTIONS[name][0], *[c_int64] * FUNCTIONS[name][1])(at[name])
            for name in ("wake", "lead", "follow")
        )


def _bind(name: str) -> None:
    """Have a symbol, or LLVM would end the process: raise LookupError where there is none.

    Those of numba are for errors, of which the kernels have none.
    """
    if binding.address_of_symbol(name) is None:
        if not name.startswith("numba_"):
            raise LookupError(f"the kernels need {name}, which is not there")
        binding.add_symbol(name, binding.address_of_symbol("abort"))


def library() -> Library:
    """Return the kernels, compiled where they are not on disk: that takes ten seconds."""
    with _LOCK:
        return _library()


@cache
def _library() -> Library:
    name = f"kernels-{_key()}.bin"
    for folder in _folders():
        with contextlib.suppress(OSError, LookupError):
            if code := _read(folder / name):
                return Library(code)
    code = _compiled()
    for folder in _folders():
        with contextlib.suppress(OSError):
            _write(folder / name, code)
            break
    return Library(code)


def _key() -> str:
    """Return what tells this code from that of other sources, compilers and processors."""
    said: list[Any] = [version("numba"), version("llvmlite"), sys.platform, platform.machine()]
    numbas = {name for name in os.environ if name.startswith("NUMBA_")} - {"NUMBA_CACHE_DIR"}
    said += [(name, os.environ[name]) for name in sorted(numbas)]
    said += [binding.get_host_cpu_name(), sorted(processor.FEATURES), processor.FUTEX]
    here = Path(__file__)
    digest = hashlib.sha256(json.dumps(said).encode())
    for name in SOURCES:
        digest.update(here.with_stem(name).read_bytes())
    return digest.hexdigest()[:16]


def _folders() -> Iterator[Path]:
    """Yield where the code may be: where numba would put it, and a folder of ours."""
    if folder := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(folder)
        return
    yield Path(importlib.util.cache_from_source(__file__)).parent
    yield home() / "cache" / "kernels"


def _compiled() -> Code:
    """Return the object file of each function, its symbol, and the symbols that it needs."""
    from numba import cfunc, types

    from gptkit.model.cpu import kernels, threads

    functions, code = vars(threads) | vars(kernels), {}
    for name, (returns, n) in FUNCTIONS.items():
        signature = (types.int64 if returns else types.void)(*[types.int64] * n)
        compiled = cfunc(signature, **threads.OPTIONS)(functions[name].py_func)
        text = compiled.inspect_llvm()
        needs = re.findall(r'^(?:declare[^@]*|(?=@\S+ = external ))@"?([\w.$]+)', text, re.M)
        machine_code = compiled._library._get_compiled_object()  # type: ignore[attr-defined]
        code[name] = {
            "symbol": compiled.native_name,
            "needs": [one for one in needs if not one.startswith("llvm.")],
            "object": base64.b64encode(machine_code).decode(),
        }
    return code


def _read(path: Path) -> Code | None:
    """Return what was written, or None where a file is something else, or may be another's."""
    if any(map(_is_open, (path, path.parent))):
        return None
    digest, _, data = path.read_bytes().partition(b"\n")
    if digest.decode(errors="replace") != hashlib.sha256(data).hexdigest():
        return None
    code: Code = json.loads(data)
    return code


def _is_open(path: Path) -> bool:
    """Whether somebody else may have written here: what is read is run."""
    state = path.stat()
    return bool(state.st_mode & stat.S_IWOTH) or (
        hasattr(os, "getuid") and state.st_uid not in (os.getuid(), 0)
    )


def _write(path: Path, code: Code) -> None:
    """Write the file at once, for other processes may do so too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(code).encode()
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        partial.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
