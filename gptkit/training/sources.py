"""Sources of documents: conversations and rows, multiplied by the grammar, shaped by a template."""

from __future__ import annotations

import contextlib
import json
import random
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

from gptkit.config import read_yaml
from gptkit.errors import ConfigError, GptkitError
from gptkit.plugin_api import ChatTemplate, Segment, Template
from gptkit.text.template import read_template
from gptkit.training.grammar import expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from gptkit.plugin_host import Registry
    from gptkit.training.recipe import Recipe, SourceSettings

    Lists = Mapping[str, Sequence[str]]
    Document = tuple[Segment, ...]


def read_text(path: Path) -> str:
    """Return the text of a file; raise ConfigError with the offset of what is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start:,}",
            hint="save it as UTF-8",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", hint="give the path of a text file"
        ) from None


def documents(
    source: SourceSettings, recipe: Recipe, registry: Registry, key: str
) -> Iterator[Document]:
    """Yield the documents of a source; `key` names the source, for its own chance."""
    if source.text is not None:
        for path in recipe.find(source.text):
            yield (Segment(read_text(path)),)
        return
    assert source.template is not None
    template = _template(registry, source.template)
    chance = _Chance(f"{recipe.settings.training.seed} {key}")
    if source.conversations is not None:
        if not isinstance(template, ChatTemplate):
            raise ConfigError(f"{source.template} is no chat template, conversations need one")
        for path in recipe.find(source.conversations):
            yield from _conversations(path, source, template, chance)
    elif source.rows is not None:
        if not isinstance(template, Template):
            raise ConfigError(f"{source.template} is a chat template, rows need a few-shot one")
        yield from _shots(recipe.find(source.rows), source, template, chance)


def _template(registry: Registry, name: str) -> Template | ChatTemplate:
    found = registry.find("template", name).value
    made = found() if isinstance(found, type) else read_template(found, name)
    return cast("Template | ChatTemplate", made)


class _Chance:
    """Keyed chance: what one document draws does not depend on the others."""

    def __init__(self, key: str) -> None:
        self.key = key

    def of(self, *xs: object) -> random.Random:
        return random.Random(" ".join(map(str, (self.key, *xs))))


# Conversations --------------------------------------------------------------------------------


def _conversations(
    path: Path, source: SourceSettings, template: ChatTemplate, chance: _Chance
) -> Iterator[Document]:
    content = _mapping(path)
    lists = _lists(path, content)
    told = content.get("conversations")
    if not isinstance(told, list):
        raise ConfigError(f"{path} has no list conversations:")
    texts = [spoken for turns in told if (spoken := _turns(turns))]
    for i, first in enumerate(texts):
        for copy in range(source.expand or 1):
            rng = chance.of(path.name, i, copy)
            # People change the subject, so several conversations may follow one another.
            more = rng.choices(texts, k=rng.randint(*source.join) - 1)
            with _naming(path):
                said = [t for spoken in (first, *more) for t in _said(source, spoken, lists, rng)]
            system = rng.choice(source.system) if source.system and not rng.randrange(4) else None
            yield _conversation(template, said, system)


def _turns(turns: Any) -> list[str]:
    """Return the turns of somebody's file as texts; a last question without answer is dropped."""
    texts = [_plain(turn) for turn in turns] if isinstance(turns, list) else []
    spoken = list(takewhile(bool, texts))
    return spoken[: len(spoken) // 2 * 2]


def _plain(value: Any) -> str:
    if isinstance(value, dict):  # `Question: what?` written without quotes
        return "; ".join(f"{key}: {_plain(one)}" for key, one in value.items())
    lines = str("" if value is None else value).strip().split("\n")
    return "\n".join(" ".join(line.split()) for line in lines)


def _conversation(template: ChatTemplate, turns: Sequence[str], system: str | None) -> Document:
    pieces = list(template.head(system))
    for i, text in enumerate(turns):
        role: Literal["user", "assistant"] = "assistant" if i % 2 else "user"
        pieces += template.turn(role, text)
    return tuple(pieces)


# Rows -----------------------------------------------------------------------------------------


def _shots(
    paths: Sequence[Path], source: SourceSettings, template: Template, chance: _Chance
) -> Iterator[Document]:
    """Yield each row after k others of the source, as the prompt of a job would have them."""
    rows = [(path, row, lists) for path in paths for row, lists in _rows(path)]
    fewest, most = source.k
    if most >= len(rows):
        raise ConfigError(f"{paths[0]}: {len(rows)} rows are too few for k {most}")
    for i, (path, *_) in enumerate(rows):
        others = [*range(i), *range(i + 1, len(rows))]
        for copy in range(source.expand or 1):
            rng = chance.of(path.name, i, copy)
            shown = [*rng.sample(others, rng.randint(fewest, most)), i]
            pieces = list(template.head())
            for one in shown:
                fields, lists = rows[one][1:]
                with _naming(rows[one][0]):
                    said = _said(source, list(fields.values()), lists, rng)
                    pieces += template.example(dict(zip(fields, said, strict=True)))
            yield tuple(pieces)


def _rows(path: Path) -> Iterator[tuple[dict[str, str], Lists]]:
    if path.suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line.strip():
                yield _fields(f"{path}:{number}", _json(f"{path}:{number}", line)), {}
        return
    content = _mapping(path)
    lists = _lists(path, content)
    rows = content.get("rows")
    if not isinstance(rows, list):
        raise ConfigError(f"{path} has no list rows:")
    for i, row in enumerate(rows):
        yield _fields(f"{path}: row {i}", row), lists


def _json(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not valid JSON ({error})") from None


def _fields(where: str, row: Any) -> dict[str, str]:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected fields with values, got {type(row).__name__}")
    return {str(key): str(value).strip() for key, value in row.items() if value is not None}


# What both share ------------------------------------------------------------------------------


def _mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path, str(path)).data
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys with values, got {type(content).__name__}")
    return content


def _lists(path: Path, content: Mapping[str, Any]) -> Lists:
    lists = content.get("lists", {})
    if not isinstance(lists, dict) or not all(isinstance(one, list) for one in lists.values()):
        raise ConfigError(f"{path}: lists: has a name and a list on each line")
    return {str(name): [str(entry) for entry in entries] for name, entries in lists.items()}


def _said(
    source: SourceSettings, texts: Sequence[str], lists: Lists, rng: random.Random
) -> Sequence[str]:
    return texts if source.expand is None else expand(texts, lists, rng)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in every error from within."""
    try:
        yield
    except GptkitError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from error
