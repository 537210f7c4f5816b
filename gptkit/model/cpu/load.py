"""Weights by our names -> a CpuGPT: which kind serves a dtype here, and the packing."""

from __future__ import annotations

import importlib.util
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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


def describe() -> str:
    """Say in a line what computes on this CPU, and why."""
    if reason := why_not():
        return f"torch ({reason})"
    from gptkit.model.cpu import processor

    return f"cpu ({processor.describe()})"


def kinds_of(dtype: str) -> tuple[int, int]:
    """Return the kinds of the layers' matrices, and of the head and the embeddings of tokens: the
    fastest of this processor.

    The head of 4 bits has 8: a word's last bit of probability is decided there.
    """
    from gptkit.model.cpu import layout, processor

    eight = layout.INT8_DOT if processor.HAS_INT8_DOT else layout.INT8
    four = layout.INT4_DOT if processor.HAS_INT8_DOT else layout.INT4
    half = layout.BF16_DOT if processor.HAS_BF16_DOT else layout.BF16
    return {
        "float32": (layout.F32, layout.F32),
        "bfloat16": (half, half),
        "int8": (eight, eight),
        "int4": (four, eight),
    }[dtype]


def sizes(config: GPTConfig, dtype: str) -> dict[str, int]:
    """Return the bytes of each packed matrix."""
    from gptkit.model.cpu.packing import n_bytes

    return {name: n_bytes(*shape) for name, shape in _shapes(config, *kinds_of(dtype)).items()}


def pack(
    config: GPTConfig, tensors: Mapping[str, Tensor], layers: int, last: int
) -> dict[str, Packed]:
    """Return the matrices packed: of one kind in the layers, where GPT-2 has them as [in, out], and
    of another in the head and the embeddings."""
    from gptkit.model.cpu import packing
    from gptkit.model.cpu.gpt import EMBEDDINGS, HEAD

    packed = {}
    for name, (kind, *_) in _shapes(config, layers, last).items():
        stored = EMBEDDINGS if name == HEAD and config.tied else name
        matrix = tensors[f"{stored}.weight"]
        if name not in (HEAD, EMBEDDINGS):
            matrix = matrix.T
        packed[name] = packing.pack(matrix.float().contiguous().numpy(), kind)
    return packed


def model(
    config: GPTConfig,
    packed: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    dtype: str,
    n_threads: int,
) -> CpuGPT:
    """Return a model over the bytes of packed matrices and the other weights, by our names."""
    from gptkit.model.cpu.gpt import CpuGPT
    from gptkit.model.cpu.packing import Packed
    from gptkit.model.cpu.pool import pool

    shapes = _shapes(config, *kinds_of(dtype))
    matrices = {name: Packed(*shape, packed[name].numpy()) for name, shape in shapes.items()}
    return CpuGPT(config, matrices, tensors, pool(n_threads))


def compile_kernels(tell: Callable[[str], None] | None) -> None:
    """Have the kernels ready; `tell` is told if that takes long, which it does once."""
    with _patience(tell):
        from gptkit.model.cpu.library import library

        library()


def _shapes(config: GPTConfig, layers: int, last: int) -> dict[str, tuple[int, int, int]]:
    """Return kind, n_out and n_in of each matrix that is packed."""
    from gptkit.model.cpu.gpt import EMBEDDINGS, HEAD, MATRICES

    c, inner = config.n_embd, config.mlp_width
    by_name = dict(zip(MATRICES, ((3 * c, c), (c, c), (inner, c), (c, inner)), strict=True))
    shapes = {
        f"h.{i}.{name}": (layers, *shape)
        for i in range(config.n_layer)
        for name, shape in by_name.items()
    }
    rows = {HEAD: (last, config.vocab_size, c)}
    return {**shapes, **rows} if config.tied else {**shapes, **rows, EMBEDDINGS: rows[HEAD]}


@contextmanager
def _patience(tell: Callable[[str], None] | None) -> Iterator[None]:
    """Say what is going on where it takes long."""
    if tell is None:
        yield
        return
    text = "preparing the kernels for this processor: the first time about ten seconds"
    timer = threading.Timer(PATIENCE_S, tell, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
