"""Where a chain comes from before `-s` changes it: a preset, a file or a `sampling` block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gptkit.config import read_yaml
from gptkit.decoding.presets import PRESETS, find_preset
from gptkit.decoding.request import SamplingSettings, parse_stage, resolve_chain
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gptkit.config import Document, KeyPath
    from gptkit.decoding.request import Chain, Item
    from gptkit.plugin_host import Registry

FILE_MARK = "@"


@dataclass(frozen=True, slots=True)
class ChainSource:
    """A whole chain, and what messages call it: `preset hf`, or the name of a file."""

    name: str
    chain: Chain

    def said_of(self, chain: Chain) -> str:
        """Say in one line what it comes to, once it is changed to `chain`."""
        return f"{self.name}: {' '.join(stage.brief for stage in chain)}"


def from_preset(name: str, registry: Registry) -> ChainSource:
    """Return the chain of a preset; raise UnknownName where there is none."""
    return ChainSource(f"preset {name}", resolve_chain(find_preset(name).chain, registry))


def from_block(
    block: SamplingSettings, document: Document, registry: Registry, *, at: KeyPath = ()
) -> ChainSource | None:
    """Return the chain of a `sampling` block, which stands at `at`; None where it names none."""
    if block.preset is not None:
        with document.locating(*at, "preset"):
            return from_preset(block.preset, registry)
    if block.chain is None:
        return None
    with document.locating(*at, "chain"):
        return ChainSource(document.name, resolve_chain(block.chain, registry))


def from_file(path: Path, registry: Registry) -> ChainSource:
    """Return the chain of a YAML file: its `sampling` block, as in a job, or all of it."""
    document = read_yaml(path)
    in_job = isinstance(document.data, dict) and "sampling" in document.data
    at: KeyPath = ("sampling",) if in_job else ()
    source = from_block(document.build(SamplingSettings, at=at), document, registry, at=at)
    if source is None:
        raise ConfigError(f"{document.where(at)} names no chain", hint="add 'chain:' or 'preset:'")
    return ChainSource(path.name, source.chain)


def from_name(name: str, registry: Registry) -> ChainSource:
    """Return the chain of a file, or of a preset of that name."""
    if name in PRESETS and not Path(name).is_file():
        return from_preset(name, registry)
    if Path(name).suffix in (".yaml", ".yml") or Path(name).exists():
        return from_file(Path(name), registry)
    return from_preset(name, registry)


def given(
    stages: Sequence[str], preset: str | None, registry: Registry
) -> tuple[ChainSource | None, list[Item]]:
    """Return the whole chain that --preset or `-s @FILE` names, if any, and what changes it."""
    files = [stage for stage in stages if stage.startswith(FILE_MARK)]
    items = [parse_stage(stage) for stage in stages if stage not in files]
    if len(files) > 1:
        raise ConfigError(
            f"-s {files[0]} and -s {files[1]} are both a whole chain", hint="keep one"
        )
    if files and preset is not None:
        raise ConfigError(f"--preset and -s {files[0]} are both a whole chain", hint="keep one")
    if files and stages[0] != files[0]:
        raise ConfigError(
            f"-s {files[0]} comes behind another stage",
            hint="put it first: what follows changes its chain",
        )
    if files:
        path = files[0].removeprefix(FILE_MARK)
        if not path:
            raise ConfigError("-s @ names no file", hint="write -s @FILE.yaml")
        return from_file(Path(path).expanduser(), registry), items
    return (None if preset is None else from_preset(preset, registry)), items
