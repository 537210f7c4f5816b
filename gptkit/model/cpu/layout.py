"""What the kernels and Python agree on: kinds of weights, sizes, and how a step lies in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    Form = str | type

T = TypeVar("T")

F32, BF16, BF16_DOT, INT8, INT4, INT8_DOT, INT4_DOT = range(7)
"""How a matrix is stored and multiplied. `_DOT` takes activations in 16 or 8 bits too, and needs
AVX-512 BF16 or VNNI; without it they stay float32, which any processor can do."""

LANES = 16
GROUP = 32
"""Weights that share a scale, along K; and what K is rounded up to."""
BLOCK = 32
"""Rows that attend together."""
SPAN = 64
"""Tokens whose best logit decides whether any of them is looked at again."""

WORDS = 64
"""Numbers in int64 that the threads of a pool share."""
ARRIVED, SLEEPERS, STEPS, BELL, ASLEEP, STEP = (8 * i for i in range(6))
"""Where they are, a cache line for each: how many have come to the barrier, and how many sleep
there; how many steps there were; how often somebody was called, and how many sleep until then; and
where the step lies."""

WEIGHTS, WEIGHTS_STRIDE, SCALES, SCALES_STRIDE, KIND, N_IN, N_OUT = range(7)
"""What is said of a matrix, in int64: the address of its first panel and the bytes to the next,
the same of its scales, its kind, K rounded up to groups, and O."""


class Weights(NamedTuple):
    """A model's: matrices [layer, 4, 7] (c_attn, c_proj, c_fc, c_proj), norms and biases
    [layer, 9 C + I], what is said of the head, and the norm before it [2, C], or none [2, 0]; what
    is said of the embeddings of tokens, and those of positions [T, C], or none [0, C]."""

    matrices: Any
    vectors: Any
    head: Any
    norm: Any
    wte: Any
    wpe: Any
    n_head: int
    head_size: int
    eps: float


class Kept(NamedTuple):
    """Keys and values [layer, slot, H, -] in 16 bits, and the same memory in 32; their kind, F32 or
    BF16; T and D, rounded up."""

    keys: Any
    values: Any
    wide_keys: Any
    wide_values: Any
    kind: int
    n_positions: int
    width: int


class Inputs(NamedTuple):
    """Rows as a product reads them: float32 [N, > K]; or int8 [N, > 2 K], which is bfloat16
    [N, > K] too, in the same memory. Groups of int8 have scales and sums [N, > K / 32]."""

    floats: Any
    bytes: Any
    halves: Any
    scales: Any
    sums: Any


class Room(NamedTuple):
    """Working space: states x [N, C], y [N, 3 C or I], mixes [N, C]; and for each thread queries
    [BLOCK, D], scores [BLOCK, T], and mixes of a block's own positions and of a trunk's
    [2, BLOCK, D]. The last panel of logits goes to edge [N, 16] first, since V need not be a
    multiple of 16."""

    inputs: Inputs
    x: Any
    y: Any
    attended: Any
    queries: Any
    scores: Any
    mixed: Any
    edge: Any


class Ranks(NamedTuple):
    """Working space to find the n best tokens of M rows in. For each thread: the best of its part
    [T, >= M, >= n] as keys and tokens, how many of them there are [T, >= M], peaks [T, V / SPAN]
    and keys [T, >= n]."""

    keys: Any
    tokens: Any
    held: Any
    peaks: Any
    tops: Any


class Call(NamedTuple):
    """How a step is asked for: numbers and addresses. Behind it lie, also in int64, the tokens; the
    parts of `step.Places`; and the rows wanted. Where x is 0, it is that of the room."""

    panels: int
    is_normed: int
    weights: int
    kept: int
    room: int
    ranks: int
    x: int
    n_rows: int
    n_tokens: int
    n_blocks: int
    n_stored: int
    n_wanted: int
    n_best: int
    logits: int
    ids: int
    scores: int


FORMS: Mapping[type, tuple[Form, ...]] = {
    Weights: ("i8:3", "f4:2", "i8:1", "f4:2", "i8:1", "f4:2", "i8", "i8", "f8"),
    Kept: ("i2:4", "i2:4", "f4:4", "f4:4", "i8", "i8", "i8"),
    Inputs: ("f4:2", "i1:2", "i2:2", "f4:2", "i4:2"),
    Room: (Inputs, "f4:2", "f4:2", "f4:2", "f4:3", "f4:3", "f4:4", "f4:2"),
    Ranks: ("i4:3", "i8:3", "i8:2", "i4:2", "i4:2"),
    Call: ("i8",) * len(Call._fields),
}
"""What the members are: numbers by NumPy's names, arrays with how many axes they have."""


def words(value: Any, form: Form) -> list[int]:
    """Return a value as it lies in memory, in int64: an array as numba has it, owned by nobody.

    Who makes a step keeps what it points to.
    """
    if isinstance(form, type):
        parts = zip(value, FORMS[form], strict=True)
        return [word for part, its in parts for word in words(part, its)]
    kind, _, n_axes = form.partition(":")
    if not n_axes:
        return [int(np.array(value, kind).view(np.int64))]
    if value.dtype != kind or value.ndim != int(n_axes) or not value.flags.c_contiguous:
        raise TypeError(f"{form} in a row is asked for, not {value.dtype}:{value.ndim}")
    return [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]


def n_words(form: Form) -> int:
    """Return how many words a value of a form takes."""
    if isinstance(form, type):
        return sum(map(n_words, FORMS[form]))
    n_axes = form.partition(":")[2]
    return 5 + 2 * int(n_axes) if n_axes else 1


class Laid(Generic[T]):
    """What serves many steps: where it lies in memory, and what it points to."""

    def __init__(self, value: T) -> None:
        self.value = value
        self._words = np.array(words(value, type(value)), np.int64)
        self.at: int = self._words.ctypes.data
