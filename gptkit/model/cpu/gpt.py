"""The GPT on a CPU, for inference: packed weights, and a step in one call of the layout.

Shapes: N new tokens, C model width, I MLP width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gptkit.model.cpu import layout
from gptkit.model.cpu.cache import PanelCache
from gptkit.model.cpu.layout import Laid, words
from gptkit.model.cpu.packing import aligned
from gptkit.model.forward import Span, round_up
from gptkit.ranking import Found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from gptkit.model.config import GPTConfig
    from gptkit.model.cpu.packing import Packed
    from gptkit.model.cpu.pool import Pool

    Floats = NDArray[np.float32]

MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
HEAD = "lm_head"
_NONE = np.empty((0, 0, 0, 0), np.int16)
_WIDE = _NONE.view(np.float32)
_NOTHING = Laid(layout.Kept(_NONE, _NONE, _WIDE, _WIDE, layout.F32, 0, 0))


class CpuGPT:
    """Token ids to logits, with the weights of GPT-2 parts in any of the kinds of `layout`.

    A row's logits have the same bits in any step that it is part of.
    """

    shares_prefixes = True
    ranks = True

    def __init__(
        self,
        config: GPTConfig,
        packed: Mapping[str, Packed],
        rest: Mapping[str, Tensor],
        threads: Pool,
    ) -> None:
        """`packed` has each of MATRICES as h.N.NAME, and HEAD; `rest` the other weights by name."""
        self.config = config
        self._packed, self._pool = packed, threads
        self._wte = _numbers(rest["wte.weight"])  # mapped: read by rows
        self._wpe = _numbers(rest["wpe.weight"]) if "wpe.weight" in rest else None
        n = config.n_layer  # may be 0, and the arrays have all their axes nevertheless
        head = packed[HEAD].row()
        matrices = [[packed[f"h.{i}.{name}"].row() for name in MATRICES] for i in range(n)]
        vectors = [_vectors(config, rest, i) for i in range(n)]
        no_norm = np.zeros((2, 0), np.float32)
        weights = layout.Weights(
            np.array(matrices, np.int64).reshape(n, len(MATRICES), len(head)),
            np.array(vectors, np.float32).reshape(n, 9 * config.n_embd + config.mlp_width),
            head,
            _norm(config, rest, "ln_f") if config.final_norm else no_norm,
            config.n_head,
            config.head_size,
            config.layer_norm_epsilon,
        )
        self._weights = Laid(weights)
        self._head = Laid(weights._replace(matrices=weights.matrices[:0], norm=no_norm))
        first = packed[f"h.0.{MATRICES[0]}"] if config.n_layer else packed[HEAD]
        self._cache_kind = layout.F32 if first.kind == layout.F32 else layout.BF16
        self._rooms: dict[int, Laid] = {}
        self._ranks: dict[tuple[int, int], Laid] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(matrix.data.nbytes for matrix in self._packed.values())

    def new_cache(self, n_slots: int) -> PanelCache:
        """Return an empty cache of `n_slots` sequences, each of up to block_size positions."""
        return PanelCache(self.config, n_slots, self._cache_kind)

    def step(
        self, ids: Sequence[int], spans: Sequence[Span], cache: PanelCache, wanted: Sequence[int]
    ) -> Tensor:
        """Append the spans' tokens to the cache; return float32 logits [len(wanted), V]."""
        return self.step_ranked(ids, spans, cache, wanted, 0)[0]

    def step_ranked(
        self,
        ids: Sequence[int],
        spans: Sequence[Span],
        cache: PanelCache,
        wanted: Sequence[int],
        n: int,
    ) -> tuple[Tensor, Found | None]:
        """Do as `step`; return the n best tokens of each row too, n of 0 to V; None if it is 0."""
        self._pool.wake()
        order = _Order(spans)
        x, rows = self._embedded(ids, order), order.row_of[np.array(wanted, np.int64)]
        made = self._compute(self._weights, cache.kept, order.places, x, rows, n)
        found = Found(made.ids, made.scores) if n else None
        return torch.from_numpy(made.logits), found

    def hidden(self, ids: Sequence[int], spans: Sequence[Span], cache: PanelCache) -> Tensor:
        """Append the spans' tokens to the cache; return the last layer's states [N, C]."""
        order = _Order(spans)
        x, none = self._embedded(ids, order), np.empty(0, np.int64)
        self._compute(self._weights, cache.kept, order.places, x, none, 0, is_normed=True)
        return torch.from_numpy(x[order.row_of])

    def head(self, hidden: Tensor, wanted: Sequence[int]) -> Tensor:
        """Return float32 logits [len(wanted), V] of the rows `wanted` of states [N, C]."""
        x, rows = np.ascontiguousarray(hidden.numpy()), np.array(wanted, np.int64)
        made = self._compute(self._head, _NOTHING, _Order(()).places, x, rows, 0)
        return torch.from_numpy(made.logits)

    def _embedded(self, ids: Sequence[int], order: _Order) -> Floats:
        """Return what enters the first layer [M, C], of the M tokens that are no padding."""
        # Not by torch: it would take threads for it, which turn for milliseconds in our way.
        tokens = np.array(ids, np.int64)[order.kept]
        assert not len(tokens) or tokens.min() >= 0
        x = _floats(self._wte, tokens)
        if self._wpe is not None:
            x += _floats(self._wpe, order.places.positions)
        return x

    def _compute(
        self,
        weights: Laid,
        kept: Laid,
        places: layout.Places,
        x: Floats,
        rows: NDArray[np.int64],
        n_best: int,
        *,
        is_normed: bool = False,
    ) -> layout.Made:
        """Take states x [M, C] through the layers; return what is made of those of `rows`."""
        assert len(x) or not len(rows)  # padding has no logits
        made = layout.Made(
            np.empty((len(rows), self.config.vocab_size), np.float32),
            np.empty((len(rows), n_best), np.int64),
            np.empty((len(rows), n_best), np.float32),
        )
        if len(x):
            room, ranks = self._room(max(len(x), len(rows))), self._ranks_of(len(rows), n_best)
            step = [self._pool.library.panels, int(is_normed)]
            for laid in (weights, kept, room, ranks):
                step += laid.words
            step += words(places, layout.Places) + words(x, "f4:2") + words(rows, "i8:1")
            step += words(made, layout.Made)
            self._pool.run(np.array(step, np.int64))
        return made

    def _ranks_of(self, n_rows: int, n: int) -> Laid:
        """Return working space for the n best tokens of rows; it is kept."""
        size = (_whole(n_rows), _whole(n)) if n else (0, 0)
        if size not in self._ranks:
            t, n_spans = self._pool.n, -(-self.config.vocab_size // layout.SPAN)
            ranks = layout.Ranks(
                np.empty((t, *size), np.int32),
                np.empty((t, *size), np.int64),
                np.empty((t, size[0]), np.int64),
                np.empty((t, n_spans), np.int32),
                np.empty((t, size[1]), np.int32),
            )
            self._ranks[size] = Laid(ranks)
        return self._ranks[size]

    def _room(self, n: int) -> Laid:
        """Return working space for n rows; it is kept, and serves up to the next power of two."""
        size = _whole(n)
        if size not in self._rooms:
            self._rooms[size] = Laid(_room(self.config, size, self._pool.n))
        return self._rooms[size]


class _Order:
    """The rows of a step that are no padding, and which of them attend together.

    Rows of one slot that follow each other attend together, up to BLOCK of them, and so do rows of
    any slots that share a trunk.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        positions: list[int] = []
        slots: list[int] = []
        kept: list[int] = []
        row_of: list[int] = []
        groups: dict[tuple[int, int], list[int]] = {}
        group_of: dict[int, tuple[int, int]] = {}
        seen: set[int] = set()  # slots that rows of another group read
        at = 0
        for span in spans:
            if span.slot is None:
                row_of += [0] * span.n
            else:
                first = len(slots)
                key = (-1, span.slot) if span.trunk is None else (span.trunk, span.shared)
                groups.setdefault(key, []).extend(range(first, first + span.n))
                if group_of.setdefault(span.slot, key) != key:
                    seen.add(span.slot)
                if span.trunk is not None:
                    seen.add(span.trunk)
                positions += range(span.start, span.start + span.n)
                slots += [span.slot] * span.n
                kept += range(at, at + span.n)
                row_of += range(first, first + span.n)
            at += span.n
        rows: list[int] = []
        blocks: list[tuple[int, int, int, int, int]] = []
        stored: list[int] = []
        for (trunk, other), members in groups.items():
            shared = 0 if trunk < 0 else other
            is_seen = len(members) > layout.BLOCK or any(slots[m] in seen for m in members)
            stored += members if is_seen else ()
            for start in range(0, len(members), layout.BLOCK):
                part = members[start : start + layout.BLOCK]
                blocks.append((len(rows), len(rows) + len(part), max(trunk, 0), shared, is_seen))
                rows += part
        self.kept = np.array(kept, np.int64)
        self.row_of = np.array(row_of, np.int64)
        self.places = layout.Places(
            np.array(positions, np.int64),
            np.array(slots, np.int64),
            np.array(rows, np.int64),
            np.array(blocks, np.int64).reshape(-1, 5),
            np.array(stored, np.int64),
        )


def _room(config: GPTConfig, n: int, n_threads: int) -> layout.Room:
    """Return working space of a step of up to n rows."""
    wide = round_up(max(3 * config.n_embd, config.mlp_width), layout.LANES)
    width = round_up(config.head_size, layout.LANES)
    # A trunk and the slot's own positions may each begin in the middle of a panel.
    longest = round_up(config.block_size, layout.LANES) + 3 * layout.LANES
    n_in = round_up(max(config.n_embd, config.mlp_width), layout.GROUP)
    short = aligned((n, 2 * n_in), np.int8)
    inputs = layout.Inputs(
        aligned((n, n_in), np.float32),
        short,
        short.view(np.int16),
        aligned((n, n_in // layout.GROUP), np.float32),
        aligned((n, n_in // layout.GROUP), np.int32),
    )
    return layout.Room(
        inputs,
        aligned((n, wide), np.float32),
        aligned((n, config.n_embd), np.float32),
        aligned((n_threads, layout.BLOCK, width), np.float32),
        aligned((n_threads, layout.BLOCK, longest), np.float32),
        aligned((n_threads, 2, layout.BLOCK, width), np.float32),
        aligned((n, layout.LANES), np.float32),
    )


def _whole(n: int) -> int:
    """Return the next power of two, so that few sizes of working space serve all."""
    return 1 << max(n - 1, 0).bit_length()


def _numbers(table: Tensor) -> NDArray[Any]:
    """Return a tensor's memory; NumPy has no bfloat16, so those are their bits, in uint16."""
    return table.view(torch.uint16).numpy() if table.dtype == torch.bfloat16 else table.numpy()


def _floats(table: NDArray[Any], rows: NDArray[np.int64]) -> Floats:
    """Return rows of a table in float32."""
    found = table[rows]
    if found.dtype == np.uint16:
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32, copy=False)


def _norm(config: GPTConfig, rest: Mapping[str, Tensor], name: str) -> Floats:
    """Return weight and bias [2, C]."""
    return np.stack([_vector(rest, f"{name}.{part}", config.n_embd) for part in ("weight", "bias")])


def _vector(rest: Mapping[str, Tensor], name: str, n: int) -> Floats:
    """Return a vector [n], zeros where a model has none of that name."""
    found: Floats = rest[name].float().numpy() if name in rest else np.zeros(n, np.float32)
    return found


def _vectors(config: GPTConfig, rest: Mapping[str, Tensor], layer: int) -> Floats:
    """Return the norms and biases of a layer [9 C + I], zeros where it has none."""
    c, at = config.n_embd, f"h.{layer}"

    def bias(name: str, n: int) -> Floats:
        return _vector(rest, f"{at}.{name}.bias", n)

    return np.concatenate(
        [
            _norm(config, rest, f"{at}.ln_1").ravel(),
            bias("attn.c_attn", 3 * c),
            bias("attn.c_proj", c),
            _norm(config, rest, f"{at}.ln_2").ravel(),
            bias("mlp.c_fc", config.mlp_width),
            bias("mlp.c_proj", c),
        ]
    )
