"""The GPT on a CPU, for inference: packed weights, and a step in one call of the kernels.

Shapes: N new tokens, C model width, I MLP width, V vocabulary.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np
import torch

from gptkit.model.cpu import layout
from gptkit.model.cpu.cache import PanelCache
from gptkit.model.cpu.layout import Laid
from gptkit.model.cpu.packing import aligned
from gptkit.model.forward import Span, round_up
from gptkit.ranking import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from gptkit.model.config import GPTConfig
    from gptkit.model.cpu.packing import Packed
    from gptkit.model.cpu.pool import Pool

    Floats = NDArray[np.float32]

MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
HEAD = "lm_head"
EMBEDDINGS = "wte"
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
        """`packed` has each of MATRICES as h.N.NAME, HEAD, and EMBEDDINGS unless they are the
        head's rows; `rest` the other weights by name."""
        self.config = config
        self._packed, self._pool = packed, threads
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
            packed[HEAD if config.tied else EMBEDDINGS].row(),
            _positions(config, rest),
            config.n_head,
            config.head_size,
            config.layer_norm_epsilon,
        )
        self._weights = Laid(weights)
        self._head = Laid(weights._replace(matrices=weights.matrices[:0], norm=no_norm))
        first = packed[f"h.0.{MATRICES[0]}"] if config.n_layer else packed[HEAD]
        self._cache_kind = layout.F32 if first.kind == layout.F32 else layout.BF16
        self._rooms: dict[int, Laid[layout.Room]] = {}
        self._ranks: dict[tuple[int, int], Laid[layout.Ranks]] = {}

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
        order = _Order(ids, spans)
        logits, found = self._compute(self._weights, cache.kept, order, order.rows(wanted), n)
        return logits, found if n else None

    def hidden(self, ids: Sequence[int], spans: Sequence[Span], cache: PanelCache) -> Tensor:
        """Append the spans' tokens to the cache; return the last layer's states [N, C]."""
        order = _Order(ids, spans)
        x = aligned((len(order.tokens), self.config.n_embd), np.float32)
        self._compute(self._weights, cache.kept, order, [], 0, x, is_normed=True)
        return torch.from_numpy(x[order.rows(range(len(ids)))])

    def head(self, hidden: Tensor, wanted: Sequence[int]) -> Tensor:
        """Return float32 logits [len(wanted), V] of the rows `wanted` of states [N, C]."""
        x, rows = np.ascontiguousarray(hidden.numpy(), np.float32), list(wanted)
        if x.shape[1:] != (self.config.n_embd,):
            raise ValueError(f"states of width {self.config.n_embd} are asked for, not {x.shape}")
        return self._compute(self._head, _NOTHING, _Order((), ()), rows, 0, x)[0]

    def _compute(
        self,
        weights: Laid[layout.Weights],
        kept: Laid[layout.Kept],
        order: _Order,
        rows: Sequence[int],
        n_best: int,
        x: Floats | None = None,
        *,
        is_normed: bool = False,
    ) -> tuple[Tensor, Found]:
        """Take tokens, or states x [N, C], through the layers; return what is made of `rows`."""
        n = len(order.tokens) if x is None else len(x)
        _check(rows, n, "row")  # padding has no logits
        _check(order.tokens, self.config.vocab_size, "token")
        if self.config.n_layer or len(weights.value.wpe):  # a bigram's have no end
            _check(order.positions, self.config.block_size, "position")
        _check(order.slots, kept.value.keys.shape[1], "slot")
        logits = np.empty((len(rows), self.config.vocab_size), np.float32)
        ids = np.empty((len(rows), n_best), np.int64)
        scores = np.empty((len(rows), n_best), np.float32)
        # A tensor says in less time than an array where it lies.
        made = [torch.from_numpy(one) for one in (logits, ids, scores)]
        if n:
            room, ranks = self._room(max(n, len(rows))), self._ranks_of(len(rows), n_best)
            call = layout.Call(
                self._pool.library.panels,
                is_normed,
                weights.at,
                kept.at,
                room.at,
                ranks.at,
                0 if x is None else x.ctypes.data,
                n,
                len(order.tokens),
                len(order.blocks) // 5,
                len(order.stored),
                len(rows),
                n_best,
                *(one.data_ptr() for one in made),
            )
            self._pool.run(array("q", [*call, *order.numbers(), *rows]))
        return made[0], Found(ids, scores)

    def _ranks_of(self, n_rows: int, n: int) -> Laid[layout.Ranks]:
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
            return self._ranks.setdefault(size, Laid(ranks))
        return self._ranks[size]

    def _room(self, n: int) -> Laid[layout.Room]:
        """Return working space for n rows; it is kept, and serves up to the next power of two."""
        size = _whole(n)
        if size not in self._rooms:
            return self._rooms.setdefault(size, Laid(_room(self.config, size, self._pool.n)))
        return self._rooms[size]


class _Order:
    """The rows of a step that are no padding, and which of them attend together.

    Rows of one slot that follow each other attend together, up to BLOCK of them, and so do rows of
    any slots that share a trunk.
    """

    def __init__(self, ids: Sequence[int], spans: Sequence[Span]) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.order: list[int] = []
        self.blocks: list[int] = []
        self.stored: list[int] = []
        self._row_of: list[int] = []
        groups: dict[tuple[int, int], list[int]] = {}
        group_of: dict[int, tuple[int, int]] = {}
        seen: set[int] = set()  # slots that rows of another group read
        at = 0
        for span in spans:
            if span.slot is None:
                self._row_of += [0] * span.n
            else:
                first = len(self.slots)
                key = (-1, span.slot) if span.trunk is None else (span.trunk, span.shared)
                groups.setdefault(key, []).extend(range(first, first + span.n))
                if group_of.setdefault(span.slot, key) != key:
                    seen.add(span.slot)
                if span.trunk is not None:
                    seen.add(span.trunk)
                self.tokens += [ids[i] for i in range(at, at + span.n)]
                self.positions += range(span.start, span.start + span.n)
                self.slots += [span.slot] * span.n
                self._row_of += range(first, first + span.n)
            at += span.n
        for (trunk, other), members in groups.items():
            shared = 0 if trunk < 0 else other
            is_seen = len(members) > layout.BLOCK or any(self.slots[m] in seen for m in members)
            self.stored += members if is_seen else ()
            for start in range(0, len(members), layout.BLOCK):
                part, first = members[start : start + layout.BLOCK], len(self.order)
                self.blocks += (first, first + len(part), max(trunk, 0), shared, is_seen)
                self.order += part

    def rows(self, wanted: Iterable[int]) -> list[int]:
        """Return which rows those of a step are, without padding."""
        return [self._row_of[i] for i in wanted]

    def numbers(self) -> list[int]:
        """Return what lies behind a `layout.Call`."""
        return self.tokens + self.positions + self.slots + self.order + self.blocks + self.stored


def _check(numbers: Sequence[int], end: int, what: str) -> None:
    """Raise IndexError for a number that is not below `end`: the kernels would go there."""
    if numbers and not 0 <= min(numbers) <= max(numbers) < end:
        raise IndexError(f"no {what} {min(numbers)} or {max(numbers)} of {end}")


def _room(config: GPTConfig, n: int, n_threads: int) -> layout.Room:
    """Return working space of a step of up to n rows."""
    wide = round_up(max(3 * config.n_embd, config.mlp_width), layout.LANES)
    width = round_up(config.head_size, layout.LANES)
    # A trunk and the slot's own positions may each begin in the middle of a panel.
    longest = round_up(config.block_size, layout.LANES) + 3 * layout.LANES
    n_in = round_up(max(config.n_embd, config.mlp_width), layout.GROUP)
    n_in += layout.GROUP  # rows that are whole pages apart would share a few sets of the cache
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
        aligned((n, config.n_embd), np.float32),
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


def _positions(config: GPTConfig, rest: Mapping[str, Tensor]) -> Floats:
    """Return a copy of the embeddings of positions [T, C], [0, C] where a model has none."""
    if "wpe.weight" not in rest:
        return np.zeros((0, config.n_embd), np.float32)
    found: Floats = np.array(rest["wpe.weight"].float().numpy(), order="C")
    if found.shape != (config.block_size, config.n_embd):
        raise ValueError(f"embeddings of positions of shape {list(found.shape)}")
    return found


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
