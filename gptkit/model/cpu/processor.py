"""What this processor can do, by the instructions that numba compiles for. No numba yet."""

from __future__ import annotations

import os
import platform
import sys

from llvmlite import binding


def _features() -> frozenset[str]:
    """Return the names of the instructions; the environment may tell numba of another machine."""
    said = os.environ.get("NUMBA_CPU_FEATURES", "")
    if said or os.environ.get("NUMBA_CPU_NAME"):
        return frozenset(name[1:] for name in said.split(",") if name.startswith("+"))
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
FEATURES = _features()
HAS_BF16_DOT = IS_X86 and {"avx512f", "avx512bf16"} <= FEATURES
HAS_INT8_DOT = IS_X86 and {"avx512f", "avx512vnni"} <= FEATURES
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None
"""The number of Linux' futex(2) here, None where there is none that we know."""
YIELD = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
"""The system's call that lets other threads have the processor."""


def describe() -> str:
    """Say in a line how the kernels multiply here."""
    dots = [("8 and 4 bits by AVX-512 VNNI", HAS_INT8_DOT), ("bfloat16 by AVX-512", HAS_BF16_DOT)]
    found = [name for name, there in dots if there]
    plain = "the rest" if found else "everything"
    return "; ".join([*found, f"{plain} in float32"])
