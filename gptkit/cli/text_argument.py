"""A text given on the command line, or on stdin: read, bounded, made valid Unicode, and encoded."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from gptkit.cli.options import note
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from typing import BinaryIO

    from gptkit.assembly import Model

MAX_BYTES = 8_000_000
STDIN = "-"


def read_text(text: str, what: str) -> str:
    """Return the argument, or stdin where it is `-`; `what` names it in messages."""
    if text == STDIN:
        return bounded_text(sys.stdin.buffer, what)
    # Bytes that the shell gave as they were:
    return bounded_text(io.BytesIO(text.encode("utf-8", "surrogateescape")), what)


def piped_or_nothing() -> str:
    """Return what stands for an argument that was left out: stdin, unless someone types there."""
    return "" if sys.stdin.isatty() else STDIN


def bounded_text(file: BinaryIO, what: str) -> str:
    """Return all of a file as text; raise ConfigError where there is too much of it."""
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"the {what} is over {MAX_BYTES // 10**6} MB, which is the limit",
            hint="give it in parts",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        replaced = data.decode("utf-8", "replace")
        count = replaced.count("\ufffd") - data.count("\ufffd".encode())
        note(
            f"{count} invalid byte{'s' * (count > 1)} of the {what} replaced by U+FFFD, the first "
            f"at offset {error.start:,}"
        )
        return replaced


def prompt_ids(text: str, model: Model) -> list[int]:
    """Return the token ids of a prompt; one that is empty starts from the model's first token."""
    from gptkit import assembly
    from gptkit.text.prompting import encode_text, special_strings

    if found := special_strings(text, model.tokenizer):
        note(f"{found} special-token string{'s' * (found > 1)} treated as text")
    ids = encode_text(text, model.tokenizer)
    if not ids:
        ids = [assembly.first_token(model)]
        note(f"the prompt is empty: starting from {_visible(model, ids[0])}")
    return ids


def _visible(model: Model, token: int) -> str:
    names = {number: name for name, number in model.tokenizer.special.items()}
    return names.get(token) or repr(model.tokenizer.token_bytes(token).decode("utf-8", "replace"))
