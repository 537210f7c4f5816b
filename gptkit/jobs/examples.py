"""The examples that a job may choose from: in its file, or in a file of rows beside it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError, GptkitError
from gptkit.jobs.fields import texts
from gptkit.jobs.readers import Inputs, open_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from gptkit.config import Document
    from gptkit.jobs.spec import JobSettings
    from gptkit.plugin_api import Template


def examples_files(settings: JobSettings, folder: Path) -> tuple[Path, ...]:
    """Return the files that the examples stand in, if they do not stand in the job file."""
    return _open(settings.examples, folder).files if isinstance(settings.examples, str) else ()


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
    if isinstance(settings.examples, str):
        given = _of_rows(_open(settings.examples, folder))
    else:
        given = _of_document(settings, document)
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


def _open(name: str, folder: Path) -> Inputs:
    return open_inputs(name, folder, key="examples")


def _of_document(
    settings: JobSettings, document: Document
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(settings.examples, str):
        for i, fields in enumerate(settings.examples):
            yield document.where(("examples", i)), fields


def _of_rows(rows: Inputs) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for row in rows:
        where = f"{row.file}:{row.line}"
        if row.fault is not None:
            raise ConfigError(f"{where}: {row.fault.message}")
        yield where, row.fields
