"""What is measured: torch's forward and, where the machine suits them, the CPU kernels'."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from gptkit.model.cpu import load as cpu
from gptkit.model.gpt import GPT
from tests.fakes import ByteTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gptkit.model.config import GPTConfig
    from gptkit.model.forward import Forward

SHORT = {"float32": "f32", "bfloat16": "bf16", "int8": "int8", "int4": "int4"}


def forwards(
    config: GPTConfig,
    weights: Mapping[str, torch.Tensor],
    *,
    of_torch: tuple[str, ...],
    of_cpu: tuple[str, ...],
) -> dict[str, Callable[[], Forward]]:
    """Return who makes each, by its name; the types are named as `--dtype` names them."""
    made: dict[str, Callable[[], Forward]] = {
        f"gptkit, torch {SHORT[name]}": lambda name=name: GPT.from_tensors(
            config, dict(weights), dtype=getattr(torch, name)
        )
        for name in of_torch
    }
    if not cpu.why_not():
        made |= {
            f"gptkit, cpu {SHORT[name]}": lambda name=name: packed(config, weights, name)
            for name in of_cpu
        }
    return made


def packed(config: GPTConfig, weights: Mapping[str, torch.Tensor], dtype: str) -> Forward:
    """Return a model on the CPU kernels, its weights packed now."""
    matrices = cpu.pack(config, weights, *cpu.kinds_of(dtype))
    data = {name: torch.from_numpy(matrix.data) for name, matrix in matrices.items()}
    return cpu.model(config, data, weights, dtype, torch.get_num_threads())


class Timed:
    """A model that notes how long it computes."""

    shares_prefixes = True

    def __init__(self, forward) -> None:
        self.forward, self.config, self.seconds = forward, forward.config, 0.0
        self.new_cache, self.ranks = forward.new_cache, forward.ranks
        self.step = self._timed(forward.step)
        self.step_ranked = self._timed(forward.step_ranked) if forward.ranks else None

    def _timed(self, compute):
        def step(*args):
            start = time.perf_counter()
            out = compute(*args)
            self.seconds += time.perf_counter() - start
            return out

        return step


class WideTokenizer(ByteTokenizer):
    """As many ids as GPT-2 has; what they say does not matter here."""

    vocab_size = 50257

    def token_bytes(self, token_id):
        return b"x"
