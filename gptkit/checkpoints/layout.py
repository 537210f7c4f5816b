"""The names and shapes of a model's tensors, as its GPTConfig implies them. No torch.

Names are those of GPT-2's checkpoints without `transformer.`; matrices are [in, out].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.model.config import GPTConfig

Shape = tuple[int, ...]


def tensor_shapes(config: GPTConfig) -> dict[str, Shape]:
    """Return every tensor of the model with its shape; a tied head has none of its own."""
    return dict(_tensors(config))


def _tensors(config: GPTConfig) -> Iterator[tuple[str, Shape]]:
    width = config.n_embd
    yield "wte.weight", (config.vocab_size, width)
    if config.positions == "learned":
        yield "wpe.weight", (config.block_size, width)
    for i in range(config.n_layer):
        block = f"h.{i}"
        yield from _norm(f"{block}.ln_1", config)
        yield from _linear(f"{block}.attn.c_attn", width, 3 * width, bias=config.has_qkv_bias)
        yield from _linear(f"{block}.attn.c_proj", width, width, bias=config.bias)
        yield from _norm(f"{block}.ln_2", config)
        yield from _linear(f"{block}.mlp.c_fc", width, config.mlp_width, bias=config.bias)
        yield from _linear(f"{block}.mlp.c_proj", config.mlp_width, width, bias=config.bias)
    if config.final_norm:
        yield from _norm("ln_f", config)
    if not config.tied:
        yield "lm_head.weight", (config.vocab_size, width)


def _norm(name: str, config: GPTConfig) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (config.n_embd,)
    if config.bias:
        yield f"{name}.bias", (config.n_embd,)


def _linear(name: str, n_in: int, n_out: int, *, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n_in, n_out)
    if bias:
        yield f"{name}.bias", (n_out,)
