"""`gptkit models list|show`: what models there are, and what each would take. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptkit.cli.options import Json
from gptkit.errors import CheckpointError

if TYPE_CHECKING:
    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.decoding.request import Item
    from gptkit.model.config import GPTConfig

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
    return _model(name, kind, open_checkpoint(path))


def _size(name: str, config: GPTConfig) -> dict[str, Any]:
    return {"name": name, "kind": "size", **_counts(config)}


def _model(name: str, kind: str, model: Checkpoint) -> dict[str, Any]:
    from gptkit.model.cpu import load as cpu

    return {
        "name": name,
        "kind": kind,
        "path": str(model.path),
        "format": model.format,
        **_counts(model.config),
        "backend_on_cpu": cpu.describe(),
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
        "tokenizer": record["tokenizer"],
        "bos id": record["bos_id"],
        "eos ids": ", ".join(map(str, record["eos_ids"])) or None,
        "chat template": record["chat_template"],
        "sampling": chain,
        **({"notes": "; ".join(record["notes"])} if record["notes"] else {}),
    }


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
