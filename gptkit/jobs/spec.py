"""What a job file says, and where job files are found. No torch."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from gptkit.config import Items, Settings
from gptkit.decoding.request import MAX_SEED, Item, SamplingSettings
from gptkit.errors import ConfigError, did_you_mean

BUNDLED = "gptkit_prompts"
AUTO = "auto"
MAX_SAMPLES = 1024
MAX_LOGPROBS = 20
OnOverflow = Literal["error", "truncate_left", "truncate_right"]
Select = Literal["first", "random", "balanced", "nearest"]
Task = Literal["generate", "score"]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class MatrixSettings(Settings):
    """What a job varies: its cells are all combinations of the axes, in this order.

    The list of an axis names things that there are; a mapping names them for the job.
    """

    model: Items[Name] | dict[Name, str] | None = Field(
        None, description="models; replaces `model`"
    )
    sampler: Items[Name] | dict[Name, str | Items[Item]] | None = Field(
        None, description="presets or chains; replaces those of `sampling`"
    )
    template: Items[Name] | dict[Name, str | dict[str, Any]] | None = Field(
        None, description="templates; replaces `template`"
    )
    seed: Items[Seed] | None = Field(None, description="seeds; replaces that of `sampling`")


class JobSettings(Settings):
    """A batch job: each row of `inputs`, put through a template, gives one row of `outputs`."""

    model: str | None = Field(None, description="name or path; without one, the bundled model")
    template: str | dict[str, Any] | None = Field(
        None, description="name of a template, or a template"
    )
    system: str | None = Field(None, description="instruction, for a chat template alone")
    examples: str | Items[dict[str, Any]] = Field(
        (), description="examples, or a JSONL file of them, relative to the job file"
    )
    select: Select = Field("first", description="which of the examples a row gets")
    k: Annotated[int, Field(ge=0)] | Literal["auto"] | None = Field(
        None, description="how many; `auto` takes as many as fit; all without it"
    )
    inputs: Name | Annotated[Items[Name], Field(min_length=1)] = Field(
        description="file of rows, or several, relative to the job file"
    )
    outputs: str = Field(min_length=1, description="file to write, from the working directory")
    fields: dict[str, str] = Field({}, description="template field: name that the rows have")
    keep: Items[Name] = Field((), description="fields of the input to copy into the output")
    ids: Literal["unique", "allow_duplicates"] = Field(
        "unique", description="whether two rows may have one id"
    )
    encoding: str = Field("utf-8", description="how the text of the input is written")
    task: Task = Field("generate", description="write an answer, or score the text that is given")
    n: int = Field(1, ge=1, le=MAX_SAMPLES, description="answers for each row")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="record the log-probability of each token, and of that many others",
    )
    sampling: SamplingSettings = Field(
        SamplingSettings(), description="how tokens are chosen; the model's own without a chain"
    )
    stop: dict[str, Any] = Field({}, description="when an answer ends; a template adds its own")
    matrix: MatrixSettings | None = Field(None, description="axes to combine, each in its key")
    on_overflow: OnOverflow = Field("error", description="what to do with too long a prompt")
    on_bad_row: Literal["refuse", "error_row"] = Field(
        "refuse", description="a row that can't be read stops the job, or gets an error"
    )
    on_error: Literal["error_row", "stop"] = Field(
        "error_row", description="a row that fails later gets an error, or stops the job"
    )
    csv_safe: bool = Field(
        False, description="in CSV, put ' before text that a spreadsheet would run as a formula"
    )
    batch_size: int = Field(16, ge=1, le=4096, description="answers that are computed together")

    @field_validator("encoding")
    @classmethod
    def _is_an_encoding(cls, name: str) -> str:
        try:
            "".encode(name)
        except LookupError:
            raise ValueError(f"there is no encoding {name!r}; try utf-8 or latin-1") from None
        return name


def find_job(name: str | None) -> Path:
    """Return the job file that a path or the name of a bundled job means; raise ConfigError."""
    jobs = bundled_jobs()
    if name is None:
        raise ConfigError("no job is given", hint=f"a path, or one of these: {', '.join(jobs)}")
    path = Path(name)
    if path.is_file():
        return path
    if name in jobs:
        return jobs[name]
    if path.is_dir():
        raise ConfigError(f"{name} is a directory", hint="give a job file, such as job.yaml")
    near = did_you_mean(path.stem, jobs)
    raise ConfigError(
        f"no such job: {name}", hint=near or f"a path, or one of these: {', '.join(jobs)}"
    )


def bundled_jobs() -> dict[str, Path]:
    """Return the jobs that ship with gptkit, by name."""
    folder = Path(str(importlib.resources.files(BUNDLED)))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
