"""Weights by our names -> a CpuGPT: which kind serves a dtype here, and the packing."""

from __future__ import annotations

import importlib.util
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gptkit.model.forward import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from gptkit.model.config import GPTConfig
    from gptkit.model.cpu.gpt import CpuGPT
    from gptkit.model.cpu.packing import Packed

DTYPES = ("float32", "bfloat16", "int8", "int4")
PATIENCE_S = 2.0
"""Kernels that are on disk are there sooner."""


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
    config: GPTConfig,
    tensors: Mapping[str, Tensor],
    dtype: str,
    n_threads: int,
    tell: Callable[[str], None] | None = None,
) -> CpuGPT:
    """Pack weights, as GPT-2 names and lays them out, [in, out]; return the model over them.

    `tell` is told what takes long: the kernels are compiled once for a processor.
    """
    with _patience(tell):
        from gptkit.model.cpu.gpt import CpuGPT
        from gptkit.model.cpu.pool import pool

        layers, last = kinds_of(dtype)
        model = CpuGPT(config, *packed_weights(config, tensors, layers, last), pool(n_threads))
        model.hidden([0], [Span(0, 0, 1)], model.new_cache(1))
        model.step([0], [Span(0, 0, 1)], model.new_cache(1), [0])
    return model


def packed_weights(
    config: GPTConfig, tensors: Mapping[str, Tensor], layers: int, last: int
) -> tuple[dict[str, Packed], dict[str, NDArray[np.float32]]]:
    """Return the matrices, of one kind in the layers and of another in the head, and the rest."""
    import numpy as np

    from gptkit.model.cpu.gpt import HEAD, MATRICES
    from gptkit.model.cpu.packing import pack

    rest = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    packed = {}
    for i in range(config.n_layer):
        for name in MATRICES:
            matrix = rest.pop(f"h.{i}.{name}.weight")
            packed[f"h.{i}.{name}"] = pack(np.ascontiguousarray(matrix.T), layers)
    head = rest["wte.weight"] if config.tied else rest.pop("lm_head.weight")
    packed[HEAD] = pack(head, last)
    return packed, rest


@contextmanager
def _patience(tell: Callable[[str], None] | None) -> Iterator[None]:
    """Say what is going on where it takes long."""
    if tell is None:
        yield
        return
    text = "compiling the kernels for this processor: once, about ten seconds"
    timer = threading.Timer(PATIENCE_S, tell, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
