"""YAML text -> strict, typed settings, with errors that name file and line."""

from __future__ import annotations

import json
import os
import typing
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from gptkit import yaml_text
from gptkit.errors import ConfigError, GptkitError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from importlib.resources.abc import Traversable

KeyPath = tuple[str | int, ...]
MAX_ERRORS = 5
"""A file with more mistakes than this hears of the first ones."""

T = TypeVar("T")
Items = Annotated[tuple[T, ...], Strict(False)]
"""A tuple that a YAML list may fill: strict pydantic refuses one. For use inside a union."""


class Settings(BaseModel):
    """Base of every settings class: unknown keys refused, nothing converted, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data and where each part of it was written; `notes` are for the user's eyes."""

    name: str
    data: Any
    places: Mapping[KeyPath, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def where(self, path: KeyPath) -> str:
        """Return the place of the nearest known key or item on `path`, such as `job.yaml:7`."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.name

    @contextmanager
    def locating(self, *path: str | int) -> Iterator[None]:
        """Say of an error in this block that the trouble is at `path`."""
        try:
            yield
        except GptkitError as error:
            error.args = (f"{self.where(path)}: {error}",)
            raise

    def set(self, assignment: str) -> Document:
        """Return a document with one key set, from `a.b=VALUE`; VALUE is read as YAML."""
        dotted, equals, value = assignment.partition("=")
        option = f"--set {dotted}"
        keys = dotted.split(".")
        if not equals or not all(keys):
            raise ConfigError(
                f"--set {assignment}: expected key=value", hint="for example: --set sampling.seed=7"
            )
        parsed = parse_yaml(value, option)
        path, data = _with(self.data, keys, parsed.data, option)
        kept = {at: place for at, place in self.places.items() if at[: len(path)] != path}
        new = {path[:end]: option for end in range(1, len(path) + 1) if path[:end] not in kept}
        return replace(self, data=data, places={**kept, **new})

    def build(self, cls: type[S], *, at: KeyPath = ()) -> S:
        """Return the settings at `at` in the data; a ConfigError names the place of each error."""
        data = self.data
        for key in at:
            data = data[key]
        if not isinstance(data, dict):
            found = f"{self.where(at)} is empty" if data is None and not at else None
            message = f"{self._label(at)}: expected settings, got {_shown(data)}"
            raise ConfigError(found or message, hint=f"write one of: {_listed(cls.model_fields)}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise self._explained(cls, at, data, error) from None

    def _label(self, path: KeyPath) -> str:
        place, key = self.where(path), _dotted(path)
        return f"{place}: {key}" if key and not place.endswith(f" {key}") else place

    def _explained(
        self, cls: type[Settings], at: KeyPath, data: Any, error: ValidationError
    ) -> ConfigError:
        groups = _grouped(data, typing.cast("list[dict[str, Any]]", error.errors()))
        order = {path: n for n, path in enumerate(self.places)}
        paths = sorted(groups, key=lambda path: order.get((*at, *path), -1))
        said = [_sentence(cls, path, groups[path]) for path in paths]
        messages = []
        for path, (text, _, is_key) in zip(paths, said, strict=True):
            label = self.where((*at, *path)) if is_key else self._label((*at, *path))
            messages.append(f"{label}: {text}")
        more = len(messages) - MAX_ERRORS
        shown = messages[:MAX_ERRORS] + ([f"and {more} more"] if more > 0 else [])
        hints = dict.fromkeys(hint for _, hint, _ in said[:MAX_ERRORS] if hint)
        return ConfigError("; ".join(shown), hint="; ".join(hints) or None)


# Reading ----------------------------------------------------------------------------------------


def read_yaml(path: Path | Traversable, name: str | None = None) -> Document:
    """Read a YAML file; raise ConfigError that names it as `name`, or by its path."""
    name = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(yaml_text.MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"no such file: {name}", hint=_neighbour(path)) from None
    except IsADirectoryError:
        raise ConfigError(f"{name} is a directory", hint="give a YAML file") from None
    except OSError as error:
        raise ConfigError(f"can't read {name}: {error.strerror or error}") from None
    try:
        return parse_yaml(raw.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        if len(raw) > yaml_text.MAX_BYTES:
            raise ConfigError(f"{name} is larger than the limit of 1 MB for settings") from None
        raise ConfigError(
            f"{name} is not valid UTF-8 at byte {error.start:,}", hint="save it as UTF-8"
        ) from None


def parse_yaml(text: str, name: str) -> Document:
    """Read YAML text; `name` stands for it in messages."""
    parsed = yaml_text.parse(text, name)
    places = {path: f"{name}:{line}" for path, line in parsed.lines.items()}
    return Document(name, parsed.data, places, parsed.notes)


def home() -> Path:
    """Return the folder of configuration, downloaded models and history; it may not exist yet."""
    if folder := os.environ.get("GPTKIT_HOME"):
        return Path(folder)
    import typer

    return Path(typer.get_app_dir("gptkit"))


def data_folder() -> Path | None:
    """Return the folder of corpora and checkpoints for recipes and tests, where there is one."""
    folder = os.environ.get("GPTKIT_DATA")
    return Path(folder) if folder else None


def _neighbour(path: Path | Traversable) -> str | None:
    if not isinstance(path, Path) or not path.parent.is_dir():
        return None
    return did_you_mean(path.name, sorted(entry.name for entry in path.parent.iterdir()))


def _with(data: Any, keys: list[str], value: Any, option: str) -> tuple[KeyPath, Any]:
    """Return the path that `keys` mean in `data`, and a copy of `data` that has `value` there."""
    if not keys:
        return (), value
    key, *rest = keys
    if isinstance(data, list):
        if not key.isdecimal() or int(key) >= len(data):
            raise ConfigError(f"{option}: '{key}' is no item of a list of {len(data)}")
        path, new = _with(data[int(key)], rest, value, option)
        return (int(key), *path), [*data[: int(key)], new, *data[int(key) + 1 :]]
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{option}: there is {_shown(data)}, which has no key '{key}'")
    path, new = _with(data.get(key), rest, value, option)
    return (key, *path), {**data, key: new}


# Sentences for what pydantic finds --------------------------------------------------------------

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping",
    "model_type": "settings",
    "tuple_type": "a list",
    "list_type": "a list",
    "path_type": "a path",
    "none_required": "nothing",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "below"),
    "greater_than": ("gt", "not above"),
    "less_than_equal": ("le", "above"),
    "less_than": ("lt", "not below"),
}
Said = tuple[str, str | None, bool]
"""A sentence, its hint, and whether it names its key itself."""


def _grouped(data: Any, errors: list[dict[str, Any]]) -> dict[KeyPath, list[dict[str, Any]]]:
    """Group errors by path in the data; the members of a union all speak of one value."""
    groups: dict[KeyPath, list[dict[str, Any]]] = {}
    for error in errors:
        path: list[str | int] = []
        here = data
        for key in error["loc"]:
            if isinstance(here, dict) and key in here or _is_index(here, key):
                here = here[key]
            elif error["type"] != "missing" or key != error["loc"][-1]:
                continue  # the name of a union's member, or of a validator
            path.append(key)
        groups.setdefault(tuple(path), []).append(error)
    deeper = {path[:end] for path in groups for end in range(len(path))}
    # Where one member of a union got further, what the others say of its type is noise.
    return {
        path: found
        for path, found in groups.items()
        if path not in deeper or any(_wanted(error) is None for error in found)
    }


def _is_index(here: Any, key: str | int) -> bool:
    return isinstance(here, (list, tuple)) and isinstance(key, int) and key < len(here)


def _sentence(cls: type[Settings], path: KeyPath, errors: list[dict[str, Any]]) -> Said:
    wanted = list(dict.fromkeys(filter(None, map(_wanted, errors))))
    if len(wanted) == len(errors) or len(wanted) > 1:
        choices = [word for error in errors for word in _choices(error)]
        value = errors[0]["input"]
        if errors[0]["loc"][-1:] == ("[key]",):
            return f"the key must be {_or(wanted)}, got {_shown(value)}", "quote the key", False
        near = did_you_mean(value, choices) if isinstance(value, str) else None
        return f"expected {_or(wanted)}, got {_shown(value)}", near, False
    error = next(error for error in errors if _wanted(error) is None)
    return _special(cls, path, error)


def _special(cls: type[Settings], path: KeyPath, error: dict[str, Any]) -> Said:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return f"'{_dotted(path)}' is missing", None, True
    if kind == "extra_forbidden":
        known = _keys_at(cls, path[:-1])
        near = did_you_mean(str(path[-1]), known)
        return (
            f"unknown key '{yaml_text.brief(str(path[-1]))}'",
            near or f"known keys: {_listed(known)}",
            True,
        )
    if kind in _BOUNDS:
        bound, word = _BOUNDS[kind]
        return f"{_shown(value)} is {word} {_number(context[bound])}", None, False
    if kind in ("value_error", "assertion_error"):
        return str(context["error"]), None, False
    if kind in ("string_too_short", "too_short") and context["min_length"] == 1:
        return "must not be empty", None, False
    for limit, word in (("min_length", "shorter"), ("max_length", "longer")):
        if limit in context:
            return f"is {word} than {context[limit]:,}", None, False
    if kind == "string_pattern_mismatch":
        return f"{_shown(value)} is not of the form {context['pattern']}", None, False
    return f"{_shown(value)} is not allowed", None, False


def _wanted(error: dict[str, Any]) -> str | None:
    """Return what a type error wanted instead, or None for an error of another kind."""
    if error["type"] == "literal_error":
        return _or(_choices(error))
    return _WANTED.get(error["type"])


def _choices(error: dict[str, Any]) -> list[str]:
    if error["type"] != "literal_error":
        return []
    return [word.strip("'") for word in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]


def _or(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _shown(value: Any) -> str:
    """Return a value as a message names it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, str):
        return f"text {json.dumps(yaml_text.brief(value), ensure_ascii=False)}"
    return "a mapping" if isinstance(value, dict) else "a list"


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**20 else "a very large number"
    return f"{value:.12g}" if value % 1 or abs(value) >= 10**12 else f"{value:.1f}"


def _dotted(path: Iterable[str | int]) -> str:
    """Write a path as `sampling.chain[0]`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return yaml_text.brief(text.removeprefix("."))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _keys_at(cls: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that settings inside `cls` know at `path`."""
    models = [cls]
    for key in path:
        if isinstance(key, str) and any(key in model.model_fields for model in models):
            found = [model.model_fields[key] for model in models if key in model.model_fields]
            models = [inner for field in found for inner in _models_in(field.annotation)]
    return [key for model in models for key in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]
