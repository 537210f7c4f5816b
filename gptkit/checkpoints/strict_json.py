"""JSON that came with a model, read as data: no key twice, no NaN, limits on size and depth.

Every error names the file, and the line where there is one.
"""

from __future__ import annotations

import json
import re
from typing import Any

from gptkit.errors import CheckpointError

MAX_DEPTH = 64
MAX_NESTED = 400_000
"""Lists and objects in one file; ten million bytes of `[],` would take 250 MB."""
_KEY = re.compile(r'"(\w+)"\s*:')


class _Twice(ValueError):
    """A key stands twice in one object."""


def parse(data: bytes, name: str, *, key_is: str = "key") -> dict[str, Any]:
    """Return the object that `data` holds; raise CheckpointError naming `name` and the line.

    `key_is` is what a key of the object stands for, in the message about one that is repeated.
    """
    # Brackets inside texts count too, but no model's file has that many.
    n_nested = data.count(b"[") + data.count(b"{")
    if n_nested > MAX_NESTED:
        raise CheckpointError(
            f"{name}: {n_nested:,} lists and objects; the limit is {MAX_NESTED:,}"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} is not UTF-8 text (byte {error.start:,})") from None
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except _Twice as error:
        key = str(error)
        where = _second(name, text, key)
        raise CheckpointError(f"{where}: {key_is} '{shown(key)}' is given twice") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{name}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise CheckpointError(f"{name} is nested too deeply; the limit is {MAX_DEPTH}") from None
    except ValueError as error:  # a number with too many digits, NaN, Infinity
        raise CheckpointError(f"{name}: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} holds {kind(value)}, not an object {{...}}")
    _check_depth(value, name)
    return value


def key_lines(data: bytes) -> dict[str, int]:
    """Return the line on which each plain key first stands in the text of an object."""
    lines: dict[str, int] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), start=1):
        for key in _KEY.findall(line):
            lines.setdefault(key, number)
    return lines


def kind(value: Any) -> str:
    """Name the type of a JSON value in words."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    names = {int: "a whole number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")


def shown(text: str, limit: int = 100) -> str:
    """Return text from a file as a message may quote it: one line, not too long."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Twice(key)
            seen.add(key)
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")


def _second(name: str, text: str, key: str) -> str:
    """Return `name:line` of the second place where `key` stands as a key."""
    places = [m.start() for m in re.finditer(re.escape(json.dumps(key)) + r"\s*:", text)]
    return f"{name}:{text.count(chr(10), 0, places[1]) + 1}" if len(places) > 1 else name


def _check_depth(value: Any, name: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise CheckpointError(f"{name} is nested too deeply; the limit is {MAX_DEPTH}")
