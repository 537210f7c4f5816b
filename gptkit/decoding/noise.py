"""Randomness that is counted, not streamed: noise = hash(seed, domain, position, token id).

So a request's tokens do not depend on its neighbours, on the batch, on preemption or on resume.
Nothing here has state. R rows, K token ids.
"""

from __future__ import annotations

import hashlib
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

PICK = 0
"""The domain of the picker; a stage's own coins are keyed by its label."""

_MASK, _MASK32 = 2**64 - 1, 2**32 - 1
_C1, _C2, _N = 0xCC9E2D51, 0x1B873593, 0xE6546B64
_u32 = np.uint32


def hash32(
    seeds: Iterable[int], domain: int, positions: Iterable[int], ids: ArrayLike
) -> NDArray[np.uint32]:
    """Return noise bits [R, K] for seeds [R], positions [R] and token ids [K] or [R, K].

    It is murmur3_x86_32 (Appleby, public domain) of the little-endian bytes of (seed as int64,
    position as uint32, token as uint32), with the domain as its seed.
    """
    # Plain numbers up to the tokens: for a row or some NumPy's calls would take longer.
    pairs = zip(seeds, positions, strict=True)
    begun = [_mix(_begun(seed, domain), position) for seed, position in pairs]
    h = np.array(begun, _u32)[:, None]
    k = np.asarray(ids).astype(_u32) * _u32(_C1)
    k = (k << _u32(15)) | (k >> _u32(17))
    h = h ^ (k * _u32(_C2))
    h = (h << _u32(13)) | (h >> _u32(19))
    h = h * _u32(5) + _u32(_N)
    h ^= _u32(16)  # the length in bytes
    h ^= h >> _u32(16)
    h *= _u32(0x85EBCA6B)
    h ^= h >> _u32(13)
    h *= _u32(0xC2B2AE35)
    h ^= h >> _u32(16)
    return h


@lru_cache(1024)  # the requests of a step, not those of a long job: they'd fill it
def _begun(seed: int, domain: int) -> int:
    """Return the state behind a seed's two words: it is the same for each token of a request."""
    return _mix(_mix(domain, seed & _MASK32), seed >> 32)


def _mix(h: int, k: int) -> int:
    """Return the state after another word, as `hash32` takes the last one in, of all tokens."""
    k = k * _C1 & _MASK32
    h ^= (k << 15 | k >> 17) * _C2 & _MASK32
    return ((h << 13 | h >> 19) * 5 + _N) & _MASK32


def uniform(
    seeds: Iterable[int], domain: int, positions: Iterable[int], ids: ArrayLike
) -> NDArray[np.float32]:
    """Return the noise as float32 numbers strictly between 0 and 1 [R, K].

    The largest is below 1, or a lone survivor could draw a Gumbel noise of -infinity.
    """
    u = (hash32(seeds, domain, positions, ids).astype(np.float64) + 0.5) * 2.0**-32
    return np.minimum(u, 1 - 2.0**-24).astype(np.float32)


def few_uniforms(seed: int, domain: int, position: int, ids: Iterable[int]) -> list[float]:
    """Return what `uniform` does, for one row: a dozen tokens take less time in plain numbers."""
    begun = _mix(_begun(seed, domain), position)
    bits = [_ended(_mix(begun, token)) for token in ids]
    return array("f", [min((one + 0.5) * 2.0**-32, 1 - 2.0**-24) for one in bits]).tolist()


def _ended(h: int) -> int:
    """Return the noise of the state behind the last word, as `hash32` does at its end."""
    h ^= 16  # the length in bytes
    h = (h ^ h >> 16) * 0x85EBCA6B & _MASK32
    h = (h ^ h >> 13) * 0xC2B2AE35 & _MASK32
    return h ^ h >> 16


def derive(seed: int, *steps: int) -> int:
    """Return a seed from 0 to 2**63 - 1: `seed` after one splitmix64 step for each of `steps`.

    Each step can be given back as `--seed` for the next (Steele, Lea and Flood 2014).
    """
    for step in steps:
        z = (seed + 0x9E3779B97F4A7C15 * (step + 1)) & _MASK
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
        seed = (z ^ z >> 31) & (_MASK >> 1)
    return seed


def row_seed(job_seed: int, row_key: str, sample: int = 0) -> int:
    """Return the seed of one sample of one row of a job, whatever its place in the file."""
    key = int.from_bytes(hashlib.sha256(row_key.encode()).digest()[:8], "little")
    return derive(derive(job_seed, key), sample)
