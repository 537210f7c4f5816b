"""`gptkit models list|show|convert|measure`: what models there are, and what each would take.

No torch, but to convert and measure.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptkit.cli import options
from gptkit.cli.options import Json
from gptkit.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.checkpoints.quality import Quality
    from gptkit.decoding.request import Item
    from gptkit.model.config import GPTConfig
    from gptkit.plugin_api import Tokenizer
    from gptkit.plugin_host import Registry

app = typer.Typer(help="What models there are, and what each would take.", no_args_is_help=True)

MIB = 2**20


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the bundled models, those in $GPTKIT_HOME/models, and the named sizes."""
    records = _records()
    if as_json:
        print(json.dumps(records))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gptkit.text.safe import safe_line

    table = Table("name", "kind", box=None, pad_edge=False)
    for title in ("parameters", "context", "vocabulary", "on disk"):
        table.add_column(title, justify="right")
    for record in records:
        table.add_row(*(Text(safe_line(cell)) for cell in _row(record)))
    console = Console()
    console.print(table)
    for record in records:
        if "error" in record:
            console.print(
                Text(safe_line(f"BROKEN  {record['name']}: {record['error']}"), style="red")
            )


@app.command()
def show(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A path, a name in the list, or a named size.")
    ],
    as_json: Json = False,
) -> None:
    """Show the sizes of one model, its memory by dtype, and what else its folder says."""
    record = _find(model)
    if as_json:
        print(json.dumps(record))
        return
    from gptkit.text.safe import safe

    print(safe(_page(record)))


@app.command()
def convert(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A path, or a name in the list.")],
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="float32, bfloat16, int8 or int4.")
    ] = "int8",
    as_json: Json = False,
) -> None:
    """Pack a model's weights for the CPU kernels, into a file beside it that the next start maps.

    Without this, a large model is packed at its first start, into $GPTKIT_HOME/cache.
    """
    from gptkit import assembly

    path = assembly.convert(assembly.open_model(model), dtype)
    n_bytes = path.stat().st_size
    if as_json:
        print(json.dumps({"path": str(path), "dtype": dtype, "bytes_on_disk": n_bytes}))
    else:
        options.say(f"wrote {path} ({n_bytes / MIB:,.1f} MiB)")


@app.command()
def measure(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A path, or a name in the list.")],
    text: Annotated[
        Path | None, typer.Argument(metavar="TEXT", help="A file of text that is new to it.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Instead of TEXT: what this recipe validates with."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model's perplexity on a text in each --dtype of the CPU kernels.

    The figures are kept beside the weights, where `gptkit models show` finds them.
    """
    from gptkit import assembly
    from gptkit.checkpoints import hashes, quality
    from gptkit.cli.progress import display
    from gptkit.decoding.scoring import perplexity, pieces
    from gptkit.model.cpu.load import DTYPES

    if (text is None) == (recipe is None):
        raise ConfigError("give either TEXT or --recipe", hint="see gptkit models measure --help")
    source, registry = assembly.open_model(model), options.load_registry()
    tokenizer, _ = assembly.open_tokenizer(source, registry, None)
    if text is not None:
        name, ids = text.name, _ids_of_text(text, tokenizer)
    else:
        name, ids = f"recipe {recipe}", _ids_of_validation(str(recipe), tokenizer, registry)
    requests = pieces(ids, source.config.block_size)

    def measured(dtype: str) -> float:  # here, so that one model at a time is in memory
        model = assembly.load_model(source, registry, backend="cpu", dtype=dtype, tell=options.note)
        return perplexity(assembly.scorer(model, n_slots=8), requests, partial(show, dtype))

    with display("tokens") as show:
        found_by_dtype = {dtype: measured(dtype) for dtype in DTYPES}
    found = quality.Quality(
        text=name,
        n_tokens=sum(len(request.scored_ids) for request in requests),
        perplexity=found_by_dtype,
        weights=hashes.of_weights(source),
    )
    try:
        options.say(f"wrote {quality.write(source, found)}")
    except OSError as error:
        options.note(f"not kept: {source.path} can't be written ({error.strerror})")
    if as_json:
        print(json.dumps(_quality(found)))
    else:
        print("\n".join(_quality_table(_quality(found))))


def _ids_of_text(path: Path, tokenizer: Tokenizer) -> list[int]:
    from gptkit.text.prompting import encode_text
    from gptkit.training.sources import read_text

    return encode_text(read_text(path), tokenizer)


def _ids_of_validation(name: str, tokenizer: Tokenizer, registry: Registry) -> list[int]:
    from tempfile import TemporaryDirectory

    from gptkit.training.plan import prepare
    from gptkit.training.recipe import read_recipe

    with TemporaryDirectory() as folder:  # nothing is written there, but a recipe has an output
        plan = prepare(read_recipe(name, [], output=Path(folder) / "none"), registry)
    theirs, ours = plan.tokenizer, tokenizer
    if theirs.vocab_size != ours.vocab_size or any(
        theirs.token_bytes(i) != ours.token_bytes(i) for i in range(ours.vocab_size)
    ):
        raise ConfigError(
            f"recipe {name} makes another tokenizer than the model has",
            hint="give the recipe that the model was trained by, or a text",
        )
    return [int(i) for i in plan.corpus.validation]


# Records, as --json prints them -----------------------------------------------------------------


def _records() -> list[dict[str, Any]]:
    from gptkit.checkpoints.library import at_home, bundled
    from gptkit.model.config import NAMED_SIZES

    found = [("bundled", *model) for model in bundled()] + [("home", *model) for model in at_home()]
    records = [_try(name, kind, path) for kind, name, path in found]
    return records + [_size(name, config) for name, config in NAMED_SIZES.items()]


def _try(name: str, kind: str, path: Path) -> dict[str, Any]:
    """Describe a model for the list, which must not fail because one model does."""
    from gptkit.checkpoints.checkpoint import open_checkpoint

    try:
        return _model(name, kind, open_checkpoint(path))
    except CheckpointError as error:
        return {"name": name, "kind": kind, "path": str(path), "error": str(error)}


def _find(name: str) -> dict[str, Any]:
    from gptkit.checkpoints.checkpoint import open_checkpoint
    from gptkit.checkpoints.library import at_home, bundled, find
    from gptkit.model.config import NAMED_SIZES

    try:
        path = find(name)
    except CheckpointError:
        if name in NAMED_SIZES:
            return _size(name, NAMED_SIZES[name])
        raise
    places = {"bundled": bundled(), "home": at_home()}
    kind = next((kind for kind, found in places.items() if (name, path) in found), "path")
    model = open_checkpoint(path)
    return {**_model(name, kind, model), **_on_a_cpu(model)}


def _size(name: str, config: GPTConfig) -> dict[str, Any]:
    return {"name": name, "kind": "size", **_counts(config)}


def _model(name: str, kind: str, model: Checkpoint) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "path": str(model.path),
        "format": model.format,
        **_counts(model.config),
        "dtypes": list(model.dtypes),
        "bytes_on_disk": model.n_bytes,
        "files": {file.path.name: file.n_bytes for file in model.files},
        "tokenizer": model.tokenizer_name,
        "tokenizer_path": str(model.tokenizer_path) if model.tokenizer_path else None,
        "bos_id": model.bos_id,
        "eos_ids": list(model.eos_ids),
        "chat_template": model.chat_template,
        "sampling": None if model.sampling is None else list(model.sampling),
        "notes": list(model.notes),
    }


def _on_a_cpu(model: Checkpoint) -> dict[str, Any]:
    """Return what computes a model on this CPU, and what is packed and measured of it."""
    from gptkit.checkpoints import packed, quality
    from gptkit.model.cpu import load as cpu

    try:
        found = quality.read(model)
    except CheckpointError as error:
        options.note(f"{error}; {error.hint}")
        found = None
    return {
        "backend_on_cpu": cpu.describe(),
        "packed": [
            {"dtype": dtype, "path": str(path), "bytes": path.stat().st_size}
            for dtype in cpu.DTYPES
            for path in packed.places(model, dtype)
        ],
        "quality": None if found is None else _quality(found),
    }


def _quality(found: Quality) -> dict[str, Any]:
    return {
        "text": found.text,
        "n_tokens": found.n_tokens,
        "perplexity": found.perplexity,
        "loss": found.losses(),
    }


def _counts(config: GPTConfig) -> dict[str, Any]:
    from gptkit.model.config import DTYPE_BYTES

    tied, untied = config.n_params(tied=True), config.n_params(tied=False)
    per_token = {dtype: config.kv_bytes_per_token(dtype) for dtype in DTYPE_BYTES}
    return {
        "config": config.model_dump(),
        "parameters": {"own": config.n_params(), "tied": tied, "untied": untied},
        "weights_bytes": {
            dtype: {"tied": round(tied * size), "untied": round(untied * size)}
            for dtype, size in DTYPE_BYTES.items()
        },
        "kv_bytes_per_token": per_token,
        "kv_bytes_full_context": {dtype: n * config.block_size for dtype, n in per_token.items()},
    }


# Text -------------------------------------------------------------------------------------------


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    if "error" in record:
        return (record["name"], record["kind"], "-", "-", "-", "-")
    config, n_bytes = record["config"], record.get("bytes_on_disk")
    return (
        record["name"],
        record["kind"],
        f"{record['parameters']['own']:,}",
        f"{config['block_size']:,}",
        f"{config['vocab_size']:,}",
        "-" if n_bytes is None else f"{n_bytes / MIB:,.1f} MiB",
    )


def _page(record: dict[str, Any]) -> str:
    config, parameters = record["config"], record["parameters"]
    which = "tied" if config["tied"] else "untied"
    lines = [
        f"{record['name']}  [{record['kind']}]",
        "",
        *_pairs({key: _counted(value) for key, value in config.items()}),
        "",
        f"parameters  {parameters['tied']:,} with tied embeddings, "
        f"{parameters['untied']:,} untied (this model: {which})",
        "",
        f"{'':<10}{'weights tied':>16}{'untied':>14}{'KV per token':>16}{'KV full context':>18}",
    ]
    for dtype, weights in record["weights_bytes"].items():
        tied, untied = (f"{weights[key] / MIB:,.2f} MiB" for key in ("tied", "untied"))
        token = f"{record['kv_bytes_per_token'][dtype]:,} B"
        context = f"{record['kv_bytes_full_context'][dtype] / MIB:,.2f} MiB"
        lines.append(f"{dtype:<10}{tied:>16}{untied:>14}{token:>16}{context:>18}")
    if "path" in record:
        lines += ["", *_pairs(_folder(record))]
        if record["quality"]:
            lines += ["", *_quality_table(record["quality"])]
    return "\n".join(lines)


def _folder(record: dict[str, Any]) -> dict[str, Any]:
    files = (f"{name} ({n_bytes:,} bytes)" for name, n_bytes in record["files"].items())
    sampling = record["sampling"]
    chain = None if sampling is None else " ".join(map(_stage, sampling))
    return {
        "path": record["path"],
        "format": record["format"],
        "on this CPU": record["backend_on_cpu"],
        "stored as": ", ".join(record["dtypes"]),
        "files": ", ".join(files),
        **{
            f"packed as {one['dtype']}": f"{one['path']} ({one['bytes']:,} bytes)"
            for one in record["packed"]
        },
        "tokenizer": record["tokenizer"],
        "bos id": record["bos_id"],
        "eos ids": ", ".join(map(str, record["eos_ids"])) or None,
        "chat template": record["chat_template"],
        "sampling": chain,
        **({"notes": "; ".join(record["notes"])} if record["notes"] else {}),
    }


def _quality_table(quality: dict[str, Any]) -> list[str]:
    """Return what a text's perplexity is in each dtype, and by how much that is above float32's."""
    title = f"perplexity  on {quality['text']}, {quality['n_tokens']:,} tokens"
    return [title] + [
        f"{dtype:<10}{value:>16,.4f}{quality['loss'][dtype]:>+14.2%}"
        for dtype, value in quality["perplexity"].items()
    ]


def _counted(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_number else value


def _stage(item: Item) -> str:
    """Return a stage as `-s` takes it; its sampler need not be installed."""
    if isinstance(item, str):
        return item
    ((name, value),) = item.items()
    if isinstance(value, dict):
        return f"{name}:{','.join(f'{key}={_written(one)}' for key, one in value.items())}"
    return f"{name}={_written(value)}"


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pairs(values: dict[str, Any]) -> list[str]:
    said = {key: "-" if value is None else str(value) for key, value in values.items()}
    return [f"{key:<20}{' '.join(text.splitlines())}" for key, text in said.items()]
