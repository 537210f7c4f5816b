"""The best tokens of rows: those of a stable sort, whatever the number of rows and of tokens."""

import numpy as np
import pytest
import torch

from gptkit.ranking import best

NO = float("-inf")


@pytest.mark.parametrize("size", [1, 2, 5, 64, 500, 5003])
@pytest.mark.parametrize("n", [1, 2, 5, 64, 300, 1200, 5000, 9000])
def test_the_best_are_those_of_a_sort(n, size):
    made = torch.Generator().manual_seed(n)
    for n_rows in (0, 1, 12):
        rows = torch.randn(n_rows, size, generator=made) * 3
        rows[1::3] = (rows[1::3] * 2).round() / 2  # many are equal
        rows[2::6, 5:] = NO
        rows[5::6] = NO
        found = best(rows, n)
        every = rows.sort(dim=-1, descending=True, stable=True)
        assert found.scores.shape == found.ids.shape == (n_rows, min(n, size))
        assert np.array_equal(found.scores, every.values[:, :n].numpy())
        assert np.array_equal(found.ids, every.indices[:, :n].numpy())
