"""Byte-level byte-pair encoding over tiktoken, which does the merging."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from gptkit.plugin_api import CheckpointError, ConfigError, RequestError, Tokenizer

from . import bpe_files, bpe_training
from .bpe_files import Vocabulary
from .checks import check_id, control_ids, utf8
from .files import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import tiktoken

EVERYTHING = r"(?s:.+)"
"""The pattern that cuts nothing, for text that has been cut already."""

MOST = 1_000_000
"""The largest vocabulary that can be trained: training writes an id as a character."""


class BPE(Tokenizer):
    """Byte-level BPE, which can say every text; GPT-2's own vocabulary where no path is given."""

    name = "bpe"

    def __init__(self, vocabulary: Vocabulary, encoding: tiktoken.Encoding | None = None) -> None:
        self.special = vocabulary.special
        self._vocabulary = vocabulary
        self._control = frozenset(self.special.values())
        self._pieces = None if vocabulary.is_known_pattern else _cutter(vocabulary.pattern)
        self._encoding = encoding or _encoding(vocabulary)

    @property
    def vocab_size(self) -> int:
        """One more than the highest id; ids between that stand for nothing have no bytes."""
        return int(self._encoding.n_vocab)

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text, all of which it can say; never a control token's."""
        utf8(self.name, text)
        pieces = [text] if self._pieces is None else self._pieces(text)
        try:
            return [i for piece in pieces for i in self._encoding.encode_ordinary(piece)]
        except BaseException as error:
            # A panic in Rust derives from BaseException and has no class that one could import.
            if type(error).__name__ != "PanicException":
                raise
            raise RequestError(
                f"tokenizer {self.name} can't encode this text: {error}",
                hint="please report it, with the text and the tokenizer's files",
            ) from error

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; a control token and an unused id have none."""
        check_id(self.name, token_id, self.vocab_size)
        if token_id in self._control:
            return b""
        try:
            return bytes(self._encoding.decode_single_token_bytes(token_id))
        except KeyError:
            return b""

    def save(self, folder: Path) -> None:
        """Write a rank file that tiktoken reads too, and pattern and control tokens beside it."""
        bpe_files.write(folder, self._vocabulary)

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read any of the file formats of byte-level BPE, from a file or a folder."""
        if path is None:
            return cls(*_gpt2())
        return cls(bpe_files.read(path))

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int | None = None, special: Sequence[str] = ()
    ) -> Self:
        """Learn merges until there are `vocab_size` ids or no pair occurs twice."""
        least = 256 + len(special)
        if vocab_size is None or not least <= vocab_size <= MOST:
            raise ConfigError(
                f"tokenizer {cls.name}: vocab_size is {vocab_size}; it is from {least} "
                f"(256 bytes, {len(special)} control tokens) to {MOST:,}",
                hint="vocab_size: 4096 suits a few megabytes of text",
            )
        control_ids(cls.name, special, 0)  # before the work, not after it
        checked = (utf8(cls.name, text).decode() for text in texts)
        ranks = bpe_training.learn(checked, vocab_size - len(special))
        return cls(Vocabulary(ranks, bpe_files.GPT2, control_ids(cls.name, special, len(ranks))))


def _encoding(vocabulary: Vocabulary) -> tiktoken.Encoding:
    import tiktoken

    return tiktoken.Encoding(
        "gptkit",
        pat_str=vocabulary.pattern if vocabulary.is_known_pattern else EVERYTHING,
        mergeable_ranks=vocabulary.ranks,
        special_tokens=vocabulary.special,
    )


def _cutter(pattern: str) -> Callable[[str], Iterator[str]]:
    """Return a function that cuts text by a pattern from somebody's file, within a time limit."""
    import regex

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise refused(f"the tokenizer's pattern is no regular expression: {error}") from error

    def cut(text: str) -> Iterator[str]:
        end = 0
        try:
            for match in compiled.finditer(text, timeout=1 + len(text) / 200_000):
                yield text[end : match.start()]  # what the pattern skips is a piece of its own
                yield match[0]
                end = match.end()
        except TimeoutError:
            raise RequestError(
                "tokenizer bpe: the tokenizer's pattern exceeded its time limit on this text",
                hint="the pattern comes with the tokenizer's files; shorter text may do",
            ) from None
        yield text[end:]

    return cut


def _gpt2() -> tuple[Vocabulary, tiktoken.Encoding]:
    """Return GPT-2's vocabulary through tiktoken, which downloads it once and checks its hash."""
    import tiktoken

    given = {"TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"} & os.environ.keys()
    if not given:
        os.environ["TIKTOKEN_CACHE_DIR"] = os.path.join(_home(), "downloads")
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except (OSError, ValueError, AssertionError) as error:  # requests' errors are OSErrors
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise CheckpointError(
            f"can't download GPT-2's vocabulary ({reason})",
            hint="-t bpe:PATH takes a folder with encoder.json and vocab.bpe, or a .tiktoken file",
        ) from error
    finally:
        if not given:
            del os.environ["TIKTOKEN_CACHE_DIR"]
    special = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
    control = set(special.values())
    ranks = {
        encoding.decode_single_token_bytes(token_id): token_id
        for token_id in range(encoding.n_vocab)
        if token_id not in control
    }
    return Vocabulary(ranks, bpe_files.GPT2, special), encoding


def _home() -> str:
    import typer

    return os.environ.get("GPTKIT_HOME") or typer.get_app_dir("gptkit")
