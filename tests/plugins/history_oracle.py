"""Stages that look at the text so far, and drafts, by definition: one row, float64, brute force."""

import numpy as np

NO = -np.inf


def penalties(
    row, prompt, output, repeat=1, frequency=0, presence=0, scope="all", window=0, normalize=False
):
    row = np.array(row, float)
    if normalize:
        row -= row.max()
        row -= np.log(np.exp(row).sum())
    output = list(output)
    said = output if scope == "output" else [*prompt, *output]
    counted = output[-window:] if window else output
    for token in set(said[-window:] if window else said):
        row[token] = row[token] / repeat if row[token] > 0 else row[token] * repeat
    for token in set(counted):
        row[token] -= frequency * counted.count(token) + presence
    return row


def dry_lengths(history, allowed, breakers=(), last_n=0):
    """Return for each token the longest end of the history, without a breaker, that it followed."""
    h = list(history)[-last_n:] if last_n else list(history)
    lengths = {}
    for token in set(h) - set(breakers):
        for n in range(1, len(h)):
            end = h[-n:]
            if not set(end) & set(breakers) and any(
                h[at - n : at] == end and h[at] == token for at in range(n, len(h))
            ):
                lengths[token] = n
    return {token: n for token, n in lengths.items() if n >= allowed}


def dry(row, history, multiplier, base, allowed, breakers=(), last_n=0):
    row = np.array(row, float)
    for token, n in dry_lengths(history, allowed, breakers, last_n).items():
        row[token] -= multiplier * base ** (n - allowed)
    return row


def no_repeat_ngram(row, history, size):
    row, h = np.array(row, float), list(history)
    for token in range(len(row)):
        run = [*h[len(h) - size + 1 :], token]
        if len(run) == size and any(h[i : i + size] == run for i in range(len(h) - size + 1)):
            row[token] = NO
    return row


def bad_words(row, output, runs):
    row, output = np.array(row, float), list(output)
    for *start, last in runs:
        if output[len(output) - len(start) :] == start:
            row[last] = NO
    return row


def prompt_lookup(tokens, k, longest, shortest):
    for n in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        for at in range(len(tokens) - 1, n - 1, -1):
            if tokens[at - n : at] == tokens[-n:]:
                return tokens[at : at + k]
    return []
