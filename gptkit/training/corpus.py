"""The corpus as tokens: what to train on, what to keep for validation, where documents begin."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gptkit.errors import ConfigError
from gptkit.text.prompting import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from gptkit.plugin_api import Segment, Tokenizer


@dataclass(frozen=True, slots=True)
class Corpus:
    """Two streams of token ids; `starts` are where blocks of the first may begin, None anywhere."""

    train: NDArray[np.uint32]
    validation: NDArray[np.uint32]
    validation_bytes: int
    n_documents: int
    starts: NDArray[np.int64] | None = None

    @property
    def sha256(self) -> str:
        """Return a hash of all tokens."""
        return hashlib.sha256(self.train.tobytes() + b"|" + self.validation.tobytes()).hexdigest()


def of_text(text: str, tokenizer: Tokenizer, validation: float, separator: int | None) -> Corpus:
    """Return one text as a corpus; the last part of it, by characters, is for validation."""
    cut = int(len(text) * (1 - validation))
    end = [] if separator is None else [separator]
    train, held = (tokenizer.encode_ordinary(part) + end for part in (text[:cut], text[cut:]))
    return Corpus(_array(train), _array(held), _n_bytes(tokenizer, held), 1)


def of_documents(
    documents: Iterable[tuple[Sequence[Segment], int]],
    tokenizer: Tokenizer,
    validation: float,
    separator: int,
    *,
    block_size: int,
    seed: int,
) -> Corpus:
    """Return documents, each with how often it is there, as a corpus, in an order of chance.

    Equal documents fall on the same side, lest validation ask for what was learnt by heart. Blocks
    begin where a document does, as a prompt will; and on in it, where it is longer than a block.
    """
    counts: Counter[bytes] = Counter()
    for segments, times in documents:
        counts[_array([*encode(segments, tokenizer), separator]).tobytes()] += times
    unique = sorted(counts)
    random.Random(f"{seed} split").shuffle(unique)
    n_held = round(len(unique) * validation)
    held, kept = unique[:n_held], unique[n_held:]
    if not held or not kept:
        raise ConfigError(
            f"{len(unique):,} different documents are too few to keep {validation:g} of them "
            "for validation",
            hint="add documents or change data.validation",
        )
    train = [document for document in kept for _ in range(counts[document])]
    random.Random(f"{seed} order").shuffle(train)
    tokens = _joined(held)
    return Corpus(
        _joined(train),
        tokens,
        _n_bytes(tokenizer, tokens.tolist()),
        sum(counts.values()),
        _starts(train, block_size),
    )


def _joined(documents: Sequence[bytes]) -> NDArray[np.uint32]:
    return np.frombuffer(b"".join(documents), dtype=np.uint32)


def _starts(documents: Sequence[bytes], block_size: int) -> NDArray[np.int64]:
    starts: list[int] = []
    end = 0
    for document in documents:
        begin, end = end, end + len(document) // 4
        starts += range(begin, end, block_size)
    return np.array(starts, dtype=np.int64)


def _array(ids: Sequence[int]) -> NDArray[np.uint32]:
    return np.array(ids, dtype=np.uint32)


def _n_bytes(tokenizer: Tokenizer, ids: Iterable[int]) -> int:
    return sum(n * len(tokenizer.token_bytes(i)) for i, n in Counter(ids).items())
