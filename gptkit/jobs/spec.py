"""What a job file says, and where job files are found. No torch."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gptkit.config import Items, Settings
from gptkit.decoding.request import SamplingSettings
from gptkit.errors import ConfigError, did_you_mean

BUNDLED = "gptkit_prompts"
OnOverflow = Literal["error", "truncate_left", "truncate_right"]


class JobSettings(Settings):
    """A batch job: each row of `inputs`, put through a template, gives one row of `outputs`."""

    model: str | None = Field(None, description="name or path; without one, the bundled model")
    template: str | dict[str, Any] = Field(description="name of a template, or a template")
    system: str | None = Field(None, description="instruction, for a chat template alone")
    examples: str | Items[dict[str, Any]] = Field(
        (), description="examples, or a JSONL file of them, relative to the job file"
    )
    k: int | None = Field(None, ge=0, description="take the first k examples; all without it")
    inputs: str = Field(min_length=1, description="file of rows, relative to the job file")
    outputs: str = Field(min_length=1, description="file to write, from the working directory")
    fields: dict[str, str] = Field({}, description="template field: name that the rows have")
    sampling: SamplingSettings = SamplingSettings()
    stop: dict[str, Any] = Field({}, description="when an answer ends; a template adds its own")
    on_overflow: OnOverflow = Field("error", description="what to do with too long a prompt")
    on_bad_row: Literal["refuse", "error_row"] = Field(
        "refuse", description="a row that can't be read stops the job, or gets an error"
    )
    batch_size: int = Field(16, ge=1, le=4096, description="rows that are computed together")


def find_job(name: str) -> Path:
    """Return the job file that a path or the name of a bundled job means; raise ConfigError."""
    path = Path(name)
    if path.is_file():
        return path
    jobs = bundled_jobs()
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
