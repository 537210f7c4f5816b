"""A grammar over a vocabulary, walked token by token; llguidance does the matching.

llguidance (https://github.com/guidance-ai/llguidance) knows a vocabulary as a list of byte strings
and says which of them may come next. It is imported when the first grammar is compiled.

V tokens; a set of tokens is V bits, packed eight to a byte, the lowest id in the lowest bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import ConfigError, PluginError

if TYPE_CHECKING:
    from gptkit.plugin_api import Vocab

_ANY_TOKENS = '\n%llguidance {"no_forcing": true}\n'
"""Let a text be cut into tokens in any way. Otherwise llguidance allows, where the grammar leaves
one text only, nothing but that text's own tokens, and has to ask the tokenizer for them."""


def llguidance() -> Any:
    """Return the module llguidance; raise ConfigError where it is not installed."""
    try:
        import llguidance
    except ModuleNotFoundError as error:
        if error.name != "llguidance":
            raise
        raise ConfigError(
            "constraint needs llguidance, which is not installed",
            hint="pip install 'gptkit[constraints]'",
        ) from error
    return llguidance


class GrammarError(ValueError):
    """llguidance refuses a grammar; the message is its own, in one line."""


@dataclass(frozen=True, eq=False)
class Table:
    """The bytes of each token, none for one that is no text, and llguidance's tree of them."""

    tokens: tuple[bytes, ...]
    tokenizer: Any = field(repr=False)


def table_of(vocab: Vocab) -> Table:
    """Return the table of a vocabulary; made once."""
    key: Any = vocab  # to mypy a protocol is not hashable
    return _table_of(key)


@lru_cache(maxsize=4)
def _table_of(vocab: Vocab) -> Table:
    ids = range(vocab.size)
    return _table(tuple(b"" if i in vocab.special_ids else vocab.token_bytes(i) for i in ids))


@lru_cache(maxsize=4)
def _table(tokens: tuple[bytes, ...]) -> Table:
    library = llguidance()
    wrapped = library.TokenizerWrapper(_Tokens(tokens))
    return Table(tokens, library.LLTokenizer(wrapped))


class _Tokens:
    """A vocabulary as llguidance wants it; it adds a token of its own, V, that ends a text."""

    eos_token_id = None
    bos_token_id = None

    def __init__(self, tokens: tuple[bytes, ...]) -> None:
        self.tokens = tokens

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError("a grammar that forces nothing never asks for tokens")


@dataclass(frozen=True, eq=False)
class Grammar:
    """A grammar in llguidance's Lark, compiled for a vocabulary and the tokens that end a text."""

    table: Table
    lark: str
    ends: frozenset[int]
    matcher: Any = field(repr=False)
    """At the beginning; never moved, always copied."""

    @property
    def start(self) -> Walk:
        """The walk before the first token."""
        return Walk.at(self, (), self.matcher)

    def __reduce__(self) -> Any:
        return _again, (self.table.tokens, self.lark, self.ends)


@lru_cache(maxsize=64)
def compiled(table: Table, lark: str, ends: frozenset[int]) -> Grammar:
    """Return a grammar; raise GrammarError where llguidance refuses it. Compiled once."""
    matcher = llguidance().LLMatcher(table.tokenizer, lark + _ANY_TOKENS, log_level=0)
    if matcher.is_error():
        raise GrammarError(_first_line(matcher))
    return Grammar(table, lark, ends, matcher)


def _again(tokens: tuple[bytes, ...], lark: str, ends: frozenset[int]) -> Grammar:
    return compiled(_table(tokens), lark, ends)


@dataclass(frozen=True, slots=True)
class Walk:
    """A place in a grammar: the tokens that led there and those that may follow.

    It never changes: the next one has a matcher of its own. Pickled, it is the grammar and the
    tokens, which are walked again.
    """

    grammar: Grammar
    tokens: tuple[int, ...]
    allowed: bytes = field(compare=False, repr=False)
    """The tokens that may follow; those that end the text are there where it may end."""
    is_done: bool = field(compare=False)
    """Whether the text is complete and nothing can follow."""
    matcher: Any = field(compare=False, repr=False)

    @classmethod
    def at(cls, grammar: Grammar, tokens: tuple[int, ...], matcher: Any) -> Walk:
        """Return the walk that is where the matcher is."""
        size = len(grammar.table.tokens)
        ends = sum(1 << i for i in grammar.ends)
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error():
            said = _first_line(matcher)
            if said != "NoExtensionBias":  # the vocabulary has no token for what must follow
                raise PluginError(f"llguidance failed: {said}")
            bits = 0
        may_end = bool(bits >> size & 1)
        inner = bits & ~(1 << size) & ~ends
        allowed = inner | ends if may_end else inner
        return cls(
            grammar,
            tokens,
            allowed.to_bytes(-(-size // 8), "little"),
            may_end and inner == 0,
            matcher,
        )

    def after(self, token: int) -> Walk | None:
        """Return the walk after a token; None where the grammar refuses the token."""
        if token in self.grammar.ends:
            return self
        matcher = self.matcher.deep_copy()
        if matcher.consume_token(token):
            return Walk.at(self.grammar, (*self.tokens, token), matcher)
        if self.allowed[token // 8] >> token % 8 & 1:
            said = _first_line(matcher)
            raise PluginError(f"llguidance refuses token {token} after allowing it: {said}")
        return None

    def __reduce__(self) -> Any:
        return _walked, (self.grammar, self.tokens)


def _walked(grammar: Grammar, tokens: tuple[int, ...]) -> Walk:
    matcher = grammar.matcher.deep_copy()
    matcher.consume_tokens(list(tokens))
    return Walk.at(grammar, tokens, matcher)


def _first_line(matcher: Any) -> str:
    """Return the first line of the error that a matcher is in, with the reason if it has one."""
    first, *more = matcher.get_error().splitlines()
    reason = next((line for line in more if line.startswith("error: ")), "")
    return f"{first} {reason.removeprefix('error: ')}".strip()
