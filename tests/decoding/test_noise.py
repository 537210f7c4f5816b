"""The noise is murmur3 of (seed, position, token) under a domain; seeds derive by splitmix64."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptkit.decoding import noise

VECTORS = [
    (0, 0, 0, 0, 0x8134CDF8),
    (1, 0, 0, 0, 0x92228D1B),
    (0, 1, 0, 0, 0x90052B18),
    (0, 0, 1, 0, 0x0D568719),
    (0, 0, 0, 1, 0x00990201),
    (7, 0, 5, 50256, 0x98B0D6EE),
    (-1, 0, 123456, 31999, 0x753B3131),
    (2**40 + 3, 0x787463, 17, 0, 0x08D7A31A),
]


@pytest.mark.parametrize("seed, domain, position, token, bits", VECTORS)
def test_known_vectors(seed, domain, position, token, bits):
    assert noise.hash32([seed], domain, [position], [token])[0, 0] == bits


def murmur3_x86_32(data: bytes, seed: int) -> int:
    """Appleby's algorithm, byte by byte, for keys of whole words."""
    h = seed
    for (k,) in struct.iter_unpack("<I", data):
        k = k * 0xCC9E2D51 & 0xFFFFFFFF
        k = (k << 15 | k >> 17) & 0xFFFFFFFF
        h ^= k * 0x1B873593 & 0xFFFFFFFF
        h = (h << 13 | h >> 19) & 0xFFFFFFFF
        h = (h * 5 + 0xE6546B64) & 0xFFFFFFFF
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**31),
    st.integers(0, 2**20),
)
def test_equals_the_reference_algorithm(seed, domain, position, token):
    want = murmur3_x86_32(struct.pack("<qII", seed, position, token), domain)
    assert noise.hash32([seed], domain, [position], [token])[0, 0] == want


def test_rows_and_ids_broadcast():
    ids = np.array([[5, 6], [7, 8]])
    both = noise.hash32([1, 2], 3, [4, 5], ids)
    assert both.shape == (2, 2)
    assert both[1, 0] == noise.hash32([2], 3, [5], [7])[0, 0]


def test_a_few_in_plain_numbers_are_the_same():
    ids = [0, 1, 7, 50256, 2**31, 2**32 - 1, *range(1000, 3000)]
    for seed, domain, position in ((0, 0, 0), (2**63 - 1, 5, 9), (-1, 2**32 - 1, 2**32 - 1)):
        want = noise.uniform([seed], domain, [position], np.array(ids))
        assert noise.few_uniforms(seed, domain, position, ids) == want[0].tolist()


def test_uniform_lies_strictly_between_0_and_1():
    u = noise.uniform(range(50), 0, range(50), np.arange(2000))
    assert u.dtype == np.float32
    assert 0 < u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005


def test_derive_is_the_published_chain_with_the_top_bit_cleared():
    assert noise.derive(1234, 0) == -4968325692281840421 & 2**63 - 1
    assert noise.derive(0, 0) == -2152535657050944081 & 2**63 - 1


def test_a_step_can_be_given_back_as_a_seed():
    assert noise.derive(7, 3, 0) == noise.derive(noise.derive(7, 3), 0)
    assert all(0 <= noise.derive(s, 2**64 - 1) < 2**63 for s in range(100))


def test_row_seed_depends_on_the_key_not_on_the_place():
    key = int.from_bytes(hashlib.sha256(b"row-7").digest()[:8], "little")
    assert noise.row_seed(11, "row-7") == noise.derive(11, key, 0)
    assert len({noise.row_seed(11, f"row-{i}") for i in range(1000)}) == 1000
