"""The one GPT in torch: GPT-2's architecture, its parts chosen by GPTConfig. It never reads a file.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": pre-norm, tanh-GELU,
learned positions. Parameter names and the layout of matrices, [in, out], are those of the GPT-2
checkpoints, so that loading one copies nothing.

Shapes: B sequences, T new positions, N new tokens of many sequences end to end, H heads, D head
size, C = H * D model width, V vocabulary.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptkit.model import packed
from gptkit.model.cache import KVCache
from gptkit.model.forward import ROWS, round_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gptkit.model.config import GPTConfig
    from gptkit.model.forward import Span

    Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
    """q, k, v [..., H, D] of new tokens to the mix of values [..., H, D]."""


class Matrix(nn.Module):
    """x [..., in] to x @ weight + bias [..., out], with the weight [in, out] as GPT-2 stores it."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None
        self.packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the product over the last axis."""
        rows = x.reshape(-1, x.shape[-1])
        if self.packed is not None:
            return packed.linear(rows, self.packed, self.bias).view(*x.shape[:-1], -1)
        out = rows @ self.weight if self.bias is None else torch.addmm(self.bias, rows, self.weight)
        return out.view(*x.shape[:-1], self.weight.shape[1])


class Rows(nn.Module):
    """A vector [C] for each id: the embeddings, and the head, which is read the other way.

    Unlike nn.Embedding it draws no weights, which on the meta device costs a second of imports.
    """

    def __init__(self, n_rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows [..., C] of `ids` [...]."""
        return F.embedding(ids, self.weight)


class CausalSelfAttention(nn.Module):
    """Multi-head attention; what is attended to is the caller's affair."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Matrix(config.n_embd, 3 * config.n_embd, bias=config.has_qkv_bias)
        self.c_proj = Matrix(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Return [..., C] for x [..., C]."""
        q, k, v = (
            part.unflatten(-1, (self.n_head, -1))  # [..., H, D]
            for part in self.c_attn(x).chunk(3, dim=-1)  # [..., C]
        )
        return self.c_proj(attend(q, k, v).flatten(-2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two matrices around a tanh-GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Matrix(config.n_embd, config.mlp_width, bias=config.bias)
        self.c_proj = Matrix(config.mlp_width, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., C] for x [..., C]."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer: attention, then MLP, each normed before and added after."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = _norm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = _norm(config)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.resid_dropout)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Return [..., C] for x [..., C]."""
        x = x + self.drop(self.attn(self.ln_1(x), attend))
        return x + self.drop(self.mlp(self.ln_2(x)))  # type: ignore[no-any-return]


def _norm(config: GPTConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon, bias=config.bias)


class GPT(nn.Module):
    """Token ids to logits; `forward` for training, `step` for decoding with a cache."""

    shares_prefixes = True
    ranks = False

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        learned = config.positions == "learned"
        self.wte = Rows(config.vocab_size, config.n_embd)
        self.wpe = Rows(config.block_size, config.n_embd) if learned else None
        self.drop = nn.Dropout(config.embd_dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = _norm(config) if config.final_norm else nn.Identity()
        self.lm_head = None if config.tied else Rows(config.vocab_size, config.n_embd)
        self.packed_head: Tensor | None = None

    @classmethod
    def from_tensors(
        cls,
        config: GPTConfig,
        tensors: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> GPT:
        """Return a model for inference over `tensors`, which are copied only if they must be.

        On a CPU, in float32, matrices are packed, which is a copy: few rows times a packed one take
        a third of the time.
        """
        with torch.device("meta"):
            model = cls(config)
        placed = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
        model.load_state_dict(placed, assign=True)
        model.requires_grad_(False).eval()
        if device == "cpu" and dtype == torch.float32 and packed.is_available():
            for module in model.modules():
                if isinstance(module, Matrix):
                    module.packed = packed.pack(module.weight.t())
            model.packed_head = packed.pack(model._head().weight)
        return model

    def init_weights(self, seed: int) -> GPT:
        """Fill in fresh weights: N(0, 0.02), and 1 / sqrt(2 n_layer) of that into the residual."""
        noise = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif ".ln_" in name or name.startswith("ln_"):
                nn.init.ones_(weight)
            else:
                residual = name.endswith("c_proj.weight")
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02
                nn.init.normal_(weight, std=std, generator=noise)
        return self

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [B, T, V] of what follows each of `ids` [B, T]; nothing is cached."""
        dropout = self.config.attn_dropout if self.training else 0.0
        positions = torch.arange(ids.shape[1], device=ids.device)
        attend = partial(_attend_causally, dropout=dropout)
        x = self._embed(ids, positions)
        for block in self.h:
            x = block(x, attend)
        return self._unembed(self.ln_f(x))

    def new_cache(self, n_slots: int) -> KVCache:
        """Return an empty cache of `n_slots` sequences of up to block_size positions."""
        weight = self.wte.weight
        return KVCache(self.config, n_slots, dtype=weight.dtype, device=weight.device)

    @torch.inference_mode()
    def step(
        self, ids: Sequence[int], spans: Sequence[Span], cache: KVCache, wanted: Sequence[int]
    ) -> Tensor:
        """Append the spans' tokens to the cache; return float32 logits [len(wanted), V].

        `ids` [N] are the tokens of all spans end to end; `wanted` are indices into them.
        """
        return self.head(self.hidden(ids, spans, cache), wanted)

    @torch.inference_mode()
    def hidden(self, ids: Sequence[int], spans: Sequence[Span], cache: KVCache) -> Tensor:
        """Append the spans' tokens to the cache; return the last layer's states [N, C]."""
        view = cache.view(spans)
        tokens = torch.tensor(ids, dtype=torch.long, device=self.wte.weight.device)
        x = self._embed(tokens, view.positions)
        for layer, block in enumerate(self.h):
            x = block(x, partial(view.attend, layer))
        return self.ln_f(x)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def head(self, hidden: Tensor, wanted: Sequence[int]) -> Tensor:
        """Return float32 logits [len(wanted), V] of the rows `wanted` of states [N, C]."""
        if not len(wanted):
            return hidden.new_empty(0, self.config.vocab_size)
        if len(wanted) < len(hidden):
            # As many rows as a product needs, so that each has the bits that it has elsewhere.
            spare = round_up(len(wanted), ROWS) - len(wanted)
            rows = [*wanted, *[0] * spare]
            hidden = hidden[torch.tensor(rows, dtype=torch.long, device=hidden.device)]
        return self._unembed(hidden).float()[: len(wanted)]

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        x = self.wte(ids)
        if self.wpe is not None:
            x = x + self.wpe(positions)
        return self.drop(x)  # type: ignore[no-any-return]

    def _head(self) -> Rows:
        return self.wte if self.lm_head is None else self.lm_head

    def _unembed(self, x: Tensor) -> Tensor:
        if self.packed_head is not None:
            return packed.linear(x.reshape(-1, x.shape[-1]), self.packed_head, None).view(
                *x.shape[:-1], -1
            )
        return F.linear(x, self._head().weight)


def _attend_causally(q: Tensor, k: Tensor, v: Tensor, *, dropout: float) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [B, H, T, D]
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    return y.transpose(1, 2)  # [B, T, H, D]
