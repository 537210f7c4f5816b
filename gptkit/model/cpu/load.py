"""Weights by our names -> a CpuGPT: which kind serves a dtype here, and the packing."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from gptkit.model.config import GPTConfig
    from gptkit.model.cpu.gpt import CpuGPT

DTYPES = ("float32", "bfloat16", "int8", "int4")


def why_not() -> str | None:
    """Return why these kernels can't run here, None where they can."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    return None


def kinds_of(dtype: str) -> tuple[int, int]:
    """Return the kinds of the layers' matrices and of the head, the fastest of this processor.

    The head of 4 bits has 8: a word's last bit of probability is decided there.
    """
    from gptkit.model.cpu import kernels

    eight = kernels.INT8_DOT if kernels.HAS_INT8_DOT else kernels.INT8
    four = kernels.INT4_DOT if kernels.HAS_INT8_DOT else kernels.INT4
    half = kernels.BF16_DOT if kernels.HAS_BF16_DOT else kernels.BF16
    return {
        "float32": (kernels.F32, kernels.F32),
        "bfloat16": (half, half),
        "int8": (eight, eight),
        "int4": (four, eight),
    }[dtype]


def from_tensors(
    config: GPTConfig, tensors: Mapping[str, Tensor], kinds: tuple[int, int], n_threads: int
) -> CpuGPT:
    """Pack weights, as GPT-2 names and lays them out, [in, out]; return the model over them."""
    import numpy as np

    from gptkit.model.cpu.gpt import HEAD, MATRICES, CpuGPT
    from gptkit.model.cpu.packing import pack
    from gptkit.model.cpu.pool import pool

    layers, last = kinds
    rest = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    packed = {}
    for i in range(config.n_layer):
        for name in MATRICES:
            matrix = rest.pop(f"h.{i}.{name}.weight")
            packed[f"h.{i}.{name}"] = pack(np.ascontiguousarray(matrix.T), layers)
    head = rest["wte.weight"] if config.tied else rest.pop("lm_head.weight")
    packed[HEAD] = pack(head, last)
    return CpuGPT(config, packed, rest, pool(n_threads))
