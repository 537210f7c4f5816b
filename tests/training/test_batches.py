"""Blocks: what a step sees follows from seed and step alone, and targets are the next tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptkit.training.batches import Blocks

STREAM = np.arange(100, dtype=np.uint32)


def test_targets_are_the_next_tokens():
    for ids, targets in Blocks(STREAM, 8).at_random(0, 1, 3, 5):
        assert ids.shape == targets.shape == (5, 8)
        assert torch.equal(ids + 1, targets)  # the stream counts upwards


def test_a_batch_is_a_function_of_seed_and_step():
    blocks = Blocks(STREAM, 8)

    def batch(seed, step):
        return torch.stack([ids for ids, _ in blocks.at_random(seed, step, 2, 4)])

    first = batch(7, 3)
    batch(7, 4)
    assert torch.equal(first, batch(7, 3))
    assert not torch.equal(first, batch(7, 4))
    assert not torch.equal(first, batch(8, 3))


def test_every_block_of_the_stream_is_drawn():
    seen = {
        int(row[0])
        for step in range(60)
        for ids, _ in Blocks(STREAM, 90).at_random(0, step, 1, 4)
        for row in ids
    }
    assert seen == set(range(10))


def test_blocks_begin_at_starts_where_these_are_given():
    blocks = Blocks(STREAM, 8, np.array([0, 40, 95]))  # after 95 there is no room
    seen = {
        int(row[0])
        for step in range(20)
        for ids, _ in blocks.at_random(0, step, 1, 4)
        for row in ids
    }
    assert seen == {0, 40}


@pytest.mark.parametrize(
    ("n_batches", "n_blocks", "firsts"),
    [(2, 2, [0, 24, 48, 72]), (100, 4, list(range(0, 96, 8))), (1, 1, [0])],
)
def test_an_evaluation_is_spread_evenly_and_never_covers_twice(n_batches, n_blocks, firsts):
    found = [int(row[0]) for ids, _ in Blocks(STREAM, 8).spread(n_batches, n_blocks) for row in ids]
    assert found == firsts
