"""Learn byte pairs: count distinct words once, then update only the pairs that a merge touches.

(Sennrich et al. 2016, arXiv:1508.07909; over bytes as in GPT-2, Radford et al. 2019.)
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from operator import add
from typing import TYPE_CHECKING

from .bpe_files import BYTE_ORDER

if TYPE_CHECKING:
    from collections.abc import Iterable

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's own spelling: in tiktoken's, `$` means something else to Python's `regex`."""


def learn(texts: Iterable[str], n_tokens: int) -> dict[bytes, int]:
    """Return at most `n_tokens` tokens with their ranks: 256 bytes, then the merges in order.

    The most frequent pair is merged first; of equally frequent ones that of the lower ids. A pair
    that occurs once is not learnt.
    """
    # A word is a string with one character for each token: the character whose code is its id.
    # Then cutting and joining, in C, replace a pair as byte-pair encoding does: from the left.
    words, counts = _distinct_words(texts)
    weight: Counter[str] = Counter()  # pair -> how often it occurs
    where: defaultdict[str, list[int]] = defaultdict(list)  # pair -> words that have, or had it
    for index, word in enumerate(words):
        for pair in map(add, word, word[1:]):
            weight[pair] += counts[index]
            where[pair].append(index)
    tokens = [bytes([byte]) for byte in BYTE_ORDER]
    heap = [(-n, pair) for pair, n in weight.items()]
    heapq.heapify(heap)
    while heap and len(tokens) < n_tokens:
        n, pair = heapq.heappop(heap)
        if -n != weight[pair]:  # it has lost some since it was pushed; none ever gains later
            heapq.heappush(heap, (-weight[pair], pair))
            continue
        if -n < 2:
            break
        new = chr(len(tokens))
        tokens.append(tokens[ord(pair[0])] + tokens[ord(pair[1])])
        change: Counter[str] = Counter()
        for index in dict.fromkeys(where.pop(pair)):  # a word may have it often
            parts = words[index].split(pair)
            if len(parts) > 1:
                words[index] = new.join(parts)
                for made in _neighbours(parts, pair, new, counts[index], change):
                    where[made].append(index)
        weight.update(change)
        del weight[pair]
        for touched, n_more in change.items():
            if new in touched and n_more > 0:
                heapq.heappush(heap, (-weight[touched], touched))
    return {token: rank for rank, token in enumerate(tokens)}


def _distinct_words(texts: Iterable[str]) -> tuple[list[str], list[int]]:
    import regex

    found: Counter[str] = Counter()
    pattern = regex.compile(PATTERN)
    for text in texts:
        found.update(pattern.findall(text))
    ids = bytes(BYTE_ORDER.index(byte) for byte in range(256))
    return [w.encode().translate(ids).decode("latin-1") for w in found], list(found.values())


def _neighbours(
    parts: list[str], pair: str, new: str, count: int, change: Counter[str]
) -> list[str]:
    """Count the pairs that went and came as `new` replaced `pair` between `parts`; return these."""
    made = []
    first, last = pair[0], pair[1]
    for index in range(len(parts) - 1):
        left, right = parts[index], parts[index + 1]
        if left:
            change[left[-1] + first] -= count
            made.append(left[-1] + new)
        elif index:  # two occurrences side by side
            change[last + first] -= count
            made.append(new + new)
        if right:
            change[last + right[0]] -= count
            made.append(new + right[0])
    for pair_made in made:
        change[pair_made] += count
    return made
