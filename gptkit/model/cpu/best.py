"""The best tokens of a row of logits, in numba: the highest first, of equals the lower id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from gptkit.model.cpu.arithmetic import INLINE, bits_of_float
from gptkit.model.cpu.layout import SPAN
from gptkit.model.cpu.threads import OPTIONS

if TYPE_CHECKING:
    from gptkit.model.cpu.step import Step


@njit(**INLINE)
def _key(x: Any) -> Any:
    """An integer in the order of numbers, 0 and -0 the same; NaN is the largest."""
    u = bits_of_float(x)
    if u & np.int32(0x7FFFFFFF) > np.int32(0x7F800000):
        return np.int32(0x7FFFFFFF)
    if u == np.int32(-0x80000000):
        return np.int32(0)
    return u ^ ((u >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(**OPTIONS)
def _peak(row: Any) -> Any:
    top = np.int32(-0x80000000)
    for i in range(row.shape[0]):
        top = max(top, _key(row[i]))
    return top


@njit(**OPTIONS)
def _put_key(keys: Any, held: int, key: Any) -> Any:
    """Put a key behind those that are not below it, of which there are `held` and room for n.

    Return its place; the others move, the last one out. A key that is too low gets n.
    """
    n = keys.shape[0]
    at = held
    if held == n:
        if key <= keys[n - 1]:
            return n
        at = n - 1
    while at > 0 and keys[at - 1] < key:
        keys[at] = keys[at - 1]
        at -= 1
    keys[at] = key
    return at


@njit(**OPTIONS)
def _put_token(keys: Any, tokens: Any, held: int, key: Any, token: int) -> Any:
    """Put a token among the best, of equals behind the others; return how many there are."""
    n = keys.shape[0]
    at = _put_key(keys, held, key)
    if at == n:
        return n
    held = min(held + 1, n)
    for i in range(held - 1, at, -1):
        tokens[i] = tokens[i - 1]
    tokens[at] = token
    return held


@njit(**OPTIONS)
def rank(row: Any, first: int, keys: Any, tokens: Any, peaks: Any, tops: Any) -> int:
    """Find the best of a part of a row, which begins at token `first`; return how many there are.

    As many spans as there are best ones have one each that is not below the least of their peaks:
    the others need no second look.
    """
    n, n_tokens = keys.shape[0], row.shape[0]
    n_spans = (n_tokens + SPAN - 1) // SPAN
    held = 0
    for s in range(n_spans):
        peaks[s] = _peak(row[s * SPAN : min(n_tokens, (s + 1) * SPAN)])
        if _put_key(tops, held, peaks[s]) < n and held < n:
            held += 1
    least = tops[n - 1] if held == n else np.int32(-0x80000000)
    held = 0
    for s in range(n_spans):
        if peaks[s] >= least:
            for i in range(s * SPAN, min(n_tokens, (s + 1) * SPAN)):
                key = _key(row[i])
                if key >= least:
                    held = _put_token(keys, tokens, held, key, first + i)
    return held


@njit(**OPTIONS)
def merge(step: Step, m: int, n_threads: int) -> None:
    """Make the best of a row of those of its parts."""
    ranks, row = step.ranks, step.made.logits[m]
    n, held = step.made.ids.shape[1], ranks.held[0, m]
    keys, tokens = ranks.keys[0, m, :n], ranks.tokens[0, m, :n]
    for t in range(1, n_threads):
        for i in range(ranks.held[t, m]):
            held = _put_token(keys, tokens, held, ranks.keys[t, m, i], ranks.tokens[t, m, i])
    for i in range(held):
        step.made.ids[m, i] = tokens[i]
        step.made.scores[m, i] = row[tokens[i]]
