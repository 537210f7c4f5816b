"""The examples that a job may choose from: in its file, or in a JSONL file beside it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError, GptkitError
from gptkit.jobs.fields import texts
from gptkit.jobs.rows import JSONL, check_input, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from gptkit.config import Document
    from gptkit.jobs.spec import JobSettings
    from gptkit.plugin_api import Template


def examples_path(settings: JobSettings, folder: Path) -> Path | None:
    """Return the file that the examples stand in, if they do not stand in the job file."""
    return folder / settings.examples if isinstance(settings.examples, str) else None


def read_examples(
    settings: JobSettings,
    document: Document,
    template: Template,
    columns: Mapping[str, str],
    folder: Path,
) -> tuple[Mapping[str, str], ...]:
    """Return the examples to choose from, each with all fields of the template.

    Raise ConfigError for one that is wrong, and where there are fewer than `k`. Where the first k
    serve, no more are read.
    """
    path = examples_path(settings, folder)
    if path is not None:
        check_input(path)
        if path.suffix.lower() not in JSONL:
            raise ConfigError(f"examples: {path.name} is no JSONL file")
    given = _of_file(path) if path is not None else _of_document(settings, document)
    if path is None:
        columns = {}  # the names of a file are the data's, those of the job file the template's
    k = settings.k if isinstance(settings.k, int) else None
    made = []
    for where, fields in islice(given, k if settings.select == "first" else None):
        try:
            made.append(texts(fields, template.inputs | {template.output}, columns))
        except GptkitError as error:
            raise ConfigError(f"{where}: {error}") from error
    if k is not None and len(made) < k:
        where = document.where(("k",))
        raise ConfigError(f"{where}: k is {k}, but there are {len(made)} examples")
    return tuple(made)


def _of_document(
    settings: JobSettings, document: Document
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(settings.examples, str):
        for i, fields in enumerate(settings.examples):
            yield document.where(("examples", i)), fields


def _of_file(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for row in read_rows(path):
        if row.fault is not None:
            raise ConfigError(f"{path}:{row.line}: {row.fault.message}")
        yield f"{path}:{row.line}", row.fields
