"""A job file, the command line over it and the files it names -> a checked job. No torch.

All that can be wrong without the model is found here, before a model loads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit import assembly
from gptkit.config import read_yaml
from gptkit.decoding import chain_source
from gptkit.decoding.method import Method, resolve_method
from gptkit.decoding.request import (
    add_stop,
    is_greedy,
    random_seed,
    resolve_chain,
    resolve_stops,
)
from gptkit.errors import ConfigError, did_you_mean
from gptkit.jobs import matrix, score, storage
from gptkit.jobs.examples import examples_files
from gptkit.jobs.job import Cell, Job
from gptkit.jobs.readers import open_inputs
from gptkit.jobs.resume import drawn_seed
from gptkit.jobs.scan import scan
from gptkit.jobs.spec import JobSettings
from gptkit.jobs.templates import read_templates
from gptkit.jobs.writers import check_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.config import Document
    from gptkit.decoding.chain_source import ChainSource
    from gptkit.decoding.request import Chain, Item
    from gptkit.jobs.readers import Inputs
    from gptkit.jobs.scan import Scan
    from gptkit.jobs.storage import Remote
    from gptkit.plugin_host import Registry


OPTIONS = {"strings": "stop", "max_new_tokens": "max-new-tokens"}
"""The options for keys of a `stop` block; --stop-when is for all others."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says over the job file; its paths are from the working directory.

    `stages` change stages of the file's chain, or of a `whole_chain` instead of it, in their place
    or join it; `shorthands` change them. The strings of `stop` join those of the file, everything
    else in it replaces. `no_resume` allows inputs that can be read only once.
    """

    model: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: Path | None = None
    whole_chain: ChainSource | None = None
    stages: tuple[Item, ...] = ()
    shorthands: Mapping[str, str] = field(default_factory=dict)
    method: Method | None = None
    seed: int | None = None
    stop: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    on_overflow: str | None = None
    restart: bool = False
    no_resume: bool = False

    @property
    def axes(self) -> dict[str, str]:
        """The axes of a matrix that an option says too, with that option."""
        found = {}
        if self.model is not None:
            found["model"] = "--model"
        if self.whole_chain is not None:
            found["sampler"] = self.whole_chain.name
        elif self.stages or self.shorthands:
            name = next(iter(self.shorthands), "").replace("_", "-")
            found["sampler"] = "-s" if self.stages else f"--{name}"
        if self.seed is not None:
            found["seed"] = "--seed"
        return found

    @property
    def writing(self) -> list[str]:
        """The options given that say how an answer is written."""
        found = [self.axes["sampler"]] if "sampler" in self.axes else []
        if self.method is not None:
            found += [f"--{name}" for name in self.method.named]
        return found + [f"--{OPTIONS.get(key, 'stop-when')}" for key in self.stop]


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
    axes = matrix.axes(settings, document, given.axes)
    chains = _chains(settings, document, axes.get("sampler"), given, registry, path.parent)
    method = _method(settings, document, given, registry)
    stop = _stop(settings, document, given, registry)
    templates = read_templates(settings, document, axes.get("template"), registry, path.parent)
    scores = settings.task == "score"
    if scores:
        score.check(document, given.writing, [one.template for one in templates.values()])
    inputs = open_inputs(
        given.inputs or settings.inputs,
        Path() if given.inputs else path.parent,
        encoding=settings.encoding,
        spool=given.no_resume,
    )
    outputs, remote = _outputs(given.outputs or settings.outputs, inputs)
    check_output(outputs, [path, *inputs.files, *examples_files(settings, path.parent)])
    names = {name for one in templates.values() for name in one.names(with_output=scores)}
    inputs, found = _scan(inputs, names, settings, document)
    models = _models(settings, document, axes.get("model"), given, path.parent)
    rooms = {
        name: source.config.block_size if scores else _room(stop, source, registry)
        for name, source in models.items()
    }
    drawn = None
    if axes.get("seed") is None and given.seed is None and settings.sampling.seed is None:
        drawn = _drawn_seed(outputs, restart=given.restart or given.no_resume)
    seeds = _seeds(settings, axes.get("seed"), given, drawn)
    notes = [*document.notes, *(note for _, note in chains.values() if note)]
    cells = []
    for label in matrix.labels(axes):
        source, template = models[label.get("model")], templates[label.get("template")]
        chain, _ = chains[label.get("sampler")]
        if not chain and not scores:
            chain, note = _recommended(source, registry)
            notes += note
        seed = seeds[label.get("seed")]
        cell = Cell(
            label=label,
            source=source,
            template=template.template,
            system=settings.system,
            examples=template.examples(settings, seed),
            columns=template.columns,
            chain=chain,
            method=method,
            stop=stop,
            room=rooms[label.get("model")],
            seed=seed,
        )
        cells.append(cell)
    if settings.n > 1 and all(is_greedy(cell.chain) for cell in cells):
        notes.append(
            f"n is {settings.n}, but the chain is greedy: a row's answers are all the same"
        )
    return Job(
        path=path,
        settings=document.data,
        cells=tuple(cells),
        inputs=inputs,
        outputs=outputs,
        task=settings.task,
        n=settings.n,
        logprobs=settings.logprobs,
        on_overflow=given.on_overflow or settings.on_overflow,
        on_error=settings.on_error,
        csv_safe=settings.csv_safe,
        keep=tuple(dict.fromkeys(settings.keep)),
        batch_size=given.batch_size or settings.batch_size,
        drawn_seed=drawn,
        scan=found,
        registry=registry,
        notes=tuple(dict.fromkeys(notes)),
        remote=remote,
    )


# What the parts of a job file come to ---------------------------------------------------------


def _chains(
    settings: JobSettings,
    document: Document,
    axis: matrix.Axis | None,
    given: Given,
    registry: Registry,
    folder: Path,
) -> dict[str | None, tuple[Chain, str]]:
    """Return the chains by their name on the axis, each with what is to be said of it.

    One under None where there is no axis; it is empty where neither the file nor -s names one.
    Paths in the job file are from its folder, others from the working directory.
    """
    if axis is not None:
        return {name: _chain_of(point, document, registry, folder) for name, point in axis.items()}
    block = chain_source.from_block(settings.sampling, document, registry, at=("sampling",))
    if block is not None:
        with document.locating("sampling", "chain"):
            block = replace(block, chain=_with_files(block.chain, folder))
    whole = given.whole_chain or block
    if whole is None and not given.stages and not given.shorthands:
        return {None: ((), "")}
    base = whole.chain if whole else None
    chain = resolve_chain(given.stages, registry, base=base, shorthands=given.shorthands)
    chain = _with_files(chain, Path())
    told = whole is not None and (whole is not block or settings.sampling.preset is not None)
    return {None: (chain, whole.said_of(chain) if whole and told else "")}


def _chain_of(
    point: matrix.Point, document: Document, registry: Registry, folder: Path
) -> tuple[Chain, str]:
    with document.locating(*point.at):
        if not isinstance(point.value, str):
            return _with_files(resolve_chain(point.value, registry), folder), ""
        source = chain_source.from_preset(point.value, registry)
        return source.chain, source.said_of(source.chain)


def _with_files(chain: Chain, folder: Path) -> Chain:
    return tuple(stage.with_files(folder) for stage in chain)


def _recommended(source: Checkpoint, registry: Registry) -> tuple[Chain, list[str]]:
    """Return the chain that a model recommends, and say so; without one, plain sampling."""
    chain = resolve_chain(source.sampling or (), registry)
    said = f"sampling as {source.path.name} recommends: {' '.join(map(str, chain))}"
    return chain, [said] if source.sampling else []


def _method(settings: JobSettings, document: Document, given: Given, registry: Registry) -> Method:
    if given.method is not None and given.method.named:
        return given.method
    with document.locating("sampling"):
        return resolve_method(settings.sampling.speculate, settings.sampling.strategy, registry)


def _models(
    settings: JobSettings,
    document: Document,
    axis: matrix.Axis | None,
    given: Given,
    folder: Path,
) -> dict[str | None, Checkpoint]:
    """Return the models by their name on the axis, or one under None; each is opened once."""
    if axis is None:
        name = given.model or _beside(settings.model, folder)
        return {None: assembly.open_model(name)}
    opened: dict[str, Checkpoint] = {}
    for point in axis.values():
        with document.locating(*point.at):
            if point.value not in opened:
                opened[point.value] = assembly.open_model(_beside(point.value, folder))
    return {name: opened[point.value] for name, point in axis.items()}


def _beside(model: str | None, folder: Path) -> str | None:
    """Return the path of a model that a job file names by one from its folder, or the name."""
    if model is None or Path(model).name == model or not (folder / model).exists():
        return model
    return str(folder / model)


def _outputs(name: str | Path, inputs: Inputs) -> tuple[Path, Remote | None]:
    """Return where the output is made, and where it goes from there, with what is there already."""
    url = storage.url_of(name)
    if url is None:
        return storage.path_of(name), None
    if any(source.name == url for source in inputs.sources):
        raise ConfigError(f"outputs: {url} is what the job reads", hint="give another URL")
    remote = storage.Remote(url)
    remote.pull()
    return remote.path, remote


def _drawn_seed(outputs: Path, *, restart: bool) -> int:
    """Return a seed that is drawn, or was when an earlier run began this output."""
    before = None if restart else drawn_seed(outputs)
    return random_seed() if before is None else before


def _seeds(
    settings: JobSettings, axis: matrix.Axis | None, given: Given, drawn: int | None
) -> dict[str | None, int]:
    """Return the seeds by their name on the axis, or one for all cells under None.

    So a row starts from the same noise in each cell, unless a seed tells them apart.
    """
    if axis is not None:
        return {name: point.value for name, point in axis.items()}
    seeds = (given.seed, settings.sampling.seed, drawn)
    return {None: next(seed for seed in seeds if seed is not None)}


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
    stops = resolve_stops(stop, registry)
    new, context = stops.max_new_tokens, source.config.block_size
    if new >= context:
        raise ConfigError(
            f"max_new_tokens: {new:,} leaves no room for a prompt in the context of "
            f"{source.path.name}, {context:,}",
            hint="ask for fewer",
        )
    assembly.check_stops(stops, source.config, "max_new_tokens")
    return context - new


def _scan(
    inputs: Inputs, names: set[str], settings: JobSettings, document: Document
) -> tuple[Inputs, Scan]:
    inputs, found = scan(
        inputs,
        names | set(settings.keep),
        refuse_bad=settings.on_bad_row == "refuse",
        allow_duplicates=settings.ids == "allow_duplicates",
    )
    missing = sorted(names - found.seen)
    if missing and found.fields:
        raise ConfigError(
            f"template uses {', '.join(f'${name}' for name in missing)}; "
            f"input has: {', '.join(found.fields[:10])}",
            hint=did_you_mean(missing[0], found.fields)
            or "name the input's own: `fields: {TEMPLATE_FIELD: INPUT_FIELD}`",
        )
    for i, name in enumerate(settings.keep):
        if name not in found.seen and found.fields:
            raise ConfigError(
                f"{document.where(('keep', i))}: no row has a field '{name}'; "
                f"input has: {', '.join(found.fields[:10])}",
                hint=did_you_mean(name, found.fields),
            )
    return inputs, found
