"""YAML text -> plain data, and where each key stands. Hostile text is refused before it costs much.

YAML 1.2 of the plain kind: mappings, lists, text, numbers, true and false. ruamel.yaml reads the
text into events; the data is built from them here, under limits, so that nothing is ever made that
was not checked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
"""Keys and values, with what aliases stand for counted in full."""
MAX_DEPTH = 64

Path = tuple[str | int, ...]
Lines = dict[Path, int]

_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CUT = re.compile(" #")
_CORE = "tag:yaml.org,2002:"
_SAID = (  # what the parser says, what we say of it, and the hint
    ("mapping values are not allowed", "a second ': ' in one line", "quote the text"),
    (r"'\t' that cannot start", "a tab where a value begins", "use spaces, or quote the text"),
    (
        "expected <block end>",
        "this does not line up with what is above it",
        "check the indentation",
    ),
    (
        "could not find expected ':'",
        "a key without ': '",
        "check the indentation, or quote the text",
    ),
    ("that cannot start any token", "this character can't begin a text", "quote the text"),
    (
        "expected ',' or",
        "a '[' or '{' that is not closed before this",
        "close it, or quote the text",
    ),
    ("unexpected end of stream", "a quote that is never closed", "close it before the end"),
    (
        "unknown escape character",
        "an unknown escape after a backslash",
        "write \\\\ for a backslash",
    ),
    ("expected alphabetic or numeric", "'*', '&' or '%' without a name", "quote the text"),
    ("expected the node content", "a value is missing here", "quote the text if it is one"),
    ("undefined tag handle", "a tag, which is not allowed", "quote the text"),
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """Plain data, the line of each key and item, and notes on what was perhaps not meant."""

    data: Any
    lines: Lines
    notes: tuple[str, ...]


def parse(text: str, name: str) -> Parsed:
    """Return what the one document in `text` holds; raise ConfigError that names place and rule."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    _check_characters(text, name)
    reader = _Reader(YAML(typ="safe", pure=True), text, name)
    try:
        data = reader.document()
    except MarkedYAMLError as error:
        raise _explained(error, name) from None
    except YAMLError as error:
        raise ConfigError(f"{name}: not readable as YAML ({type(error).__name__})") from None
    return Parsed(data, reader.lines, tuple(reader.notes))


def _check_characters(text: str, name: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"{name} is larger than the limit of 1 MB for settings")
    if bad := _NOT_YAML.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        code = ord(bad.group())
        escape = f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
        raise ConfigError(
            f"{name}:{line}:{column}: the character U+{code:04X} is not allowed in YAML",
            hint=f'write "{escape}" in double quotes' if code < 0xD800 else None,
        )


def _explained(error: Any, name: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    problem = " ".join(str(error.problem or error.context).split())
    for theirs, ours, hint in _SAID:
        if theirs in problem:
            return ConfigError(f"{place}: {ours}", hint=hint)
    return ConfigError(f"{place}: {brief(problem)}", hint="quote the text if it is one")


@dataclass(frozen=True, slots=True)
class _Anchor:
    data: Any
    size: int
    height: int


class _Reader:
    """Builds the data of one document from parser events, depth first."""

    def __init__(self, yaml: Any, text: str, name: str) -> None:
        self.name = name
        self.text = text.splitlines()
        self.lines: Lines = {}
        self.notes: list[str] = []
        self._yaml = yaml
        self._events: Iterator[Any] = yaml.parse(text)
        self._anchors: dict[str, _Anchor | None] = {}
        self._size = 0  # nodes so far

    def document(self) -> Any:
        self._next()  # the start of the stream
        start = self._next()
        if _kind(start) == "StreamEnd":
            return None
        self._check_directives(start)
        data, _ = self._node(self._next(), (), 0)
        self._next()  # the end of the document
        following = self._next()
        if _kind(following) != "StreamEnd":
            raise self._error(following, "a second document begins here; a file holds one")
        return data

    def _next(self) -> Any:
        return next(self._events)

    def _error(self, event: Any, message: str, hint: str | None = None) -> ConfigError:
        return ConfigError(f"{self.name}:{event.start_mark.line + 1}: {message}", hint=hint)

    def _check_directives(self, start: Any) -> None:
        found = "%YAML" if start.version else "%TAG" if start.tags else None
        if found:
            line = next(n for n, line in enumerate(self.text, 1) if line.startswith(found))
            raise ConfigError(
                f"{self.name}:{line}: the directive {found} is not allowed", hint="remove it"
            )

    def _node(self, event: Any, path: Path, depth: int) -> tuple[Any, int]:
        """Return the data that begins with `event`, and how many levels it has."""
        self._count(event, 1)
        kind = _kind(event)
        if kind == "Alias":
            return self._alias(event, depth)
        tag = str(event.tag) if event.tag else ""
        if tag:
            shown = brief(f"!!{tag[len(_CORE) :]}" if tag.startswith(_CORE) else tag)
            raise self._error(
                event, f"tag '{shown}' is not allowed", "remove it, or quote the text"
            )
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested deeper than the limit of {MAX_DEPTH} levels")
        before = self._size
        if event.anchor:
            self._anchors[event.anchor] = None
        data, height = self._content(event, kind, path, depth)
        if event.anchor:
            self._anchors[event.anchor] = _Anchor(data, self._size - before, height)
        return data, height

    def _content(self, event: Any, kind: str, path: Path, depth: int) -> tuple[Any, int]:
        if kind == "Scalar":
            return self._scalar(event), 0
        if kind == "SequenceStart":
            return self._sequence(path, depth)
        return self._mapping(path, depth)

    def _count(self, event: Any, nodes: int) -> None:
        self._size += nodes
        if self._size > MAX_NODES:
            raise self._error(
                event, f"more than the limit of {MAX_NODES:,} values (aliases counted in full)"
            )

    def _alias(self, event: Any, depth: int) -> tuple[Any, int]:
        if event.anchor not in self._anchors:
            raise self._error(
                event, f"'*{brief(event.anchor)}' stands for nothing before it", "quote the text"
            )
        anchor = self._anchors[event.anchor]
        if anchor is None:
            raise self._error(event, f"'*{brief(event.anchor)}' stands inside what it stands for")
        self._count(event, anchor.size)
        if depth + anchor.height > MAX_DEPTH:
            raise self._error(event, f"nested deeper than the limit of {MAX_DEPTH} levels")
        return anchor.data, anchor.height

    def _sequence(self, path: Path, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        height = 0
        while _kind(event := self._next()) != "SequenceEnd":
            here = (*path, len(items))
            self.lines[here] = event.start_mark.line + 1
            item, levels = self._node(event, here, depth + 1)
            items.append(item)
            height = max(height, levels)
        return items, height + 1

    def _mapping(self, path: Path, depth: int) -> tuple[dict[Any, Any], int]:
        found: dict[Any, Any] = {}
        height = 0
        while _kind(event := self._next()) != "MappingEnd":
            key = self._key(event, path, depth)
            here = (*path, key)
            if key in found:
                said = f"key '{brief(str(key))}' is given twice, first in line {self.lines[here]}"
                raise self._error(event, said)
            self.lines[here] = event.start_mark.line + 1
            found[key], levels = self._node(self._next(), here, depth + 1)
            height = max(height, levels)
        return found, height + 1

    def _key(self, event: Any, path: Path, depth: int) -> str | int:
        if _kind(event) == "Scalar" and event.implicit[0] and event.value == "<<":
            raise self._error(event, "merge keys ('<<') are not allowed", "write the keys out")
        key, _ = self._node(event, path, depth + 1)
        if type(key) not in (str, int):
            raise self._error(event, "a key must be text or a whole number", "quote the key")
        return key  # type: ignore[no-any-return]

    def _scalar(self, event: Any) -> Any:
        from ruamel.yaml.nodes import ScalarNode

        value: str = event.value
        plain = event.implicit[0]
        tag = str(self._yaml.resolver.resolve(ScalarNode, value, (True, False))) if plain else ""
        kind = tag.removeprefix(_CORE)
        if kind == "timestamp":
            raise self._error(event, f"{value} would be a date", f'quote it: "{value}"')
        if kind in ("null", "bool", "int", "float"):
            node = ScalarNode(tag, value, event.start_mark, event.end_mark)
            try:
                return self._yaml.constructor.construct_object(node)
            except ValueError:
                raise self._error(
                    event, f"a number of {len(value):,} characters is too long"
                ) from None
        if plain:
            self._note_cut(event)
        return self._whole(event, value)

    def _note_cut(self, event: Any) -> None:
        """Note where ` #` ends what looks like a sentence: a comment was perhaps not meant."""
        end = event.end_mark
        line = self.text[end.line] if end.line < len(self.text) else ""
        if " " in event.value and _CUT.match(line, end.column):
            self.notes.append(
                f"{self.name}:{end.line + 1}: the text ends before ' #', which begins a comment;"
                " quote the text if '#' belongs to it"
            )

    def _whole(self, event: Any, value: str) -> str:
        """Join surrogate pairs, which JSON writes as two escapes; refuse half of one."""
        if value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value):
            return value
        try:
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            shown = json.dumps(value[:20])
            raise self._error(event, f"half of a surrogate pair in {shown} is no text") from None


def brief(text: str) -> str:
    """Cut a text to what fits into a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")
