"""Rows and what they are known by."""

from __future__ import annotations

import hashlib

import pytest

from gptkit.jobs.rows import digest_of, is_unicode, json_kind, key_hash


def test_a_digest_is_the_start_of_sha256():
    assert digest_of(b"x") == hashlib.sha256(b"x").hexdigest()[:16]


def test_a_hash_of_a_key_is_the_same_on_every_machine():
    assert key_hash("a") == int(hashlib.blake2b(b"a", digest_size=8).hexdigest(), 16)
    assert len({key_hash(str(i)) for i in range(10_000)}) == 10_000
    assert max(key_hash(str(i)) for i in range(100)) < 2**64


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "true or false"),
        ("x", "text"),
        (b"x", "bytes"),
        ([], "a list"),
        ({}, "an object"),
        (1, "a number"),
        (0.5, "a number"),
    ],
)
def test_a_value_has_a_kind(value, kind):
    assert json_kind(value) == kind


def test_half_a_pair_is_no_unicode():
    assert is_unicode("\U0001f600") and not is_unicode("\ud83d")
