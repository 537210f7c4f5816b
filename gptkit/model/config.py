"""What a model is: its sizes and parts, the named sizes, and the counts that follow. No torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gptkit.config import Settings

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1 + 2 / 32, "int4": 0.5 + 2 / 32}
"""Bytes of a weight; in 8 bits and 4, a group of 32 has a scale of 16 bits besides."""
CACHE_DTYPE = {"int8": "bfloat16", "int4": "bfloat16"}
"""What keys and values are kept in, where it is not what weights are."""


class GPTConfig(Settings):
    """A GPT-2 style transformer; parts are switched by name, so that a bigram model is a choice.

    Bigram: `n_layer=0, positions="none", final_norm=False, tied=False, n_embd=vocab_size`.
    """

    vocab_size: int = Field(ge=1, le=10_000_000, description="rows of the token embedding")
    block_size: int = Field(ge=1, le=10_000_000, description="positions of the context")
    n_layer: int = Field(ge=0, le=10_000, description="blocks; 0 is a bigram model")
    n_head: int = Field(1, ge=1, le=10_000, description="attention heads; divides n_embd")
    n_embd: int = Field(ge=1, le=1_000_000, description="width of the model")
    n_inner: int | None = Field(
        None, ge=1, le=10_000_000, description="MLP width; None is 4 n_embd"
    )
    bias: bool = Field(True, description="biases in linear layers and layer norms")
    qkv_bias: bool = Field(True, description="bias of the query, key and value projection")
    tied: bool = Field(True, description="output head shares the token embedding")
    positions: Literal["learned", "none"] = "learned"
    final_norm: bool = True
    layer_norm_epsilon: float = Field(1e-5, gt=0, le=1)
    embd_dropout: float = Field(0.0, ge=0, lt=1, description="of the embeddings")
    attn_dropout: float = Field(0.0, ge=0, lt=1, description="of the attention weights")
    resid_dropout: float = Field(0.0, ge=0, lt=1, description="of what a block adds")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head {self.n_head} does not divide n_embd {self.n_embd}")
        return self

    @property
    def head_size(self) -> int:
        """Width of one head, D."""
        return self.n_embd // self.n_head

    @property
    def mlp_width(self) -> int:
        """Width of the hidden layer of the MLP."""
        return self.n_inner or 4 * self.n_embd

    @property
    def has_qkv_bias(self) -> bool:
        """Whether c_attn has a bias."""
        return self.bias and self.qkv_bias

    def n_params(self, *, tied: bool | None = None) -> int:
        """Count parameters; `tied` overrides whether head and embedding count once or twice."""
        width, inner, bias = self.n_embd, self.mlp_width, int(self.bias)
        norm = width * (1 + bias)
        attention = 4 * width * width + 3 * width * int(self.has_qkv_bias) + width * bias
        mlp = 2 * width * inner + (inner + width) * bias
        embedding = self.vocab_size * width
        shared = self.tied if tied is None else tied
        return (
            embedding * (1 if shared else 2)
            + (self.block_size * width if self.positions == "learned" else 0)
            + self.n_layer * (2 * norm + attention + mlp)
            + (norm if self.final_norm else 0)
        )

    def kv_bytes_per_token(self, dtype: str = "float32") -> int:
        """Return the bytes to store keys and values of one token in all layers."""
        n_bytes = DTYPE_BYTES[CACHE_DTYPE.get(dtype, dtype)]
        return 2 * self.n_layer * self.n_embd * int(n_bytes)


def _gpt2(n_layer: int, n_head: int, n_embd: int) -> GPTConfig:
    dropout = 0.1  # as in the released hyperparameters
    return GPTConfig(
        vocab_size=50257,
        block_size=1024,
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        embd_dropout=dropout,
        attn_dropout=dropout,
        resid_dropout=dropout,
    )


NAMED_SIZES: dict[str, GPTConfig] = {
    "gpt2": _gpt2(12, 12, 768),
    "gpt2-medium": _gpt2(24, 16, 1024),
    "gpt2-large": _gpt2(36, 20, 1280),
    "gpt2-xl": _gpt2(48, 25, 1600),
}
"""Sizes of Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""
