"""Samplers by definition: one row, float64 NumPy, no tricks. Ties go to the lower id."""

import numpy as np

NO = -np.inf


def softmax(row):
    row = np.asarray(row, float)
    e = np.exp(row - row.max())
    return e / e.sum()


def order(row):
    """Return ids by value, descending, then by id, ascending."""
    return np.lexsort((np.arange(len(row)), -np.asarray(row, float)))


def keep(row, ids):
    out = np.full(len(row), NO)
    out[ids] = np.asarray(row, float)[ids]
    return out


def temperature(row, t):
    return np.asarray(row, float) / t if t > 0 else keep(row, order(row)[:1])


def top_k(row, k):
    return np.asarray(row, float) if k <= 0 else keep(row, order(row)[:k])


def top_p(row, p):
    if p >= 1:
        return np.asarray(row, float)
    ids = order(row)
    probs = softmax(row)[ids]
    before = np.concatenate([[0], np.cumsum(probs)[:-1]])
    return keep(row, ids[: max(1, int((before < p).sum()))])
