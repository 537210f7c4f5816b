"""A closed vocabulary: what was not in the training text can't be said."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from gptkit.plugin_api import ConfigError, RequestError, Tokenizer

from .checks import check_id, control_ids, utf8
from .files import read_json, refused, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


class ClosedTokenizer(Tokenizer):
    """Base of tokenizers that cut text into pieces and know only the pieces of their training."""

    file: ClassVar[str]
    piece: ClassVar[str]
    """What one piece is called in messages."""

    def __init__(self, tokens: Sequence[str], special: Sequence[str] = ()) -> None:
        self._tokens = tuple(tokens)
        self._bytes = [utf8(self.name, token) for token in tokens]
        self._ids = {token: index for index, token in enumerate(tokens)}
        self.special = control_ids(self.name, special, len(tokens))

    @staticmethod
    @abstractmethod
    def split(text: str) -> Sequence[str]:
        """Cut a text into pieces that make up the whole of it."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; control tokens come last."""
        return len(self._tokens) + len(self.special)

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of the pieces, or raise RequestError naming the first unknown one."""
        pieces = self.split(text)
        try:
            return [self._ids[piece] for piece in pieces]
        except KeyError as error:
            unknown = error.args[0]
        utf8(self.name, text)
        offset = sum(len(piece) for piece in pieces[: pieces.index(unknown)])
        shown = repr(unknown[:40]) + ("..." if len(unknown) > 40 else "")
        raise RequestError(
            f"tokenizer {self.name}: {self.piece} {shown} at offset {offset} is not in the "
            "vocabulary",
            hint=f"its {len(self._tokens):,} tokens are those of its training text",
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 of a piece; a control token has none."""
        check_id(self.name, token_id, self.vocab_size)
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def save(self, folder: Path) -> None:
        """Write the pieces in the order of their ids, and the control tokens."""
        write_json(
            folder / self.file, {"tokens": list(self._tokens), "special": list(self.special)}
        )

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read the file that `save` wrote, given by itself or by its folder."""
        if path is None:
            raise ConfigError(
                f"tokenizer {cls.name} has no vocabulary of its own", hint=f"-t {cls.name}:PATH"
            )
        path = path / cls.file if path.is_dir() else path
        data = read_json(path)
        tokens, special = data.get("tokens"), data.get("special", [])
        for key, words in (("tokens", tokens), ("special", special)):
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise refused(f"{path}: '{key}' is not a list of texts")
            if len(set(words)) != len(words):
                again = next(word for i, word in enumerate(words) if word in words[:i])
                raise refused(f"{path}: {again!r} is in '{key}' twice")
        for token in tokens or ():
            if list(cls.split(token)) != [token]:
                raise refused(f"{path}: {token!r} is not one {cls.piece}")
        try:
            return cls(tokens or (), special)
        except (ConfigError, RequestError) as error:
            raise refused(f"{path}: {error}") from error

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int | None = None, special: Sequence[str] = ()
    ) -> Self:
        """Learn the distinct pieces, sorted; more than `vocab_size` are refused, not dropped."""
        found: set[str] = set()
        for text in texts:
            found.update(cls.split(text))
        made = cls(sorted(found), special)
        if vocab_size is not None and made.vocab_size > vocab_size:
            raise ConfigError(
                f"tokenizer {cls.name}: the text needs {made.vocab_size:,} tokens, control tokens "
                f"included; vocab_size is {vocab_size:,}",
                hint="leave vocab_size out, or use bpe, which can say every text",
            )
        return made
