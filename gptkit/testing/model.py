"""What the kit decodes with: a tokenizer of bytes and words, and a model that is a table.

Shapes: N new tokens, V vocabulary, C width.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Self

import torch

from gptkit.decoding.engine import TokenizerVocab
from gptkit.decoding.noise import derive
from gptkit.model.config import GPTConfig
from gptkit.plugin_api import RequestError, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from gptkit.model.forward import Span

SPECIAL = ("<|user|>", "<|end|>")
"""The control tokens; the last ends a text."""
WORDS = (
    *(" the", "the", "ing", " and", "\n\n", ". ", ": ", "12", '{"', '": ', "true", "ab", "bc"),
    *("\u00e9", "\u65e5\u672c", "\u672c", "\U0001f44d"),
)
SMALL = 256 + len(WORDS) + len(SPECIAL)
"""Ids of the small vocabulary."""
REAL = 50_257
"""Ids of GPT-2's: what a step costs, and how floats add up, is looked at here."""
BLOCK = 256
"""Positions of the model's context."""


class KitTokenizer(Tokenizer):
    """Bytes, some words of several bytes, and two control tokens; the longest piece first."""

    name = "kit"

    def __init__(self, size: int = SMALL, pieces: Sequence[bytes] = ()) -> None:
        special = SPECIAL if size >= SMALL else ()
        n_pieces = size - len(special)
        words = pieces or [word.encode() for word in WORDS]
        known = [*(bytes([i]) for i in range(256)), *words]
        known += [b" w%d" % i for i in range(n_pieces - len(known))]
        self.pieces = known[:n_pieces]
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        self.longest = max(map(len, self.pieces))
        self.special = {name: n_pieces + i for i, name in enumerate(special)}

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.pieces) + len(self.special)

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text; what it can't say is refused."""
        data, ids, at = text.encode("utf-8", "replace"), [], 0
        while at < len(data):
            ends = range(at + self.longest, at, -1)
            end = next((end for end in ends if data[at:end] in self.ids), at)
            if end == at:
                raise RequestError(f"tokenizer {self.name} can't say byte {at} of {text!r}")
            ids.append(self.ids[data[at:end]])
            at = end
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; a control token has none."""
        if not 0 <= token_id < self.vocab_size:
            raise RequestError(f"tokenizer {self.name}: there is no id {token_id}")
        return self.pieces[token_id] if token_id < len(self.pieces) else b""

    def save(self, folder: Path) -> None:
        """Write its size."""
        (folder / "kit.json").write_text(json.dumps(self.vocab_size))

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read its size."""
        return cls(json.loads((path / "kit.json").read_text())) if path else cls()


@functools.cache
def tokenizer(size: int = SMALL) -> KitTokenizer:
    """Return the tokenizer of a size, always the same: what is built over it may be kept."""
    return KitTokenizer(size)


@functools.cache
def vocab(size: int = SMALL) -> TokenizerVocab:
    """Return the vocabulary that stages see; the last control token ends a text."""
    made = tokenizer(size)
    return TokenizerVocab(made, frozenset({made.vocab_size - 1}) if size > 1 else frozenset())


class TableCache:
    """The tokens of each slot, as a model's cache has their keys and values."""

    def __init__(self, n_slots: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(n_slots)]

    @property
    def nbytes(self) -> int:
        """Bytes that it may take: none to speak of."""
        return 0

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Give one slot the positions start .. end - 1 of another."""
        kept = self.tokens[target][:start]
        kept += [0] * (start - len(kept))
        self.tokens[target] = kept + self.tokens[source][start:end]

    def clear(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.tokens[slot] = []


class TableModel:
    """Logits are a row of a table that the last three tokens choose; no arithmetic, hence no error.

    Its bits are the same in any batch and after any preemption, so a token that differs is the
    fault of what was done to the logits.
    """

    shares_prefixes = True
    ranks = False
    N_ROWS = 512

    def __init__(self, vocab_size: int = SMALL, seed: int = 0) -> None:
        self.config = GPTConfig(
            vocab_size=vocab_size, block_size=BLOCK, n_layer=0, n_embd=8, positions="none"
        )
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(self.N_ROWS, vocab_size, generator=generator) * 2.5
        self.states = torch.randn(self.N_ROWS, 8, generator=generator)

    def new_cache(self, n_slots: int) -> TableCache:
        """Return an empty cache of `n_slots` sequences."""
        return TableCache(n_slots)

    def step(
        self, ids: Sequence[int], spans: Sequence[Span], cache: TableCache, wanted: Sequence[int]
    ) -> Tensor:
        """Append the spans' tokens; return logits [len(wanted), V]."""
        rows = self._rows(ids, spans, cache)
        return self.table[[rows[i] for i in wanted]]

    def hidden(self, ids: Sequence[int], spans: Sequence[Span], cache: TableCache) -> Tensor:
        """Append the spans' tokens; return states [N, C], of which the first says which row."""
        rows = self._rows(ids, spans, cache)
        hidden = self.states[rows]
        hidden[:, 0] = torch.tensor(rows, dtype=torch.float32) / self.N_ROWS
        return hidden

    def head(self, hidden: Tensor, wanted: Sequence[int]) -> Tensor:
        """Return logits [len(wanted), V] of states [N, C]."""
        rows = (hidden[list(wanted), 0] * self.N_ROWS).round().long()
        return self.table[rows]

    def _rows(self, ids: Sequence[int], spans: Sequence[Span], cache: TableCache) -> list[int]:
        rows, at = [], 0
        for span in spans:
            for i in range(span.n):
                history = [ids[at + i]]
                if span.slot is not None:
                    own, start = cache.tokens[span.slot], span.start + i
                    own += [0] * (start - len(own))
                    del own[start:]
                    own.append(ids[at + i])
                    trunk = cache.tokens[span.trunk] if span.trunk is not None else []
                    history = [*trunk[: span.shared], *own[span.shared :]]
                rows.append(derive(0, *history[-3:]) % self.N_ROWS)
            at += span.n
        return rows
