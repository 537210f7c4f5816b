"""Samplers by definition: one row, float64 NumPy, no tricks. Ties go to the lower id.

What scales returns logits. What truncates returns which tokens stay, and for each of them how far
it is from where its fate would change: rounding may decide nearer than `CLOSE`.
"""

import math

import numpy as np

NO = -np.inf
CLOSE = 1e-6
SURE = np.inf


def softmax(row):
    row = np.asarray(row, float)
    e = np.exp(row - row.max())
    return e / e.sum()


def entropy(probs):
    probs = probs[probs > 0]
    return max(0.0, float(-(probs * np.log(probs)).sum()))


def order(row):
    """Return ids by value, descending, then by id, ascending."""
    return np.lexsort((np.arange(len(row)), -np.asarray(row, float)))


def only(size, ids):
    stays = np.zeros(size, bool)
    stays[ids] = True
    return stays


# Scaling --------------------------------------------------------------------------------------


def temperature(row, t):
    row = np.asarray(row, float)
    return row / max(t, 1e-4) if t > 0 else np.where(only(len(row), order(row)[:1]), row, NO)


def dynamic_temperature_of(row, low, high, exponent):
    n = int((np.asarray(row) > NO).sum())
    share = entropy(softmax(row)) / math.log(n) if n > 1 else 0.0
    return low + (high - low) * min(share, 1.0) ** exponent


def dynamic_temperature(row, low, high, exponent):
    if (np.asarray(row) > NO).sum() < 2:
        return np.asarray(row, float)
    return temperature(row, dynamic_temperature_of(row, low, high, exponent))


def smoothing(row, factor, curve):
    row = np.asarray(row, float)
    there, out = row > NO, np.full(len(row), NO)
    d = row[there] - row.max()
    k, s = (3 - curve) / 2, (curve - 1) / 2
    out[there] = -k * factor * d**2 + s * factor * d**3 + row.max()
    return out


# Truncation by a threshold: token i stays where figures[i] >= least -----------------------------


def at_least(row, figures, least, margin):
    stays = figures >= least
    best = order(row)[0]
    stays[best], margin[best] = True, SURE
    return stays, margin


def log_margin(probs, least):
    """Return by what part of itself the threshold would have to move."""
    with np.errstate(divide="ignore"):
        return np.abs(np.log(probs) - math.log(least)) if least > 0 else np.full(len(probs), SURE)


def min_p(row, m):
    row = np.asarray(row, float)
    least = row.max() + (math.log(m) if m > 0 else NO)
    return at_least(row, row, least, np.abs(row - least))


def top_a(row, a):
    probs = softmax(row)
    least = a * probs.max() ** 2
    return at_least(row, probs, least, log_margin(probs, least))


def epsilon(row, eps):
    probs = softmax(row)
    return at_least(row, probs, eps, log_margin(probs, eps))


def eta(row, eps):
    probs = softmax(row)
    least = min(eps, math.sqrt(eps) * math.exp(-entropy(probs)))
    return at_least(row, probs, least, log_margin(probs, least))


def top_n_sigma(row, n):
    row = np.asarray(row, float)
    sigma = row[row > NO].std()
    below = row.max() - row
    margin = np.abs(below / sigma - n) if sigma > 0 else np.full(len(row), SURE)
    return at_least(row, -below, -n * sigma, margin)


def mirostat(row, mu):
    """Version 2: keep a surprise of at most mu bits."""
    probs = softmax(row)
    least = 2.0**-mu
    return at_least(row, probs, least, log_margin(probs, least))


# Truncation by order: the first tokens stay -----------------------------------------------------


def top_k(row, k):
    return only(len(row), order(row)[:k]), np.full(len(row), SURE)


def until(row, ids, goal):
    """Keep the tokens `ids`, in their order, while the mass strictly before is below the goal."""
    mass = softmax(row)[ids]
    before = np.concatenate([[0], np.cumsum(mass)[:-1]])
    margin = np.empty(len(row))
    margin[ids] = np.abs(before - goal)
    margin[ids[0]] = SURE
    return only(len(row), ids[: max(1, int((before < goal).sum()))]), margin


def top_p(row, p):
    return until(row, order(row), p)


def typical(row, tau):
    row = np.asarray(row, float)
    probs = softmax(row)
    logs = np.log(probs, out=np.full(len(row), NO), where=probs > 0)
    far = np.abs(-logs - entropy(probs))
    stays, margin = until(row, order(-far), tau)
    near = np.abs(far - far[stays].max()) < CLOSE
    if len(set(row[near])) > 1:  # rounding orders those that are equally far on either side
        margin[near] = 0.0
    return stays, margin


def tail_free(row, z):
    size = len(row)
    ids = order(row)
    bend = np.abs(np.diff(softmax(row)[ids], 2))
    if bend.sum() <= 0:
        return np.ones(size, bool), np.full(size, SURE)
    share = np.cumsum(bend / bend.sum())
    stays = only(size, ids[np.concatenate([[True], share <= z, [False]])])
    margin = np.full(size, SURE)
    margin[ids[1:-1]] = np.abs(share - z)
    return stays, margin


def xtc(row, threshold):
    """Return what stays where the coin says so."""
    probs = softmax(row)
    top = probs >= threshold
    margin = np.full(len(row), log_margin(probs, threshold).min() if threshold > 0 else SURE)
    if top.sum() < 2:
        return np.ones(len(row), bool), margin
    least = np.asarray(row)[top].min()
    return ~(top & (np.asarray(row) > least)), margin


def zipf_count(row, mu, m):
    """Return exponent s and count k of mirostat's version 1, over the tokens that are there."""
    row = np.asarray(row, float)
    best = np.sort(row[row > NO])[::-1][:m]
    tb = tt = 0.0
    for i in range(len(best) - 1):
        t = math.log((i + 2) / (i + 1))
        tb += t * (best[i] - best[i + 1])
        tt += t * t
    s = max(tb / tt, 1e-6) if tt else 1e-6
    e, size = s - 1, len(row)
    factor = e / (1 - size**-e) if abs(e) > 1e-9 else 1 / math.log(size)
    log_k = (math.log(factor) + mu * math.log(2)) / s
    return s, math.exp(min(max(log_k, 0.0), math.log(2 * size)))


def mirostat_1(row, mu, m):
    k = zipf_count(row, mu, m)[1] if len(row) > 1 else 1.0
    near = 1 < k < len(row) and abs(k - round(k)) < CLOSE * k
    return top_k(row, int(k))[0], np.full(len(row), 0.0 if near else SURE)
