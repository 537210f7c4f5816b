"""The figures of a cell: what its answers are like, and what cells are compared by."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gptkit.jobs.reports.tally import Grams, Repeated, Repeats, Spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gptkit.jobs.reports.results import Label, Result, Sample, Score

MAX_SHOWN = 2000
"""Characters of a text that are kept to be shown."""
MILLI = 1000


@dataclass(slots=True)
class Failure:
    """One type of error: how many rows have it, and the first of them."""

    index: int
    message: str
    n_rows: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A row that stands out, with its text, or the start of a long one."""

    index: int
    id: str | int | None
    size: float
    """Characters of its text, or its perplexity."""
    text: str = ""


@dataclass(slots=True)
class Likelihood:
    """Log-probabilities of tokens, added up. nats; `n_bytes` of those texts that have bytes."""

    n_tokens: int = 0
    logprob: float = 0.0
    n_bytes: float = 0.0
    logprob_of_bytes: float = 0.0

    def add(self, score: Score) -> None:
        """Add a text; its bytes are known by its bits a byte."""
        self.n_tokens += score.tokens
        self.logprob += score.logprob
        if score.bits_per_byte:
            self.n_bytes += -score.logprob / math.log(2) / score.bits_per_byte
            self.logprob_of_bytes += score.logprob

    @property
    def perplexity(self) -> float:
        """exp(-mean log-probability of a token): of the whole corpus, no mean of rows."""
        if not self.n_tokens:
            return math.nan
        nats = -self.logprob / self.n_tokens
        return math.exp(nats) if nats < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """The same by bytes, in bits: models of different tokenizers can be compared by it."""
        bits = -self.logprob_of_bytes / math.log(2)
        return bits / self.n_bytes if self.n_bytes else math.nan


def likelihood(score: Score) -> Likelihood:
    """Return that of one text."""
    alone = Likelihood()
    alone.add(score)
    return alone


@dataclass(slots=True)
class Measures:
    """What some rows of a cell come to, for cells to be compared by.

    `n_same` rows have the answer that the first cell has; in `n_better` the text that was given is
    more probable than in the first cell. `n_different` counts the different texts of each of the
    `n_several` rows with more than one sample. Log-probabilities and entropies are those of the
    answers' tokens, in nats, added up.
    """

    n_rows: int = 0
    n_same: int = 0
    n_better: int = 0
    n_samples: int = 0
    n_several: int = 0
    n_different: int = 0
    new_tokens: int = 0
    grams: Grams = field(default_factory=Grams)
    logprob: float = 0.0
    n_logprobs: int = 0
    entropy: float = 0.0
    n_entropies: int = 0
    likelihood: Likelihood = field(default_factory=Likelihood)

    def add(self, result: Result, first: Result) -> None:
        """Add a row, which the first cell answered so."""
        self.n_rows += 1
        self.n_same += result.texts == first.texts
        self.n_samples += len(result.samples)
        if len(result.samples) > 1:
            self.n_several += 1
            self.n_different += len(set(result.texts))
        for sample in result.samples:
            self.new_tokens += sample.new_tokens
            self.grams.add(sample.text)
            for one in sample.logprobs or ():
                self.logprob += one.logprob
                self.n_logprobs += 1
                if one.top:
                    self.entropy += entropy_at_least(one.logprob, one.top)
                    self.n_entropies += 1
        if result.score is not None and first.score is not None:
            self.likelihood.add(result.score)
            self.n_better += result.score.logprob > first.score.logprob

    @property
    def mean_new_tokens(self) -> float:
        """New tokens of an answer."""
        return _mean(self.new_tokens, self.n_samples)

    @property
    def mean_different(self) -> float:
        """Different texts among the samples of a row."""
        return _mean(self.n_different, self.n_several)

    @property
    def mean_logprob(self) -> float:
        """Log-probability of an answer's token, in nats."""
        return _mean(self.logprob, self.n_logprobs)

    @property
    def mean_entropy(self) -> float:
        """What the entropy before an answer's token is at least, in nats."""
        return _mean(self.entropy, self.n_entropies)


@dataclass(slots=True)
class Figures:
    """One cell: all of its rows. Answers are samples: `n` of them for each row."""

    label: Label
    n_rows: int = 0
    n_ok: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    prompt_tokens: Spread = field(default_factory=Spread)
    new_tokens: Spread = field(default_factory=Spread)
    n_empty: int = 0
    shortest: Example | None = None
    longest: Example | None = None
    repeats: Repeats = field(default_factory=Repeats)
    repeated: Repeated = Repeated()
    most_common: str | None = None
    n_samples: int = 0
    scored_tokens: Spread = field(default_factory=Spread)
    millinats: Spread = field(default_factory=Spread)
    """Mean negative log-probability of a row's tokens, in thousandths of a nat."""
    easiest: Example | None = None
    hardest: Example | None = None
    own: Measures = field(default_factory=Measures)
    """All rows that it answered."""
    compared: Measures = field(default_factory=Measures)
    """Those that every cell answered."""

    @property
    def n_failed(self) -> int:
        """Rows with an error."""
        return self.n_rows - self.n_ok

    def add(self, result: Result) -> None:
        """Count a row."""
        self.n_rows += 1
        if result.fault is not None:
            new = Failure(result.index, result.fault.message)
            self.failures.setdefault(result.fault.type, new).n_rows += 1
            return
        self.n_ok += 1
        self.own.add(result, result)
        if result.score is not None:
            self._add_score(result, result.score)
            return
        if result.prompt_tokens is not None:
            self.prompt_tokens.add(result.prompt_tokens)
        for sample in result.samples:
            self._add_answer(result, sample)
        self.repeats.add(text for text in result.texts if text.strip())

    def _add_answer(self, result: Result, sample: Sample) -> None:
        self.n_samples += 1
        self.finish_reasons[sample.finish_reason] += 1
        self.new_tokens.add(sample.new_tokens)
        size = len(sample.text)
        if not sample.text.strip():
            self.n_empty += 1
            return
        if self.shortest is None or size < self.shortest.size:
            self.shortest = _example(result, size, sample.text)
        if self.longest is None or size > self.longest.size:
            self.longest = _example(result, size, sample.text)

    def _add_score(self, result: Result, score: Score) -> None:
        self.scored_tokens.add(score.tokens)
        if not score.tokens:
            return
        nats = -score.logprob / score.tokens
        self.millinats.add(round(nats * MILLI))
        alone = likelihood(score).perplexity
        if self.easiest is None or alone < self.easiest.size:
            self.easiest = _example(result, alone)
        if self.hardest is None or alone > self.hardest.size:
            self.hardest = _example(result, alone)

    def row_perplexity(self, share: float) -> float:
        """Return a quantile of the rows' own perplexities, to three digits but for the ends."""
        end = {0.0: self.easiest, 1.0: self.hardest}.get(share)
        return end.size if end else math.exp(self.millinats.at(share) / MILLI)


def entropy_at_least(logprob: float, top: Sequence[float]) -> float:
    """Return the least entropy, in nats, that a distribution with these log-probabilities has.

    They are those of the likeliest tokens and of the one that was taken. What they leave of the
    mass counts as one token more; to split it could only add entropy.
    """
    known = list(top) if logprob in top else [*top, logprob]
    rest = max(0.0, 1 - sum(math.exp(one) for one in known))
    return -sum(one * math.exp(one) for one in known) - (rest * math.log(rest) if rest else 0.0)


def _mean(total: float, n: int) -> float:
    return total / n if n else math.nan


def _example(result: Result, size: float, text: str = "") -> Example:
    return Example(result.index, result.id, size, clip(text, MAX_SHOWN))


def clip(text: str, n: int) -> str:
    """Return a text, or the start of it with an ellipsis where it is longer than n characters."""
    return text if len(text) <= n else text[: n - 1] + "…"
