"""What came of a job: the figures of its output, cell by cell, and of its cells row by row."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError
from gptkit.jobs.results import open_results
from gptkit.jobs.tally import Grams, Repeated, Repeats, Spread, text_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from gptkit.jobs.results import Label, Result, Results, Sample, Score

N_SHOWN = 200
"""Rows that are kept to be shown, each text of which is cut after MAX_SHOWN characters."""
MAX_SHOWN = 2000
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
        self.n_same += _texts(result) == _texts(first)
        self.n_samples += len(result.samples)
        if len(result.samples) > 1:
            self.n_several += 1
            self.n_different += len(set(_texts(result)))
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
        self.repeats.add(text for text in _texts(result) if text.strip())

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
        alone = Likelihood()
        alone.add(score)
        if self.easiest is None or alone.perplexity < self.easiest.size:
            self.easiest = _example(result, alone.perplexity)
        if self.hardest is None or alone.perplexity > self.hardest.size:
            self.hardest = _example(result, alone.perplexity)

    def row_perplexity(self, share: float) -> float:
        """Return a quantile of the rows' own perplexities, to three digits or so."""
        return math.exp(self.millinats.at(share) / MILLI)


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row as it is shown: what each cell made of it."""

    index: int
    id: str | int | None
    results: Mapping[Label, Result]


@dataclass(slots=True)
class Report:
    """All cells of one output or of several, in the order in which they come there."""

    sources: Sequence[Results]
    cells: dict[Label, Figures] = field(default_factory=dict)
    n_rows: int = 0
    shown: list[ShownRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_compared(self) -> int:
        """Rows that every cell answered, where there are several cells."""
        return next(iter(self.cells.values())).compared.n_rows

    def measures(self, cell: Figures) -> Measures:
        """Return what to compare a cell by: on all cells' common rows, where there are any."""
        return cell.compared if self.n_compared else cell.own

    def add(self, row: Mapping[Label, Result]) -> None:
        """Count a row: what each cell made of it."""
        self.n_rows += 1
        for label, result in row.items():
            if label not in self.cells:
                self.cells[label] = Figures(label)
                for cell in self.cells.values():  # no row before had this cell
                    cell.compared = Measures()
            self.cells[label].add(result)
        if len(row) == len(self.cells) > 1 and all(one.fault is None for one in row.values()):
            first = row[next(iter(self.cells))]
            for label, result in row.items():
                self.cells[label].compared.add(result, first)
        if len(self.shown) < N_SHOWN:
            any_ = next(iter(row.values()))
            kept = {label: _clipped(result) for label, result in row.items()}
            self.shown.append(ShownRow(any_.index, any_.id, kept))


def make_report(paths: Sequence[Path]) -> Report:
    """Read outputs, which are side by side as the cells of a matrix are; raise ConfigError.

    Each is read as a stream, and a second time up to the text that is repeated most.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("one file is given twice", hint="give each output once")
    sources = [open_results(path) for path in paths]
    report = Report(sources)
    order = _Order()
    for row in _rows(sources):
        order.look(row)
        report.add(row)
    for source in sources:
        if not source.done:
            report.notes.append(f"{source.path} is not finished: these are its rows so far")
    if not report.n_rows:
        names = ", ".join(str(path) for path in paths)
        raise ConfigError(
            f"{names}: no row yet" if report.notes else f"{names}: no rows",
            hint="look again when some are done" if report.notes else "the job's input was empty",
        )
    if all(source.done for source in sources):
        report.notes += order.notes()
    for cell in report.cells.values():
        cell.repeated = cell.repeats.found()
    _find_most_common(report)
    return report


def entropy_at_least(logprob: float, top: Sequence[float]) -> float:
    """Return the least entropy, in nats, that a distribution with these log-probabilities has.

    They are those of the likeliest tokens and of the one that was taken. What they leave of the
    mass counts as one token more; to split it could only add entropy.
    """
    known = list(top) if logprob in top else [*top, logprob]
    rest = max(0.0, 1 - sum(math.exp(one) for one in known))
    return -sum(one * math.exp(one) for one in known) - (rest * math.log(rest) if rest else 0.0)


# Rows of several outputs ----------------------------------------------------------------------


def _rows(sources: Sequence[Results]) -> Iterator[dict[Label, Result]]:
    """Yield rows, each with what every cell made of it: lines of one index stand together.

    Several outputs are merged by index, as long as a row's id is the same in them.
    """
    if len(sources) == 1:
        for _, lines in groupby(sources[0], key=lambda one: (one.index, one.id)):
            yield from _apart((one.label, one) for one in lines)
        return
    names = [source.path.name for source in sources]
    if len(set(names)) < len(names):
        names = [str(source.path) for source in sources]
    streams = [iter(source) for source in sources]
    heads = [next(stream, None) for stream in streams]
    while left := [head for head in heads if head is not None]:
        key = min(one.index for one in left)
        of = next(one for one in left if one.index == key)
        row: list[tuple[Label, Result]] = []
        for i, (name, stream) in enumerate(zip(names, streams, strict=True)):
            while (head := heads[i]) is not None and (head.index, head.id) == (key, of.id):
                row.append(((("file", name), *head.label), head))
                heads[i] = next(stream, None)
        yield from _apart(row)


def _apart(lines: Iterable[tuple[Label, Result]]) -> Iterator[dict[Label, Result]]:
    """Yield lines of a row as one, unless a cell has two of them."""
    row: dict[Label, Result] = {}
    for label, result in lines:
        if label in row:
            yield row
            row = {}
        row[label] = result
    yield row


@dataclass(slots=True)
class _Order:
    """Sees whether an output has each row once, in order, as a job writes it."""

    last: int = -1
    n_missing: int = 0
    missing: int = 0
    n_odd: int = 0
    odd: int = 0

    def look(self, row: Mapping[Label, Any]) -> None:
        """Look at the next row."""
        index = next(iter(row.values())).index
        if index > self.last + 1:
            self.missing = self.missing if self.n_missing else self.last + 1
            self.n_missing += index - self.last - 1
        if index <= self.last:
            self.odd = self.odd if self.n_odd else index
            self.n_odd += 1
        self.last = max(index, self.last)

    def notes(self) -> Iterator[str]:
        """Yield what is wrong."""
        if self.n_missing and not self.n_odd:
            yield f"{_rows_are(self.n_missing)} missing, the first of them row {self.missing:,}"
        if self.n_odd:
            yield (
                f"{_rows_are(self.n_odd)} out of order, given twice or of another input, the first "
                f"of them row {self.odd:,}: these are not compared"
            )


def _rows_are(n: int) -> str:
    return f"{n:,} rows are" if n > 1 else "1 row is"


def _find_most_common(report: Report) -> None:
    """Look the most common answers up: only their hashes were kept."""
    wanted = {
        label: cell.repeated.hashed
        for label, cell in report.cells.items()
        if cell.repeated.hashed is not None
    }
    if not wanted:
        return
    for row in _rows(report.sources):
        for label, result in row.items():
            for text in _texts(result) if label in wanted else ():
                if text_hash(text) == wanted[label]:
                    report.cells[label].most_common = text[:MAX_SHOWN]
                    del wanted[label]
                    break
        if not wanted:
            return


# One row --------------------------------------------------------------------------------------


def _mean(total: float, n: int) -> float:
    return total / n if n else math.nan


def _texts(result: Result) -> list[str]:
    return [sample.text for sample in result.samples]


def _example(result: Result, size: float, text: str = "") -> Example:
    return Example(result.index, result.id, size, text[:MAX_SHOWN])


def _clipped(result: Result) -> Result:
    samples = tuple(
        replace(one, text=clip(one.text, MAX_SHOWN), logprobs=None) for one in result.samples
    )
    fault = result.fault and replace(result.fault, message=clip(result.fault.message, MAX_SHOWN))
    return replace(result, samples=samples, fault=fault)


def clip(text: str, n: int) -> str:
    """Return a text, or the start of it with an ellipsis where it is longer than n characters."""
    return text if len(text) <= n else text[: n - 1] + "…"
