"""What only a GPU can tell of a sampler: whether it waits for the device."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gptkit import decoding
from gptkit.testing.model import REAL

if TYPE_CHECKING:
    from gptkit.testing.report import Examination
    from gptkit.testing.rows import Bench

CODE = "C14"
TITLE = "no host-device sync in a step"
N_ROWS = 16


def check(exam: Examination, bench: Bench) -> None:
    """Run the stage on the GPU, where there is one; on a CPU nothing can be said of it."""
    if torch.cuda.is_available():
        exam.check(CODE, TITLE, _syncs, bench)
    else:
        exam.skip(CODE, TITLE, "there is no CUDA device")


def _syncs(exam: Examination, bench: Bench) -> None:
    """Count where torch says that it waits; what the engine's rows do is not the stage's doing."""
    logits = torch.randn(N_ROWS, REAL, generator=bench.generator).cuda()
    places, sampler = bench.places(N_ROWS, REAL), bench.cls()
    out = bench.apply(logits, places, sampler)
    if out.device != logits.device:
        exam.find(CODE, f"apply() returned a tensor on {out.device}, not on {logits.device}")
    engine = Path(str(decoding.__file__)).parent
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            bench.apply(logits, places, sampler)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [
        f"{Path(one.filename).name}:{one.lineno}"
        for one in caught
        if "synchronizing" in str(one.message) and Path(one.filename).parent != engine
    ]
    exam.costs["host-device syncs"] = len(waits)
    if waits:
        exam.find(
            CODE,
            f"apply() waits for the device {len(waits)} times, at {', '.join(waits)}",
            "warning",
        )
