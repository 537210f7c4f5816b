"""Streams of tokens for stopping criteria: texts cut at random, what parameters name, and loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.decoding.engine import TokenizerVocab
from gptkit.plugin_api import RequestView
from gptkit.testing import texts
from gptkit.testing.model import SMALL, SPECIAL, KitTokenizer

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

N_PIECES = 40
N_PARTS = 200
"""Tokens of several bytes, each a part of the text."""
LONGEST = 7
"""Bytes of a token at most."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Tokens that a criterion is fed, their bytes, and the entropies where they were picked."""

    tokenizer: KitTokenizer
    ids: tuple[int, ...]
    entropies: tuple[float, ...]

    @property
    def data(self) -> list[bytes]:
        """The bytes of each token."""
        return [self.tokenizer.token_bytes(one) for one in self.ids]

    def view(self, given: Mapping[str, Any]) -> RequestView:
        """Return the request that a criterion sees."""
        vocab = TokenizerVocab(self.tokenizer, frozenset({self.tokenizer.vocab_size - 1}))
        return RequestView((97, 98), given, vocab, 0, vocab.eos_ids)

    def renamed(self) -> Stream:
        """Return the same bytes by ids that never come twice."""
        n = len(self.ids)
        tokenizer = KitTokenizer(
            self.tokenizer.vocab_size + n, [*self.tokenizer.pieces[256:], *self.data]
        )
        first = tokenizer.vocab_size - len(tokenizer.special) - n
        return Stream(tokenizer, tuple(range(first, first + n)), self.entropies)


def stream(rng: random.Random, given: Mapping[str, Any]) -> Stream:
    """Return tokens for a criterion with these values; each third stream is a loop."""
    data = (_text(rng, given) or "x").encode("utf-8", "replace")
    tokenizer = KitTokenizer(256 + N_PARTS + len(SPECIAL), _substrings(rng, data, N_PARTS))
    ids = cut(data, tokenizer, rng)
    if rng.random() < 0.3:
        ids = (ids[: rng.randint(1, 5)] * 80)[:200]
    for chosen in (one for one in given.values() if isinstance(one, tuple)):
        for one in chosen:
            if type(one) is int and one < SMALL:
                ids.insert(rng.randrange(len(ids) + 1), one)
    level = rng.choice((0.01, 0.5, 2.0, 5.0))
    entropies = tuple(level * rng.random() for _ in ids)
    return Stream(tokenizer, tuple(ids), entropies)


def _text(rng: random.Random, given: Mapping[str, Any]) -> str:
    """Return a text with the texts that the parameters name, whole and in part."""
    named = [one for value in given.values() for one in _texts_of(value) if one]
    pieces = []
    for _ in range(N_PIECES):
        kind = rng.random()
        if kind < 0.15 and named:
            pieces.append(rng.choice(named))
        elif kind < 0.5 and named:
            one = rng.choice(named)
            pieces.append(one[: rng.randint(0, len(one))])
        else:
            pieces.append(texts.plain(rng, 1) if kind < 0.85 else rng.choice(texts.PIECES))
    return "".join(pieces)


def _texts_of(value: Any) -> Sequence[str]:
    if isinstance(value, str):
        return (value,)
    return (
        [one for one in value if isinstance(one, str)] if isinstance(value, (tuple, dict)) else ()
    )


def _substrings(rng: random.Random, data: bytes, n: int) -> list[bytes]:
    """Return n different parts of a text, from two bytes on: what tokens are."""
    found: dict[bytes, None] = {}
    for _ in range(50 * n):
        start = rng.randrange(len(data))
        part = data[start : start + rng.randint(2, LONGEST)]
        if len(part) > 1:
            found[part] = None
        if len(found) == n:
            break
    return [*found, *(b"\x00%d\x00" % i for i in range(n - len(found)))]


def cut(data: bytes, tokenizer: KitTokenizer, rng: random.Random | None = None) -> list[int]:
    """Return tokens of some bytes, any that fit at each place, or without `rng` single bytes."""
    ids, at = [], 0
    while at < len(data):
        fits = [n for n in range(1, LONGEST + 1) if data[at : at + n] in tokenizer.ids]
        n = rng.choice([n for n in fits if at + n <= len(data)]) if rng else 1
        ids.append(tokenizer.ids[data[at : at + n]])
        at += n
    return ids
