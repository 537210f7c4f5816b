"""A process that holds one system: `worker.py SYSTEM DTYPE FOLDER THREADS`, asked in lines of JSON.

Each question is answered by a line: `["rate", n, new]` or `["first", n_prompt]`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def resident() -> int:
    """Return the bytes of memory that this process has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def main(name: str, dtype: str, folder: str, threads: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    from tests.benchmarks.peers.systems import SYSTEMS

    if name in ("gptkit", "transformers"):
        import torch

        torch.set_num_threads(int(threads))
        if name == "transformers":
            import transformers  # noqa: F401
    elif name == "CTranslate2":
        import ctranslate2  # noqa: F401
    else:
        import llama_cpp  # noqa: F401
    before, start = resident(), time.perf_counter()
    system = SYSTEMS[name](Path(folder), dtype, int(threads))
    loaded = time.perf_counter() - start
    system.rate(1, 4)  # what is made at the first use
    print(json.dumps({"load": loaded, "memory": resident() - before}), file=answers, flush=True)
    for line in sys.stdin:
        what, *values = json.loads(line)
        if what == "first":
            system.first(*values)  # what the processes between have put out of the caches
        print(json.dumps(getattr(system, what)(*values)), file=answers, flush=True)


main(*sys.argv[1:])
