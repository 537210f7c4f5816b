"""What the manifest of an output says: how it was made. Any of it may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHOWN_DIGITS = 12


def facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and text of what readers ask first."""
    cells = [cell for cell in _list(_at(manifest, "fingerprint", "cells"))]
    yield from _said("job", _at(manifest, "job", "file"))
    yield from _said("input", _files(_list(_at(manifest, "inputs", "files"))))
    yield from _by_cell("model", [_model(cell) for cell in cells], cells)
    yield from _by_cell("sampling", [_chain(_at(cell, "chain")) for cell in cells], cells)
    yield from _by_cell("seed", [_text(_at(cell, "seed")) for cell in cells], cells)
    most = [_text(_at(cell, "stop", "max_new_tokens")) for cell in cells]
    yield from _by_cell("new tokens at most", most, cells)
    finished = _text(_at(manifest, "last_run", "finished")).replace("T", " ")
    yield from _said("computed", _joined(finished, _where(manifest)))
    yield from _said("time", _time(_at(manifest, "last_run")))
    yield from _said("gptkit", _at(manifest, "gptkit"))
    yield from _said("output", _digest(_at(manifest, "output", "sha256")))


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield all that a JSON value has, each by its dotted path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        for i, inner in enumerate(value):
            yield from flat(inner, f"{path}[{i}]")
    elif isinstance(value, list):
        yield path, ", ".join(map(str, value))
    else:
        yield path, str(value)


def _files(paths: list[Any]) -> str:
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return _text(paths[0]) + more if paths else ""


def _model(cell: Any) -> str:
    return _joined(_at(cell, "model", "name"), _digest(_at(cell, "model", "sha256")))


def _chain(stages: Any) -> str:
    return " ".join(filter(None, map(_stage, _list(stages))))


def _stage(stage: Any) -> str:
    """Write a stage as -s takes it: NAME, NAME=VALUE or NAME:KEY=VALUE,..."""
    label, values = _text(_at(stage, "label")), _at(stage, "values")
    if not isinstance(values, dict) or not values:
        return label
    if len(values) == 1:
        return f"{label}={next(iter(values.values()))}"
    return f"{label}:" + ",".join(f"{key}={value}" for key, value in values.items())


def _where(manifest: Mapping[str, Any]) -> str:
    runtime = _at(manifest, "runtime")
    threads = _at(runtime, "threads")
    parts = [_text(_at(runtime, "device")), ", ".join(map(str, _list(_at(runtime, "dtype"))))]
    if threads is not None:
        parts.append("1 thread" if threads == 1 else f"{threads} threads")
    torch = _text(_at(runtime, "torch"))
    return ", ".join(filter(None, [*parts, f"torch {torch}" if torch else ""]))


def _time(run: Any) -> str:
    load, compute, tokens = (_at(run, key) for key in ("load_s", "compute_s", "new_tokens"))
    if not all(isinstance(one, (int, float)) for one in (load, compute, tokens)):
        return ""
    speed = f", {tokens / compute:,.0f} new tokens a second" if tokens and compute else ""
    return f"{load:,.1f} s to load, {compute:,.1f} s to compute{speed}"


def _by_cell(name: str, texts: list[str], cells: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield what is the same in all cells once, else with the cell before it."""
    if len(set(texts)) == 1:
        yield from _said(name, texts[0])
        return
    for text, cell in zip(texts, cells, strict=True):
        label = _at(cell, "label")
        where = " · ".join(map(str, label.values())) if isinstance(label, dict) else ""
        yield from _said(f"{name}, {where}" if where else name, text)


def _said(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if text := _text(value):
        yield name, text


def _joined(first: Any, second: str) -> str:
    """Return one text in brackets behind another, where both are there."""
    text = _text(first)
    return f"{text} ({second})" if text and second else text or second


def _digest(value: Any) -> str:
    text = _text(value)
    return f"sha256 {text[:SHOWN_DIGITS]}" if text else ""


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, (dict, list)) else str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
