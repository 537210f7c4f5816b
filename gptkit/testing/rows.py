"""Rows to try one stage on, alone, as the chain would run it.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gptkit.decoding import noise
from gptkit.decoding.chain import ChainRunner
from gptkit.decoding.request import Request, Stage, Stops
from gptkit.decoding.rows import PositionRows
from gptkit.decoding.stopping import request_view
from gptkit.plugin_api import Observed, Params
from gptkit.testing import values
from gptkit.testing.model import SMALL, vocab

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from gptkit.plugin_api import Sampler

NO = float("-inf")
LETTERS = range(97, 105)
"""Histories are made of few tokens, so that they repeat themselves."""


@dataclass(frozen=True, slots=True)
class Place:
    """One row: a position of a sequence, with the one stage's state."""

    request: Request
    tokens: list[int]
    states: list[Any]

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def is_off(self) -> bool:
        """Whether the stage does nothing to this row."""
        return self.request.chain[0].is_off

    def copied(self) -> Place:
        """Return the row with a copy of its state, as it would arrive on another machine."""
        return Place(self.request, list(self.tokens), [copied(self.states[0])])


@dataclass(frozen=True, slots=True)
class Case:
    """Rows, their logits [R, V], and what the stage made of them, [R, V] or ids [R]."""

    places: list[Place]
    logits: Tensor
    out: Tensor
    sampler: Sampler
    is_plain: bool
    """Whether the logits are ordinary: many tokens are allowed, and numbers are moderate."""
    has_changed: bool
    """Whether the stage has written into its input."""


class Bench:
    """Makes rows for one sampler class and runs it on them."""

    def __init__(self, cls: type[Sampler], seed: int) -> None:
        self.cls = cls
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.runner = ChainRunner((self.stage({k: p.default for k, p in cls.params.items()}),))

    def stage(self, given: Mapping[str, Any]) -> Stage:
        """Return the stage with these values."""
        return Stage(self.cls.name, self.cls, given)

    def place(self, tokens: Sequence[int], given: Mapping[str, Any], size: int = SMALL) -> Place:
        """Return a row after these tokens; the stage may refuse the values.

        Some of them are output, unless a stage with memory would have had to see them.
        """
        n = len(tokens) if self.cls.state_from is not None else self.rng.randint(1, len(tokens))
        seed = self.rng.getrandbits(62)
        request = Request(tuple(tokens[:n]), (self.stage(given),), Stops(), seed)
        state = self.cls().init_state(request_view(request, given, vocab(size)))
        return Place(request, list(tokens), [state])

    def places(self, n: int, size: int = SMALL, length: int = 30) -> list[Place]:
        """Return rows with values and histories of their own; each is on."""
        return [
            self.admitted(self.history(self.rng.randint(3, length), size), size) for _ in range(n)
        ]

    def admitted(self, tokens: Sequence[int], size: int = SMALL) -> Place:
        """Return a row with values that the stage takes."""
        return values.admitted(
            lambda: self.place(tokens, values.choose(self.cls, self.rng, size), size)
        )

    def history(self, n: int, size: int = SMALL) -> list[int]:
        """Return n tokens that repeat themselves."""
        return [self.rng.choice(LETTERS) % size for _ in range(n)]

    def grid(self, n: int, size: int = SMALL) -> Tensor:
        """Return logits [n, size] in steps of 1/8: many ties, and a sum with 4 is exact."""
        return torch.randint(-40, 41, (n, size), generator=self.generator) / 8

    def apply(
        self, logits: Tensor, places: Sequence[Place], sampler: Sampler | None = None
    ) -> Tensor:
        """Return what a stage, a new one unless it is given, makes of rows; raw, unchecked."""
        sampler = sampler or self.cls()
        rows = PositionRows(places, vocab(logits.shape[-1]), logits)
        rows.state = [place.states[0] for place in places]
        is_picker = self.cls.phase == "pick"
        rows.domain = noise.PICK if is_picker else zlib.crc32(self.cls.name.encode())
        return sampler.apply(logits, self.runner._gather(0, rows), rows)

    def restored(self, out: Tensor, logits: Tensor, places: Sequence[Place]) -> Tensor:
        """Return `out` with the rows that are off as they were, as the engine does it."""
        off = torch.tensor([place.is_off for place in places])
        return out if self.cls.phase == "pick" else torch.where(off[:, None], logits, out)

    def case(self, logits: Tensor, *, is_plain: bool = True) -> Case:
        """Return rows for logits [R, V] with what a new stage makes of them."""
        size = logits.shape[-1]
        places = self.places(len(logits), size)
        if self.cls.state_from is not None:
            places = self.grown(places, self.rng.randrange(5))
        sampler = self.cls()
        given = logits.clone()
        with other_randomness(1):
            out = self.apply(given, places, sampler)
        if isinstance(out, torch.Tensor) and out.shape == logits.shape:
            out = self.restored(out, logits, places)
        return Case(places, logits, out, sampler, is_plain, not torch.equal(given, logits))

    def grown(self, places: list[Place], n: int) -> list[Place]:
        """Return the rows n tokens later; a stage with memory has seen tokens that it allows."""
        for _ in range(n):
            logits = self.grid(len(places))
            out = self.restored(self.apply(logits.clone(), places), logits, places)
            if self.cls.phase == "pick":
                tokens, goes_on = out.tolist(), [True] * len(places)
            else:
                tokens, goes_on = out.argmax(-1).tolist(), (out > NO).any(-1).tolist()
            places = [
                self.after(place, token) if more else place
                for place, token, more in zip(places, tokens, goes_on, strict=True)
            ]
        return places

    def after(self, place: Place, token: int, sampler: Sampler | None = None) -> Place:
        """Return a row one token later."""
        sampler, given = sampler or self.cls(), place.request.chain[0].values
        state = sampler.advance(place.states[0], Params(given), self.observed(place, token))
        return Place(place.request, [*place.tokens, token], [state])

    def observed(self, place: Place, token: int) -> Observed:
        """Return what a stage learns of a token, with log-probabilities that only depend on it."""
        n = len(place.tokens)
        logprobs = [float("nan")] * 3
        if self.cls.state_from == "sample":
            logprobs = [-0.1 - token % 7, -0.2 - token % 7, -0.15 - token % 7]
        return Observed(token, n, n - place.prompt_len, *logprobs)


def pickled(state: Any) -> bytes:
    """Return a state as bytes; a failure is the caller's."""
    return pickle.dumps(state)


def copied(state: Any) -> Any:
    """Return a state that went through bytes, or the state itself where it can't."""
    try:
        return pickle.loads(pickle.dumps(state))  # noqa: S301  # bytes of our own, just made
    except Exception:
        return state


class Watch:
    """Tells whether a state has changed since; by its bytes first, which need no `==`."""

    def __init__(self, state: Any) -> None:
        self.state, self.before, self.bytes = state, copied(state), _bytes(state)

    @property
    def has_changed(self) -> bool:
        """Whether it is another value now."""
        if self.bytes == _bytes(self.state):
            return False
        try:
            return bool(self.state != self.before)
        except Exception:  # a tensor, which has no one answer
            return True


def _bytes(state: Any) -> bytes | None:
    try:
        return pickled(state)
    except Exception:
        return None  # another check tells


@contextlib.contextmanager
def other_randomness(seed: int) -> Iterator[None]:
    """Seed the random numbers that anyone can draw, and give the old ones back."""
    kept = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])
