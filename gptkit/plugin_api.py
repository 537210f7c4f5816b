"""All that a plugin imports: hook markers and specs, base classes, `param`, the types it is handed.

A plugin is a distribution with an entry point in the group `gptkit` that names a module. The module
has hook implementations, each of which yields classes. What is not in this file is private. Nothing
here imports torch, and a plugin need not either: a tensor brings its own methods.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, get_args

import pluggy

from gptkit.errors import CheckpointError, ConfigError, GptkitError, PluginError, RequestError
from gptkit.ranking import best

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from torch import Tensor

__all__ = [
    "API_VERSION",
    "Branch",
    "Chat",
    "ChatTemplate",
    "CheckpointError",
    "Command",
    "ConfigError",
    "DraftView",
    "Drafter",
    "GptkitError",
    "Hooks",
    "Loop",
    "Observed",
    "Param",
    "Params",
    "Phase",
    "Plugin",
    "PluginError",
    "RequestError",
    "RequestView",
    "Rows",
    "Sampler",
    "Say",
    "Segment",
    "Shortlist",
    "Stats",
    "Stop",
    "StoppingCriterion",
    "Strategy",
    "Template",
    "Tokenizer",
    "Vocab",
    "best",
    "hookimpl",
    "param",
]

API_VERSION = 1
"""A plugin module may say `gptkit_api = 1`; another number is refused with that reason."""

hookspec = pluggy.HookspecMarker("gptkit")
hookimpl = pluggy.HookimplMarker("gptkit")

Phase = Literal["bias", "penalty", "constraint", "scale", "truncate", "pick"]
PHASES: tuple[Phase, ...] = get_args(Phase)
OFF = "off"


# Parameters -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Param:
    """One declared parameter: type, range, off value and help, used by CLI, YAML, REPL and docs."""

    default: Any
    kind: type
    items: type | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    off: Any = None
    choices: tuple[str, ...] = ()
    examples: tuple[Any, ...] = ()
    """Values that the conformance kit tries where a range says too little: texts, lists."""
    help: str = ""

    @property
    def range_text(self) -> str:
        """Say the range in words, `at least 0 and at most 1`; empty where there is none."""
        bounds = (
            ("at least", self.ge),
            ("above", self.gt),
            ("at most", self.le),
            ("below", self.lt),
        )
        said = [f"{word} {_plain(bound)}" for word, bound in bounds if bound is not None]
        return " and ".join(said) or ", ".join(self.choices)

    def show(self, value: Any) -> str:
        """Return the value as users write it."""
        if self.off is not None and value == self.off:
            return OFF
        if self.kind is dict and not any("," in key for key in value):
            return ",".join(f"{key}:{_exact(one)}" for key, one in value.items())
        if self.items and len(value) == 1 and value[0] != OFF and str(value[0])[:1] != "[":
            return str(value[0])
        if self.items or self.kind is dict:
            return json.dumps(value, ensure_ascii=False)
        return str(value).lower() if self.kind is bool else str(value)

    def parse(self, where: str, text: str) -> Any:
        """Read what was typed on a command line; raise ConfigError naming `where`."""
        if text == OFF or self.kind is str:
            return self.check(where, text)
        if self.kind is dict:
            pairs = _typed_json(where, text, r"\{")
            return self.check(where, _typed_pairs(where, text) if pairs is None else pairs)
        if self.items is not None:
            several = _typed_json(where, text, r'\[\s*["\]]' if self.items is str else r"\[")
            one = int(text) if self.items is int and text.isdecimal() else text
            return self.check(where, [one] if several is None else several)
        if self.kind is bool:
            return self.check(where, {"true": True, "false": False}.get(text, text))
        try:
            return self.check(where, int(text))
        except ValueError:
            pass
        try:
            return self.check(where, float(text))
        except ValueError:
            pass
        dot = f"use a dot: {text.replace(',', '.')}" if re.fullmatch(r"-?\d*,\d+", text) else None
        raise ConfigError(
            f"{where}: {text!r} is not {self._kind_text}", hint=dot or self._range_hint
        )

    def check(self, where: str, value: Any) -> Any:
        """Return the value that a row gets, or raise ConfigError with value and range."""
        if isinstance(value, str) and value == OFF and (self.kind, self.off) != (str, None):
            if self.off is None:
                raise ConfigError(f"{where} can't be off", hint=f"give {self._kind_text}")
            return self.off
        if self.kind is dict:
            return self._check_pairs(where, value)
        if self.items is not None:
            return self._check_items(where, value)
        if type(value) is int and abs(value) >= 2**63:
            raise ConfigError(f"{where}: the number is too large", hint=self._range_hint)
        if self.kind is float and type(value) is int:
            value = float(value)
        if not self._is(value, self.kind):
            shown = f"text {value!r}" if isinstance(value, str) else repr(value)
            raise ConfigError(f"{where}: {shown} is not {self._kind_text}", hint=self._range_hint)
        if self.kind is float and not math.isfinite(value):
            raise ConfigError(
                f"{where}: {value} is not a number {self._span}", hint=self._range_hint
            )
        if self.choices and value not in self.choices:
            raise ConfigError(f"{where}: {value!r} is none of {', '.join(self.choices)}")
        for out, word, bound in (
            (self.ge is not None and value < self.ge, "below", self.ge),
            (self.gt is not None and value <= self.gt, "not above", self.gt),
            (self.le is not None and value > self.le, "above", self.le),
            (self.lt is not None and value >= self.lt, "not below", self.lt),
        ):
            if out and bound is not None:
                said = "; ".join(x for x in (self.help, self.range_text) if x)
                raise ConfigError(
                    f"{where}: {_plain(value)} is {word} {_plain(bound)} ({said})",
                    hint=f"'{OFF}' switches it off" if self.off is not None else self._range_hint,
                )
        return value

    def _check_items(self, where: str, value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, (list, tuple)) else [value]
        for item in values:
            if not self._is(item, self.items):
                raise ConfigError(f"{where}: {item!r} is not {_KIND_TEXT[self.items]}")
            if item == "":
                raise ConfigError(f"{where} must not be empty", hint="leave it out to have none")
            if self.items is int and item < 0:
                raise ConfigError(f"{where}: {item} is below 0")
        return tuple(values)

    def _check_pairs(self, where: str, value: Any) -> dict[str, float]:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {value!r} is not {self._kind_text}")
        one = Param(0.0, float, ge=self.ge, gt=self.gt, le=self.le, lt=self.lt, help=self.help)
        return {str(key): one.check(f"{where}[{key}]", number) for key, number in value.items()}

    @staticmethod
    def _is(value: Any, kind: type | None) -> bool:
        return type(value) is kind  # exactly: True is no number here

    @property
    def _kind_text(self) -> str:
        return _KIND_TEXT[self.kind]

    @property
    def _span(self) -> str:
        low, high = self.ge if self.ge is not None else self.gt, self.le
        return f"from {low:g} to {high:g}" if low is not None and high is not None else "we can use"

    @property
    def _range_hint(self) -> str | None:
        return f"it is {self.range_text}" if self.range_text else None


def _plain(number: float) -> str:
    """Write a number as people do: no exponent where it is whole."""
    if isinstance(number, int):
        return f"{number:,}"
    return f"{number:,.0f}" if number % 1 == 0 and abs(number) < 1e15 else f"{number:g}"


def _exact(number: float) -> str:
    """Write a number as short as it can be read again."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _typed_json(where: str, text: str, start: str) -> Any:
    """Read a list or mapping that is typed as JSON, which is what begins with `start`, or None."""
    if not re.match(start, text):
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is no JSON ({error})") from error


def _typed_pairs(where: str, text: str) -> dict[str, Any]:
    """Read `KEY:NUMBER,...`; what is no number stays text, for the check to name."""
    pairs: dict[str, Any] = {}
    for pair in text.split(","):
        key, colon, number = pair.rpartition(":")
        if not colon:
            raise ConfigError(f"{where}: {pair!r} is not KEY:NUMBER", hint="KEY:NUMBER,KEY:NUMBER")
        if key in pairs:
            raise ConfigError(f"{where}: {key!r} is given twice", hint="keep one")
        try:
            pairs[key] = float(number)
        except ValueError:
            pairs[key] = number
    return pairs


_KIND_TEXT: dict[type | None, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "a list",
    dict: "a mapping of names to numbers",
}


def param(
    default: Any,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    off: Any = None,
    choices: tuple[str, ...] = (),
    items: type | None = None,
    examples: tuple[Any, ...] = (),
    help: str,
) -> Any:
    """Declare a parameter of a plugin class; its type is that of `default`.

    The parameter declared first is the one that `-s NAME=VALUE` sets. `off` is the value at which
    the parameter does nothing. A list parameter has a tuple as default and the type of its `items`;
    a parameter whose default is a dict maps texts to numbers within the range.
    """
    kind = type(default)
    return Param(default, kind, items, ge, gt, le, lt, off, choices, examples, help)


class Params:
    """The values of one stage's parameters: `p.k` is a tensor [R, 1], or a list of R objects."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


# What every plugin class has ------------------------------------------------------------------


class Plugin:
    """Base of all plugin classes: a `name`, a summary (the first docstring line) and parameters."""

    name: ClassVar[str]
    params: ClassVar[Mapping[str, Param]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {key: value for key, value in vars(cls).items() if isinstance(value, Param)}
        cls.params = {**cls.params, **own}
        if "name" in vars(cls):
            cls._check_declaration()

    @classmethod
    def _check_declaration(cls) -> None:
        """Refuse a mistake when the class is defined, not at the first token."""
        if not isinstance(cls.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", cls.name):
            raise PluginError(f"{cls.__qualname__}: name {cls.name!r} is not lower_snake")
        if not (cls.__doc__ or "").strip():
            raise PluginError(f"{cls.__qualname__} has no docstring; its first line is the summary")
        for key, declared in cls.params.items():
            declared.check(f"{cls.__qualname__}: default of {cls.name}.{key}", declared.default)
            if declared.off is not None:
                declared.check(f"{cls.__qualname__}: off of {cls.name}.{key}", declared.off)

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]


# Values that cross the border -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt: text, encoded as text, or the name of one control token."""

    text: str
    control: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """What a criterion says of a token: end here, or, without a reason, hold text back.

    `cut_bytes` are removed from the end of the text; `hold_bytes` at its end may still become part
    of something that is cut, so they must not be shown yet.
    """

    reason: str | None = None
    cut_bytes: int = 0
    hold_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """What a stage with memory learns of a chosen token; log-probabilities in nats.

    They are NaN unless the stage declares `state_from = "sample"`.
    """

    token: int
    position: int
    n_out: int
    logprob: float
    raw_logprob: float
    stage_logprob: float


class Vocab(Protocol):
    """The vocabulary that a request runs over."""

    size: int
    eos_ids: frozenset[int]
    special_ids: frozenset[int]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; a control token has none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without control tokens."""
        ...


@dataclass(frozen=True, slots=True)
class RequestView:
    """What a stage or criterion may know of the request; `params` are its own values."""

    prompt: Sequence[int]
    params: Mapping[str, Any]
    vocab: Vocab
    seed: int
    stop_ids: frozenset[int] = frozenset()
    """The tokens that end it: the model's own, unless they are ignored, and the user's."""


class Stats(Protocol):
    """Figures of each row over the tokens that are not forbidden, float32 [R, 1].

    Sums are taken in float64: those of float32 depend on the number of rows and of threads.
    """

    @property
    def max(self) -> Tensor:
        """The best logit."""
        ...

    @property
    def entropy(self) -> Tensor:
        """Entropy of the softmax in nats."""
        ...

    @property
    def std(self) -> Tensor:
        """Population standard deviation of the logits."""
        ...

    @property
    def support(self) -> Tensor:
        """How many tokens are not forbidden, int64."""
        ...


class Rows(Protocol):
    """What a stage may look at; a row is one position of one sequence. Everything is lazy."""

    R: int
    V: int
    device: Any
    vocab: Vocab
    state: list[Any]
    """This stage's states, in row order."""

    @property
    def position(self) -> Tensor:
        """Absolute index of the token being chosen, the prompt included [R]."""
        ...

    @property
    def n_out(self) -> Tensor:
        """Tokens generated so far [R]."""
        ...

    @property
    def prompt_len(self) -> Tensor:
        """Tokens of the prompt [R]."""
        ...

    def tokens(self, row: int) -> Sequence[int]:
        """Return prompt and output of one row."""
        ...

    def seen(self, scope: Literal["all", "output"] = "all", window: int = 0) -> Tensor:
        """Return which tokens have occurred, bool [R, V]; `window` last tokens, 0 for all."""
        ...

    def counts(self, scope: Literal["all", "output"] = "output", window: int = 0) -> Tensor:
        """Return how often each token has occurred, float32 [R, V]."""
        ...

    def suffix(self, n: int) -> Tensor:
        """Return the last n tokens [R, n], -1 where a row is shorter."""
        ...

    def stats(self, logits: Tensor) -> Stats:
        """Return figures of logits [R, V]; computed once for a stage's input."""
        ...

    def uniform(self, stream: int = 0) -> Tensor:
        """Return one keyed coin for each row, float32 [R, 1] in (0, 1)."""
        ...

    def noise(self, ids: Tensor | None = None, stream: int = 0) -> Tensor:
        """Return keyed uniforms for all tokens [R, V], or for `ids` [R, K], in (0, 1).

        In the phase `pick` these are the pick's own noise (domain 0); elsewhere the stage's.
        """
        ...


class Shortlist(Protocol):
    """The best tokens of one row, best first, as a stage gets them; plain numbers."""

    @property
    def logits(self) -> list[float]:
        """Their logits; each is a float32 number. Nobody writes to it."""
        ...

    @property
    def is_all(self) -> bool:
        """Whether every other token is forbidden."""
        ...

    @property
    def noise(self) -> list[float]:
        """The keyed uniform of each of them, in (0, 1), for a picker."""
        ...


# The kinds of plugin --------------------------------------------------------------------------


class Tokenizer(Plugin, ABC):
    """Text to token ids and back. `special` maps the names of control tokens to their ids."""

    special: Mapping[str, int] = {}

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, control tokens included."""

    @abstractmethod
    def encode_ordinary(self, text: str) -> list[int]:
        """Return ids of `text`; what looks like a control token is text. Never a special id.

        A closed vocabulary raises RequestError, naming character and offset.
        """

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """Return the exact bytes that a token stands for; b"" for a control token."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that `load` needs into an existing folder."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path | None) -> Self:
        """Read what `save` wrote, or another file that this kind knows; None is the default."""

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int | None = None, special: Sequence[str] = ()
    ) -> Self:
        """Learn a vocabulary of at most `vocab_size` ids, `special` included, from texts."""
        raise ConfigError(f"tokenizer {cls.name} can't be trained", hint="give a path to load")


class Sampler(Plugin, ABC):
    """One stage of the chain: a function of rows. One instance serves all requests at once.

    A stage keeps nothing on `self` and never writes into its input or `p`. One that needs memory
    sets `state_from` and returns new states, which are immutable values, from `advance`.
    """

    phase: ClassVar[Phase] = "truncate"
    rank: ClassVar[int] = 100
    """Place inside the phase when a stage joins a chain without a place."""
    state_from: ClassVar[Literal["token", "sample"] | None] = None
    """What `advance` needs: only the token, or the log-probabilities of the draw as well."""
    gauge_dependent: ClassVar[bool] = False
    """Whether a constant added to all logits, which softmax does not see, changes the result."""
    delays_stops: ClassVar[str | None] = None
    """The parameter that says before how many tokens nothing may end the sequence."""

    @classmethod
    def _check_declaration(cls) -> None:
        super()._check_declaration()
        if cls.phase not in PHASES:
            known = ", ".join(PHASES)
            raise PluginError(f"{cls.__qualname__}: phase {cls.phase!r} is none of {known}")

    @classmethod
    def read_files(cls, values: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        """Return the values of the parameters, with what files say in the place of their paths.

        A job asks for this before it loads a model, so that it is the same for all rows. Relative
        paths are from `folder`. Raise ConfigError for a file that can't serve.
        """
        return values

    @abstractmethod
    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return new logits [R, V] float32; a picker (phase `pick`) returns token ids [R] int64.

        Row i of the result depends on row i of everything alone. -inf stays -inf.
        """

    def most_left(self, p: Params) -> int | None:
        """Return how many tokens the stage leaves at most, at least 1; None where that depends.

        A chain with such a stage is run over the best tokens alone, where it and each stage after
        it has a `shorten`.
        """
        return None

    def shorten(self, short: Shortlist, p: Params) -> list[float] | int | None:
        """Return what `apply` does to a row, from its best tokens alone; `p` holds plain values.

        The result has the logits of the tokens that stay, which are the first of them and in the
        same order. If it is shorter, what comes after its last one is forbidden, in the whole row;
        if not, nothing is said of the others. A picker returns the index of its token. None says
        that it depends on the others: then `apply` is asked. Only a stage that looks at nothing but
        logits can have it, and it must agree with `apply` to the bit: what that computes in float32
        is to be rounded to float32 here.
        """
        return None

    def init_state(self, request: RequestView) -> Any:
        """Return the state before the first token: immutable, small, picklable."""
        return None

    def advance(self, state: Any, p: Params, observed: Observed) -> Any:
        """Return the state after a token; `p` holds this row's plain values."""
        return state

    def is_done(self, state: Any) -> bool:
        """Return whether nothing more may follow; that ends the sequence: `constraint_done`."""
        return False


class StoppingCriterion(Plugin, ABC):
    """Sees each committed token of a sequence, in order, and may end it."""

    rank: ClassVar[int] = 40
    """Criteria are asked from the lowest rank on; the first reason counts."""
    observes_entropy: ClassVar[bool] = False
    """Whether `push` wants `entropy`, of the model's distribution before the chain, in nats."""

    @classmethod
    def token_ids(cls, params: Mapping[str, Any]) -> frozenset[int]:
        """Return the tokens that end a sequence as such, which a stage may have to hold back."""
        return frozenset()

    def init_state(self, request: RequestView) -> Any:
        """Return the state before the first token: immutable and picklable."""
        return None

    @abstractmethod
    def push(self, state: Any, token_id: int, data: bytes, n_out: int) -> tuple[Any, Stop | None]:
        """Return the new state and what to do; `data` are the token's bytes, `n_out` counts it.

        One that observes the entropy has `*, entropy: float = nan` besides.
        """


class DraftView(Protocol):
    """What a drafter sees of a sequence."""

    @property
    def id(self) -> int:
        """The same number from the first token to the last, and no other sequence's."""
        ...

    @property
    def tokens(self) -> Sequence[int]:
        """Prompt and output so far."""
        ...

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        ...


class Drafter(Plugin, ABC):
    """Guesses what comes next. A wrong guess costs time and never changes a token.

    The model checks a whole draft in one step: each token that the chain would have picked anyway
    is kept (sample-and-match, with the noise of its position).
    """

    k = param(8, ge=1, le=64, help="tokens that are guessed at once")

    @abstractmethod
    def propose(self, view: DraftView, k: int, p: Params) -> Sequence[int]:
        """Return at most k token ids that may follow; none is a good answer too."""


class Branch(Protocol):
    """One sequence of a strategy: the prompt and what was appended; never changed."""

    @property
    def tokens(self) -> Sequence[int]:
        """Prompt and output."""
        ...

    @property
    def n_out(self) -> int:
        """Tokens after the prompt."""
        ...


class Loop(Protocol):
    """What a strategy works with: branches, the chain, and the way out."""

    request: RequestView
    max_new_tokens: int

    @property
    def root(self) -> Branch:
        """The prompt's own branch."""
        ...

    def branch(self, prompt: Sequence[int]) -> Branch:
        """Return a branch with another prompt."""
        ...

    def fork(self, parent: Branch, token: int) -> Branch:
        """Return `parent` with one more token. What both have is computed and stored once."""
        ...

    def process(self, logits: Tensor, branches: Sequence[Branch]) -> Tensor:
        """Return logits [R, V] after the chain's stages, all but the picker."""
        ...

    def pick(self, logits: Tensor, branches: Sequence[Branch]) -> list[int]:
        """Return what the whole chain picks for each row of logits [R, V]."""
        ...

    def hidden(self, branch: Branch) -> Tensor:
        """Return the last layer's states of all its computed tokens [T, C]."""
        ...

    def commit(self, token: int) -> bool:
        """Append a token to the answer; return False when that ended it."""
        ...


class Strategy(Plugin, ABC):
    """A loop of its own: which sequences exist, and what each is fed.

    `run` is a generator. It yields the branches whose next token it wants to know of, and is sent
    their logits [R, V]; the engine computes them in one step with everybody else's. A branch that
    is not yielded again is forgotten. What it commits streams, and ends by the same criteria, as
    any other answer.
    """

    needs_hidden: ClassVar[bool] = False
    """Whether it asks for hidden states."""

    @abstractmethod
    def width(self, p: Params) -> int:
        """Return how many branches it yields at most."""

    @abstractmethod
    def run(self, loop: Loop, p: Params) -> Generator[Sequence[Branch], Tensor, None]:
        """Yield branches, be sent logits, commit tokens; return when the answer is complete."""


class Template(Plugin, ABC):
    """A few-shot template: gives its pieces one by one, so that examples can be left out to fit."""

    output: str
    """The field that the model is to write."""
    inputs: frozenset[str]
    """The fields that an item needs."""

    @abstractmethod
    def head(self) -> tuple[Segment, ...]:
        """Return what stands before the examples."""

    @abstractmethod
    def example(self, fields: Mapping[str, str]) -> tuple[Segment, ...]:
        """Return one example, its output and what separates it from the next piece included."""

    @abstractmethod
    def item(self, fields: Mapping[str, str]) -> tuple[Segment, ...]:
        """Return the prompt's own item, cut before its output."""

    @property
    @abstractmethod
    def stops(self) -> tuple[Segment, ...]:
        """What ends an answer: text is a stop string, control a stop token."""


class ChatTemplate(Plugin, ABC):
    """A chat template: gives a conversation turn by turn, so that old turns can be left out."""

    @abstractmethod
    def head(self, system: str | None) -> tuple[Segment, ...]:
        """Return what stands before the first turn; `system` is the instruction, if any."""

    @abstractmethod
    def turn(self, role: Literal["user", "assistant"], text: str) -> tuple[Segment, ...]:
        """Return one finished turn."""

    @abstractmethod
    def reply(self) -> tuple[Segment, ...]:
        """Return what opens the answer that the model is to write."""

    @property
    @abstractmethod
    def stops(self) -> tuple[Segment, ...]:
        """What ends an answer: text is a stop string, control a stop token."""


@dataclass(frozen=True, slots=True)
class Say:
    """What a command has the user say to the model, as if it were typed."""

    text: str


class Chat(Protocol):
    """What a slash command sees of the talk."""

    @property
    def turns(self) -> Sequence[tuple[str, str]]:
        """Role (`user` or `assistant`) and text of each turn so far."""
        ...

    @property
    def model_name(self) -> str:
        """The model's name."""
        ...


class Command(Plugin, ABC):
    """A slash command of the REPL, `/name`; it can't take the name of a bundled one."""

    arguments: ClassVar[str] = ""
    """How what follows the name is written, such as `PATH [TEXT]`."""

    @abstractmethod
    def run(self, chat: Chat, rest: str) -> Iterable[str | Say]:
        """Yield lines to show, or what to say; `rest` is what follows the name."""


# The hooks ------------------------------------------------------------------------------------


class Hooks:
    """The hook points. `docs/plugins.md` has a complete example of each."""

    @staticmethod
    @hookspec
    def gptkit_tokenizers() -> Iterable[type[Tokenizer]]:  # type: ignore[empty-body]
        """Yield Tokenizer classes."""

    @staticmethod
    @hookspec
    def gptkit_samplers() -> Iterable[type[Sampler]]:  # type: ignore[empty-body]
        """Yield Sampler classes."""

    @staticmethod
    @hookspec
    def gptkit_stopping_criteria() -> Iterable[type[StoppingCriterion]]:  # type: ignore[empty-body]
        """Yield StoppingCriterion classes."""

    @staticmethod
    @hookspec
    def gptkit_templates() -> Iterable[type[Template | ChatTemplate] | Traversable]:  # type: ignore[empty-body]
        """Yield Template or ChatTemplate classes, or YAML files; a file's name is its stem."""

    @staticmethod
    @hookspec
    def gptkit_drafters() -> Iterable[type[Drafter]]:  # type: ignore[empty-body]
        """Yield Drafter classes."""

    @staticmethod
    @hookspec
    def gptkit_strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
        """Yield Strategy classes."""

    @staticmethod
    @hookspec
    def gptkit_commands() -> Iterable[type[Command]]:  # type: ignore[empty-body]
        """Yield Command classes: slash commands of the REPL."""
