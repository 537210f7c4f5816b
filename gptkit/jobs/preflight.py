"""A job file, the command line over it and the files it names -> a checked job. No torch.

All that can be wrong without the model is found here, before a model loads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit import assembly
from gptkit.config import read_yaml
from gptkit.decoding import chain_source
from gptkit.decoding.method import Method, resolve_method
from gptkit.decoding.request import add_stop, random_seed, resolve_chain, resolve_stops
from gptkit.errors import ConfigError, did_you_mean
from gptkit.jobs.examples import examples_path, read_examples
from gptkit.jobs.job import Cell, Job, wanted
from gptkit.jobs.rows import Scan, check_input, check_output, scan
from gptkit.jobs.spec import JobSettings
from gptkit.plugin_api import ChatTemplate, Template
from gptkit.text.template import from_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.config import Document
    from gptkit.decoding.chain_source import ChainSource
    from gptkit.decoding.request import Chain, Item
    from gptkit.plugin_host import Registry


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says over the job file; its paths are from the working directory.

    `stages` change stages of the file's chain, or of a `whole_chain` instead of it, in their place
    or join it; `shorthands` change them. The strings of `stop` join those of the file, everything
    else in it replaces.
    """

    model: str | None = None
    inputs: Path | None = None
    outputs: Path | None = None
    whole_chain: ChainSource | None = None
    stages: tuple[Item, ...] = ()
    shorthands: Mapping[str, str] = field(default_factory=dict)
    method: Method | None = None
    seed: int | None = None
    stop: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    on_overflow: str | None = None


def prepare(
    path: Path, registry: Registry, given: Given | None = None, assignments: Iterable[str] = ()
) -> Job:
    """Read and check a job; raise the first error that makes it impossible.

    `assignments` are `a.b=VALUE`, each of which sets a key of the file.
    """
    given = given or Given()
    document = read_yaml(path)
    for assignment in assignments:
        document = document.set(assignment)
    settings = document.build(JobSettings)
    block = chain_source.from_block(settings.sampling, document, registry, at=("sampling",))
    whole = given.whole_chain or block
    chain = _chain(whole, given, registry)
    method = given.method or Method()
    if not method.named:
        with document.locating("sampling"):
            method = resolve_method(
                settings.sampling.speculate, settings.sampling.strategy, registry
            )
    stop = _stop(settings, document, given, registry)
    template = _template(settings, document, registry)
    columns = _columns(settings, document, template)
    apart = examples_path(settings, path.parent)
    examples: tuple[Mapping[str, str], ...] = ()
    if isinstance(template, Template):
        examples = read_examples(settings, document, template, path.parent)
    inputs = given.inputs or path.parent / settings.inputs
    outputs = given.outputs or Path(settings.outputs)
    check_input(inputs)
    check_output(outputs, [path, inputs, *([apart] if apart else [])])
    found = _scan(inputs, wanted(template), columns, settings)
    source = assembly.open_model(given.model or settings.model)
    notes = document.notes
    if whole and (whole is not block or settings.sampling.preset):
        notes = (*notes, whole.said_of(chain))
    if not chain:
        chain = resolve_chain(source.sampling or (), registry)
        if source.sampling:
            said = " ".join(map(str, chain))
            notes = (*notes, f"sampling as {source.path.name} recommends: {said}")
    seed = given.seed if given.seed is not None else settings.sampling.seed
    cell = Cell(
        label={},
        source=source,
        template=template,
        system=settings.system,
        examples=examples,
        columns=columns,
        chain=chain,
        method=method,
        stop=stop,
        room=_room(stop, source, registry),
        seed=random_seed() if seed is None else seed,
    )
    return Job(
        cells=(cell,),
        inputs=inputs,
        outputs=outputs,
        on_overflow=given.on_overflow or settings.on_overflow,
        batch_size=given.batch_size or settings.batch_size,
        scan=found,
        registry=registry,
        notes=notes,
    )


# What the parts of a job file come to ---------------------------------------------------------


def _chain(whole: ChainSource | None, given: Given, registry: Registry) -> Chain:
    """Return the whole chain with -s over it, or that of -s alone; empty where neither is."""
    if whole is None and not given.stages and not given.shorthands:
        return ()
    base = whole.chain if whole else None
    return resolve_chain(given.stages, registry, base=base, shorthands=given.shorthands)


def _stop(
    settings: JobSettings, document: Document, given: Given, registry: Registry
) -> dict[str, Any]:
    with document.locating("stop"):
        resolve_stops(settings.stop, registry)
    resolve_stops(given.stop, registry)
    stop = {**settings.stop, **given.stop}
    if "strings" in given.stop and "strings" in settings.stop:
        joined = add_stop(settings.stop, "strings", given.stop["strings"])
        stop["strings"] = joined["strings"]
    return stop


def _room(stop: Mapping[str, Any], source: Checkpoint, registry: Registry) -> int:
    """Return how many tokens a prompt may have, so that the longest answer still fits."""
    new, context = resolve_stops(stop, registry).max_new_tokens, source.config.block_size
    if new >= context:
        raise ConfigError(
            f"max_new_tokens: {new:,} leaves no room for a prompt in the model's context "
            f"of {context:,}",
            hint="ask for fewer",
        )
    return context - new


def _template(
    settings: JobSettings, document: Document, registry: Registry
) -> Template | ChatTemplate:
    template: Template | ChatTemplate
    if isinstance(settings.template, dict):
        template = from_document(document, document.name, at=("template",))
    else:
        with document.locating("template"):
            template = assembly.template(settings.template, registry)
    if isinstance(template, ChatTemplate):
        if settings.examples:
            raise ConfigError(
                f"{document.where(('examples',))}: a chat template takes no examples",
                hint="choose a few-shot template",
            )
    elif settings.system is not None:
        raise ConfigError(
            f"{document.where(('system',))}: only a chat template takes 'system'",
            hint="write it as the template's instruction",
        )
    return template


def _columns(
    settings: JobSettings, document: Document, template: Template | ChatTemplate
) -> dict[str, str]:
    known = wanted(template) | ({template.output} if isinstance(template, Template) else set())
    for name in settings.fields:
        if name not in known:
            raise ConfigError(
                f"{document.where(('fields', name))}: the template has no ${name}; "
                f"it has: {', '.join(sorted(known))}",
                hint=did_you_mean(name, known),
            )
    return dict(settings.fields)


def _scan(
    inputs: Path, fields: frozenset[str], columns: Mapping[str, str], settings: JobSettings
) -> Scan:
    names = {columns.get(name, name) for name in fields}
    found = scan(inputs, names, refuse_bad=settings.on_bad_row == "refuse")
    missing = sorted(names - found.seen)
    if missing and found.fields:
        raise ConfigError(
            f"template uses {', '.join(f'${name}' for name in missing)}; "
            f"input has: {', '.join(found.fields[:10])}",
            hint=did_you_mean(missing[0], found.fields)
            or "name the input's own: `fields: {TEMPLATE_FIELD: INPUT_FIELD}`",
        )
    return found
