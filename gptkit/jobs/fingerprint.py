"""All that decides what a row's answer is, by name, so that two jobs can be told apart in words.

Outside of it stand a job's inputs, which are compared row by row, and what changes no answer: the
output's path, the size of a batch, names and places of files. No torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit import __version__
from gptkit.checkpoints import hashes
from gptkit.checkpoints.formats.huggingface import TOKENIZERS
from gptkit.decoding.request import resolve_stops
from gptkit.plugin_api import ChatTemplate
from gptkit.plugin_host import OURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.decoding.request import Chain
    from gptkit.jobs.job import Cell, Job
    from gptkit.plugin_api import Segment, Template
    from gptkit.plugin_host import Registry

Fingerprint = dict[str, Any]
_UNSET = object()
_SHOWN = 32
"""Characters of a value that a difference shows."""


def fingerprint(job: Job, tokenizer: str | None = None) -> Fingerprint:
    """Return the fingerprint of a job; `tokenizer` is what stands in the place of the models' own.

    Raise CheckpointError where a model's file can't be read.
    """
    weights = {id(source): _weights(source) for source in _sources(job)}
    found = {
        "gptkit": major_version(__version__),
        "task": job.task,
        "n": job.n,
        "logprobs": job.logprobs,
        "on_overflow": job.on_overflow,
        "keep": list(job.keep),
        "plugins": _plugins(job, tokenizer),
        "cells": [
            {
                "label": dict(cell.label),
                "model": {"name": cell.source.path.name, "sha256": weights[id(cell.source)]},
                "config": cell.source.config.model_dump(mode="json"),
                "eos_ids": list(cell.source.eos_ids),
                "bos_id": cell.source.bos_id,
                "tokenizer": _tokenizer(cell.source, tokenizer),
                "template": _template(cell.template),
                "system": cell.system,
                "examples": _examples(cell),
                "fields": dict(cell.columns),
                "chain": _chain(cell.chain),
                "method": {name: str(choice) for name, choice in cell.method.named.items()},
                "stop": _stop(cell, job.registry),
                "seed": cell.seed,
            }
            for cell in job.cells
        ],
    }
    made: Fingerprint = json.loads(json.dumps(found, default=str))  # as a file gives it back
    return made


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what differs between two fingerprints, each as `name old -> new`."""
    labels = [[_label(cell) for cell in one.get("cells", ())] for one in (old, new)]
    if labels[0] != labels[1]:
        return [f"cells {_shown(labels[0])} -> {_shown(labels[1])}"]
    rest = [{key: value for key, value in one.items() if key != "cells"} for one in (old, new)]
    found = [_said(*one) for one in _pairs(*rest)]
    by_cell: dict[str, list[str]] = {}
    for label, before, after in zip(
        labels[0], old.get("cells", ()), new.get("cells", ()), strict=True
    ):
        for one in _pairs(before, after):
            by_cell.setdefault(_said(*one), []).append(label)
    for said, where in by_cell.items():
        everywhere = len(where) == len(labels[0])
        found += [said] if everywhere else [f"{said} ({label})" for label in where]
    return found


def major_version(version: str) -> str:
    """Return the part of a version that changes when answers may: before 1.0 the first two."""
    parts = version.split(".")
    return ".".join(parts[:2] if parts[0] == "0" else parts[:1])


# The parts ------------------------------------------------------------------------------------


def _sources(job: Job) -> Iterable[Checkpoint]:
    return {id(cell.source): cell.source for cell in job.cells}.values()


def _weights(source: Checkpoint) -> str:
    """Return a digest of a model's weights, whatever its files are called."""
    digests = sorted(hashes.of_file(file.path) for file in source.files)
    return digests[0] if len(digests) == 1 else hashes.of_data(digests)


def _tokenizer(source: Checkpoint, given: str | None) -> dict[str, str]:
    if given is None:
        name, path = source.tokenizer_name or "", source.tokenizer_path
    else:
        name, _, place = given.partition(":")
        path = Path(place) if place else None
    found = {"name": name}
    if path is not None and path.exists():
        found["sha256"] = _tokenizer_digest(path)
    return found


def _tokenizer_digest(path: Path) -> str:
    if not path.is_dir():
        return hashes.of_file(path)
    # A folder of Hugging Face's is a whole model; who writes into it changes no tokenizer.
    known = [path / name for names in TOKENIZERS for name in names if (path / name).is_file()]
    return hashes.of_files(known or (p for p in path.rglob("*") if p.is_file()), path)


def _template(template: Template | ChatTemplate) -> str:
    """Return what a template makes of fields that are called by their names."""
    if isinstance(template, ChatTemplate):
        parts = [
            template.head("$system"),
            template.turn("user", "$user"),
            template.turn("assistant", "$assistant"),
            template.reply(),
            template.stops,
        ]
    else:
        fields = {name: f"${name}" for name in sorted({*template.inputs, template.output})}
        parts = [template.head(), template.example(fields), template.item(fields), template.stops]
    return "|".join(_text(part) for part in parts)


def _text(segments: Iterable[Segment]) -> str:
    return "".join(f"<{one.text}>" if one.control else one.text for one in segments)


def _examples(cell: Cell) -> dict[str, Any]:
    chosen = cell.examples
    return {
        "number": len(chosen.pool),
        "sha256": hashes.of_data([dict(example) for example in chosen.pool]),
        "k": chosen.k,
        "nearest": chosen.index is not None,
    }


def _chain(chain: Chain) -> list[dict[str, Any]]:
    return [
        {
            "label": stage.label,
            "sampler": stage.sampler.name,
            "values": {key: _value(value) for key, value in stage.values.items()},
        }
        for stage in chain
    ]


def _stop(cell: Cell, registry: Registry) -> dict[str, Any]:
    stops = resolve_stops(cell.stop, registry)
    return {
        "max_new_tokens": stops.max_new_tokens,
        "max_time_s": stops.max_time_s,
        "ignore_eos": stops.ignore_eos,
        **{
            one.criterion.name: {key: _value(value) for key, value in one.values.items()}
            for one in stops.criteria
        },
    }


def _value(value: Any) -> Any:
    """Return a parameter's value; a text that names a file stands for what is in the file."""
    if isinstance(value, str) and 0 < len(value) < 1000:
        try:
            if Path(value).is_file():
                return f"file of sha256 {hashes.of_file(Path(value))}"
        except (OSError, ValueError):  # too long for a name, or with a character that none has
            pass
    return list(value) if isinstance(value, tuple) else value


def _plugins(job: Job, tokenizer: str | None) -> dict[str, str]:
    """Return the versions of the plugins that have a part in the job, but for our own.

    A local file has no version, so it has its digest.
    """
    used: set[int] = set()
    names: set[str] = set()
    for cell in job.cells:
        used |= {id(stage.sampler) for stage in cell.chain}
        used |= {id(choice.plugin) for choice in cell.method.named.values()}
        used |= {id(one.criterion) for one in resolve_stops(cell.stop, job.registry).criteria}
        used.add(id(type(cell.template)))
        names.add(tokenizer.partition(":")[0] if tokenizer else cell.source.tokenizer_name or "")
    used |= {
        id(job.registry.find("tokenizer", name).value)
        for name in names
        if name.rpartition("/")[2] in job.registry.names("tokenizer")
    }
    found = {}
    for offer in job.registry.offers():
        source = offer.source
        if id(offer.value) in used and source.distribution != OURS:
            is_file = source.distribution == source.module
            path = Path(source.module)
            found[path.name if is_file else source.distribution] = (
                f"sha256 {hashes.of_file(path)}" if is_file else source.version
            )
    return dict(sorted(found.items()))


# Differences ----------------------------------------------------------------------------------


def _label(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis}={name}" for axis, name in cell["label"].items())


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old value and new value of all that differs."""
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key, _UNSET), new.get(key, _UNSET)
        if before == after or key == "label":
            continue
        if key == "model":
            if before["sha256"] != after["sha256"]:
                yield key, _model(before), _model(after)
        elif key == "chain":
            yield from _chain_pairs(before, after)
        elif isinstance(before, dict) and isinstance(after, dict):
            prefix = "" if key == "stop" else f"{key}."
            for name, *values in _pairs(before, after):
                yield prefix + name, *values
        else:
            yield key, before, after


def _model(said: Mapping[str, str]) -> str:
    return f"{said['name']} ({said['sha256'][:8]})"


def _chain_pairs(
    old: list[dict[str, Any]], new: list[dict[str, Any]]
) -> Iterator[tuple[str, Any, Any]]:
    names = [[(stage["label"], stage["sampler"]) for stage in chain] for chain in (old, new)]
    if names[0] != names[1]:
        before, after = (" ".join(label for label, _ in one) for one in names)
        yield "chain", before, after
        return
    for stage, changed in zip(old, new, strict=True):
        label, first = stage["label"], next(iter(stage["values"]), None)
        for key, one, other in _pairs(stage["values"], changed["values"]):
            yield label if key == first else f"{label}.{key}", one, other


def _said(name: str, old: Any, new: Any) -> str:
    a, b = _plain(old), _plain(new)
    if max(len(a), len(b)) > _SHOWN:
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
        start = max(0, same - _SHOWN // 4)
        a, b = (_cut(text, start) for text in (a, b))
    return f"{name} {a} -> {b}"


def _cut(text: str, start: int) -> str:
    piece = text[start : start + _SHOWN]
    return ("..." if start else "") + piece + ("..." if start + _SHOWN < len(text) else "")


def _shown(labels: list[str]) -> str:
    return "; ".join(label or "one" for label in labels[:4]) + ("; ..." if labels[4:] else "")


def _plain(value: Any) -> str:
    if value is _UNSET:
        return "unset"
    if value is None:
        return "none"
    if isinstance(value, str) and value and not set(value) & set("\r\n\t"):
        return value
    return json.dumps(value, ensure_ascii=False)
