"""`gptkit tokenize TEXT`: the ids of a text, and the piece that each stands for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gptkit.cli import options

if TYPE_CHECKING:
    from gptkit.plugin_api import Tokenizer

VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\t": "→"})
STYLES = ("blue", "magenta")


def tokenize(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Text to cut; - reads stdin.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            metavar="NAME[:PATH]",
            help="NAME or NAME:PATH. See gptkit plugins list.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="Take this model's own tokenizer. Default: mini."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show the token ids of TEXT and the piece of text that each stands for."""
    from gptkit.cli.text_argument import read_text
    from gptkit.text.prompting import encode_text, special_strings

    given = read_text(text, "text")
    loaded = _tokenizer(tokenizer, model)
    ids = encode_text(given, loaded)
    if found := special_strings(given, loaded):
        options.note(f"{found} special-token string{'s' * (found > 1)} treated as text")
    if as_json:
        print(json.dumps(_object(loaded, ids)))
    else:
        _show(loaded, ids, given)


def _tokenizer(spec: str | None, model: str | None) -> Tokenizer:
    from gptkit.checkpoints.checkpoint import open_checkpoint
    from gptkit.checkpoints.library import find
    from gptkit.checkpoints.tokenizer_files import load_tokenizer, own_tokenizer
    from gptkit.errors import ConfigError

    if spec is None:
        return own_tokenizer(open_checkpoint(find(model)), options.load_registry())
    if model is not None:
        raise ConfigError("--tokenizer and --model both name a tokenizer", hint="give one of them")
    return load_tokenizer(spec, options.load_registry())


def piece(data: bytes) -> str:
    """Decode a token's bytes; a part of a character is written in hexadecimal, as \\xe5."""
    return data.decode("utf-8", "backslashreplace")


def _object(tokenizer: Tokenizer, ids: list[int]) -> dict[str, object]:
    pieces = [piece(tokenizer.token_bytes(token_id)) for token_id in ids]
    return {"tokenizer": tokenizer.name, "ids": ids, "pieces": pieces, "n_tokens": len(ids)}


def _show(tokenizer: Tokenizer, ids: list[int], text: str) -> None:
    """Print pieces and ids in two colours by turns, or without colours a line for each token."""
    from rich.console import Console
    from rich.text import Text

    from gptkit.text.safe import safe

    pieces = [safe(piece(tokenizer.token_bytes(i)).translate(VISIBLE)) for i in ids]
    console = Console(highlight=False)
    if console.is_terminal and not console.no_color:
        styles = [STYLES[index % 2] for index in range(len(ids))]
        broken = (shown.replace("↵", "↵\n") for shown in pieces)
        console.print(Text.assemble(*zip(broken, styles, strict=True)))
        numbers = (f"{token_id} " for token_id in ids)
        console.print(Text.assemble(*zip(numbers, styles, strict=True)))
    else:
        for token_id, shown in zip(ids, pieces, strict=True):
            print(f"{token_id:>7}  {shown}")
    n_bytes = len(text.encode())
    print(f"{len(ids):,} tokens, {len(text):,} characters, {n_bytes:,} bytes", end="")
    print(f": {n_bytes / len(ids):.2f} bytes for each token" if ids else "")
