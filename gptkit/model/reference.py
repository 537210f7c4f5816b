"""The same forward in NumPy, short enough to be checked by eye: it judges the fast one.

GPT-2 parts, one row at a time: `--backend numpy`. Shapes as in gpt.py; L = past + T.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from gptkit.model.config import GPTConfig
    from gptkit.model.forward import Span

    Array = NDArray[np.float32]


class ReferenceGPT:
    """GPT-2 over a mapping of names to float32 arrays; matrices are [in, out]."""

    shares_prefixes = False
    ranks = False

    def __init__(self, config: GPTConfig, weights: Mapping[str, Array]) -> None:
        self.config, self.w = config, weights

    def new_cache(self, n_slots: int) -> Array:
        """Return an empty cache [slot, layer, 2, S, H, D] of keys and values."""
        c = self.config
        return np.zeros((n_slots, c.n_layer, 2, c.block_size, c.n_head, c.head_size), np.float32)

    def step(self, ids: Any, spans: Sequence[Span], cache: Array, wanted: Any) -> Array:
        """Append the spans' tokens to the cache; return logits [len(wanted), V]."""
        logits, first = [], 0
        for span in spans:
            part = np.asarray(ids[first : first + span.n])
            if span.slot is None:  # padding: nobody looks at its logits
                logits.append(np.zeros((span.n, self.config.vocab_size), np.float32))
            else:
                logits.append(self.forward(part, span.start, cache[span.slot]))
            first += span.n
        return np.concatenate(logits)[list(wanted)]

    def forward(self, ids: NDArray[Any], past: int, kv: Array) -> Array:
        """Return logits [T, V] of what follows each of `ids` [T], after `past` cached positions."""
        c, w = self.config, self.w
        x = w["wte.weight"][ids]  # [T, C]
        if c.positions == "learned":
            x = x + w["wpe.weight"][past : past + len(ids)]
        for i in range(c.n_layer):
            x = x + self.attention(self.norm(x, f"h.{i}.ln_1"), f"h.{i}.attn", past, kv[i])
            hidden = gelu(self.linear(self.norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
            x = x + self.linear(hidden, f"h.{i}.mlp.c_proj")
        head = w["wte.weight" if c.tied else "lm_head.weight"]
        return np.asarray((self.norm(x, "ln_f") if c.final_norm else x) @ head.T)

    def attention(self, x: Array, name: str, past: int, kv: Array) -> Array:
        """Return causal multi-head attention of x [T, C] over `past` + T positions."""
        q, k, v = np.split(self.linear(x, f"{name}.c_attn"), 3, axis=-1)  # each [T, C]
        n, heads = past + len(x), (len(x), self.config.n_head, -1)
        kv[0, past:n], kv[1, past:n] = k.reshape(heads), v.reshape(heads)
        scores = np.einsum("thd,lhd->htl", q.reshape(heads), kv[0, :n])
        scores = scores / np.sqrt(np.float32(self.config.head_size))
        future = np.arange(n) > past + np.arange(len(x))[:, None]  # [T, L]
        mix = np.einsum("htl,lhd->thd", softmax(np.where(future, -np.inf, scores)), kv[1, :n])
        return self.linear(mix.reshape(len(x), -1).astype(np.float32), f"{name}.c_proj")

    def linear(self, x: Array, name: str) -> Array:
        """Return x @ weight + bias."""
        return np.asarray(x @ self.w[f"{name}.weight"] + self.w.get(f"{name}.bias", np.float32(0)))

    def norm(self, x: Array, name: str) -> Array:
        """Return x normed to mean 0 and variance 1, scaled and shifted (layer norm)."""
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt(
            x.var(-1, keepdims=True) + np.float32(self.config.layer_norm_epsilon)
        )
        return np.asarray(
            normed * self.w[f"{name}.weight"] + self.w.get(f"{name}.bias", np.float32(0))
        )


def gelu(x: Array) -> Array:
    """Return the tanh approximation of x * Phi(x)."""
    return np.asarray(
        0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), np.float32
    )


def softmax(x: Array) -> Array:
    """Return exp(x) over its sum along the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True), np.float32)
