"""What a job wrote, read back: the lines of an output, or of a journal that is not done yet."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError, did_you_mean
from gptkit.jobs import manifest
from gptkit.jobs.files import Files
from gptkit.jobs.forms import SUFFIXES, check_extras, form_of
from gptkit.jobs.journal import record_of
from gptkit.jobs.readers import read_rows
from gptkit.jobs.reports.tally import text_hash
from gptkit.jobs.rows import Fault, json_kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Label = tuple[tuple[str, str], ...]

GROUPS = ("cell", "fields", "error")
"""What a table has as columns GROUP_NAME, and a line of JSON as an object."""
TEXTS = ("id", "text", "finish_reason")
"""Columns whose text is no JSON."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """One token of an answer: its log-probability, and those of the tokens listed beside it."""

    logprob: float
    top: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to a row."""

    text: str
    finish_reason: str
    new_tokens: int
    logprobs: tuple[Alternatives, ...] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What a model made of a text that was given: `logprob` in nats, of all of its tokens."""

    tokens: int
    logprob: float
    bits_per_byte: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """One line of an output. It has a fault, a score, or samples: one where the job has n = 1.

    `label` is the cell of a matrix, axis by axis; it is empty where there is none.
    """

    index: int
    id: str | int | None
    label: Label = ()
    fault: Fault | None = None
    prompt_tokens: int | None = None
    samples: tuple[Sample, ...] = ()
    score: Score | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the input that the job took over."""

    @property
    def texts(self) -> list[str]:
        """The texts of its samples."""
        return [sample.text for sample in self.samples]


@dataclass(frozen=True, slots=True)
class Results:
    """The lines of one output, which can be read again and again; each time they are a stream.

    Where `done` is false they come from the journal: rows that are finished so far.
    """

    path: Path
    done: bool
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Result]:
        if not self.done:
            yield from _of_journal(Files.of(self.path).journal)
            return
        form = form_of(self.path.name)
        is_table = form is not None and form.kind != "jsonl"
        for row in read_rows(self.path):
            where = f"{self.path}:{row.line}"
            if row.fault is not None:
                raise _damaged(f"{where}: {row.fault.message}")
            yield _result(row.fields, where, is_table=is_table)


def open_results(path: Path) -> Results:
    """Find an output, or the journal of one that is not there yet; raise ConfigError."""
    for suffix in (".journal", ".manifest.json", ".lock"):
        if path.name.endswith(suffix):
            output = path.with_name(path.name.removesuffix(suffix))
            raise ConfigError(f"{path.name} only accompanies an output", hint=f"give {output}")
    if path.is_dir():
        raise ConfigError(f"{path} is a directory", hint="give the file that a job wrote")
    form = form_of(path.name)
    if form is None or form.kind == "text":
        known = ", ".join(suffix for suffix, kind in SUFFIXES.items() if kind != "text")
        raise ConfigError(f"{path}: not a form that jobs write", hint=f"one of {known}")
    check_extras(form, str(path))
    files = Files.of(path)
    if path.exists():
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"can't read {path}: {error.strerror}") from error
        return Results(path, done=True, manifest=manifest.read(files.manifest) or {})
    if files.journal.is_file():
        return Results(path, done=False)
    names = [one.name.removesuffix(".journal") for one in path.parent.glob("*")]
    others = [name for name in names if form_of(name)]
    raise ConfigError(
        f"no such output: {path}",
        hint=did_you_mean(path.name, others) or "give the file that a job wrote",
    )


def _damaged(said: str) -> ConfigError:
    return ConfigError(
        said, hint="the output is damaged: move it away and run the job again, which writes it anew"
    )


def _of_journal(path: Path) -> Iterator[Result]:
    """Yield the rows of a journal in the order of an output: it has them as they ended.

    A line that can't be read is passed over; where a row was computed again, the last one counts.
    """
    import numpy as np

    keys, indices, cells, places = (array("Q") for _ in range(4))
    with path.open("rb") as file:
        place = 0
        for line in file:
            record = record_of(line)
            if record is not None and "row" in record:
                keys.append(text_hash(f"{record['cell']} {record['key']}"))
                indices.append(record["row"]["index"])
                cells.append(record["cell"])
                places.append(place)
            place += len(line)
        _, from_end = np.unique(np.array(keys, dtype=np.uint64)[::-1], return_index=True)
        last = len(keys) - 1 - from_end
        for i in last[np.lexsort((np.array(cells)[last], np.array(indices)[last]))]:
            file.seek(places[i])
            record = record_of(file.readline())
            if record is not None:
                yield _result(record["row"], f"{path} at byte {places[i]:,}")


# One line -------------------------------------------------------------------------------------


class _Odd(ValueError):
    """What a line of an output can't be."""


def _result(fields: Mapping[str, Any], where: str, *, is_table: bool = False) -> Result:
    try:
        return _parsed(_nested(fields) if is_table else fields)
    except _Odd as error:
        raise ConfigError(
            f"{where}: not a line of a job's output: {error}",
            hint="give the file that `outputs` of a job names",
        ) from error


def _nested(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line that a row of a table stands for, whose cells may all be texts."""
    made: dict[str, Any] = {}
    for name, value in columns.items():
        group, _, inner = name.partition("_")
        if value is None or (value == "" and name != "text" and group != "fields"):
            continue
        if group in GROUPS and inner:
            made.setdefault(group, {})[inner] = value
        else:
            made[name] = _read(name, value) if isinstance(value, str) else value
    return made


def _read(name: str, text: str) -> Any:
    """Return what a cell of text says in a column of that name."""
    if name in TEXTS:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise _Odd(f"'{name}' is {text[:20]!r}") from error


def _parsed(fields: Mapping[str, Any]) -> Result:
    index, row_id = _number(fields, "index"), fields.get("id")
    if row_id is not None and type(row_id) not in (str, int):
        raise _Odd(f"'id' is {json_kind(row_id)}")
    label = tuple((str(axis), str(name)) for axis, name in _object(fields, "cell").items())
    kept = _object(fields, "fields")
    if error := _object(fields, "error"):
        fault = Fault(_text(error, "type"), _text(error, "message"))
        return Result(index, row_id, label, fault, kept=kept)
    if "perplexity" in fields:
        bits = fields.get("bits_per_byte")
        score = Score(
            _number(fields, "tokens"),
            _real(fields, "logprob"),
            None if bits is None else _real(fields, "bits_per_byte"),
        )
        return Result(index, row_id, label, score=score, kept=kept)
    several = fields.get("samples")
    if several is not None and not (
        isinstance(several, list) and several and all(isinstance(one, dict) for one in several)
    ):
        raise _Odd("'samples' is no list of objects")
    samples = tuple(_sample(one) for one in (several or [fields]))
    prompt = None if fields.get("prompt_tokens") is None else _number(fields, "prompt_tokens")
    return Result(index, row_id, label, prompt_tokens=prompt, samples=samples, kept=kept)


def _sample(fields: Mapping[str, Any]) -> Sample:
    logprobs = fields.get("logprobs")
    return Sample(
        _text(fields, "text"),
        _text(fields, "finish_reason"),
        _number(fields, "new_tokens"),
        None if logprobs is None else _alternatives(logprobs),
    )


def _alternatives(logprobs: Any) -> tuple[Alternatives, ...]:
    try:
        return tuple(
            Alternatives(
                float(one["logprob"]), tuple(float(top["logprob"]) for top in one.get("top", ()))
            )
            for one in logprobs
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _Odd("'logprobs' is no list of tokens and their logprobs") from error


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 0:
        raise _Odd(_said(fields, name, "a number"))
    return value


def _real(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _Odd(_said(fields, name, "a number"))
    return float(value)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _Odd(_said(fields, name, "text"))
    return value


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise _Odd(_said(fields, name, "an object"))
    return value or {}


def _said(fields: Mapping[str, Any], name: str, wanted: str) -> str:
    if name not in fields:
        return f"it has no '{name}'"
    kind = json_kind(fields[name])
    return f"'{name}' is {kind if kind != wanted else 'out of range'}, not {wanted}"
