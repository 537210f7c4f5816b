"""The guard against slow starts: what importing a plugin's module brings along."""

from __future__ import annotations

import functools
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptkit.testing.report import Examination

TITLE = "importing it does not import torch"
CODE = "C20"
PROGRAM = """
import importlib.util, json, sys, time
name, path = json.loads(sys.argv[1])
start = time.perf_counter()
if importlib.util.find_spec(name.partition(".")[0]):
    importlib.import_module(name)
else:
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
print(json.dumps([time.perf_counter() - start, "torch" in sys.modules]))
"""


def check(exam: Examination, plugin: type) -> None:
    """Import the plugin's module in a fresh interpreter; `--help` imports it too.

    A class that is written in a test or typed at a prompt has no module to import alone.
    """
    module, path = plugin.__module__, file_of(plugin)
    if module == "__main__" or Path(path).stem.startswith(("test_", "conftest")) or not path:
        exam.skip(CODE, TITLE, "the class is not in a module of its own")
        return
    exam.check(CODE, TITLE, _check, module, path)


def _check(exam: Examination, module: str, path: str) -> None:
    status, said = _imported(module, path)
    if status:
        exam.find(CODE, f"{module} can't be imported alone: {said}")
        return
    seconds, has_torch = json.loads(said)
    exam.costs["import, ms"] = 1000 * seconds
    if has_torch:
        exam.find(CODE, f"importing {module} imports torch: import it inside a function")


@functools.cache
def _imported(module: str, path: str) -> tuple[int, str]:
    """Return the exit status and the last line that the fresh interpreter printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([module, path])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode, lines[-1] if lines else f"exit status {done.returncode}"


def file_of(plugin: type) -> str:
    """Return the path of the file that a class is in, empty where there is none."""
    try:
        return inspect.getfile(plugin)
    except (TypeError, OSError):
        return ""
