"""`gptkit history list|show|search|export|delete`: the conversations that were had."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptkit.cli.options import Json, note
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from gptkit.chat.store import Store, StoredConversation

app = typer.Typer(help="List, read, search, export and delete conversations.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="A conversation, or how its id begins.")]


def open_store() -> Store:
    """Open the history, and say what is wrong with it."""
    from gptkit.chat.store import Store
    from gptkit.config import home

    store = Store.open(home() / "history.db")
    if store.problem:
        note(store.problem)
    return store


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many, at most.")] = 50,
    as_json: Json = False,
) -> None:
    """List conversations, the last one first."""
    with closing(open_store()) as store:
        found = store.conversations(limit)
    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in found], ensure_ascii=False))
        return
    if not found:
        note("there are no conversations yet")
        return
    _table(
        ("id", "last said", "turns", "model", "begins"),
        [
            (one.id, _when(one.updated_at), f"{one.n_turns:,}", one.model, one.first_words)
            for one in found
        ],
    )


@app.command()
def show(
    id: Id,
    tree: Annotated[bool, typer.Option("--tree", help="All branches, a line a turn.")] = False,
    as_json: Json = False,
) -> None:
    """Print a conversation."""
    from gptkit.chat.conversation import drawn
    from gptkit.chat.plain import summary
    from gptkit.chat.recorder import restored

    with closing(open_store()) as store:
        found = store.load(id)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False))
        return
    if tree:
        talk = restored(found)
        for lead, turn in drawn(talk):
            print(_shown(f"{lead}{summary(turn, here=turn is talk.cursor)}"))
        return
    print(_shown(_markdown(found)), end="")


@app.command()
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words that a turn has.")],
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many, at most.")] = 50,
    as_json: Json = False,
) -> None:
    """Find turns that have all of some words."""
    with closing(open_store()) as store:
        hits = store.search(text, limit)
    if as_json:
        print(json.dumps([dataclasses.asdict(hit) for hit in hits], ensure_ascii=False))
        return
    if not hits:
        note("no turn has all of these words, as whole words")
        return
    _table(
        ("id", "turn", "who", "text"),
        [
            (hit.id, str(hit.number), "you" if hit.role == "user" else "model", hit.snippet)
            for hit in hits
        ],
    )


@app.command()
def export(
    id: Id,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="NAME.md or NAME.jsonl; else to stdout.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines to stdout; Markdown without it.")
    ] = False,
) -> None:
    """Write a conversation as Markdown, or as JSON lines of role and content."""
    from gptkit.chat.save import write_new

    if output is not None and output.suffix not in (".md", ".jsonl"):
        raise ConfigError(
            f"--output: {output} is neither .md nor .jsonl", hint="the ending says which it is"
        )
    if output is not None and as_json:
        raise ConfigError("--json is for stdout", hint="the ending of --output says which it is")
    with closing(open_store()) as store:
        found = store.load(id)
    as_json = as_json or (output is not None and output.suffix == ".jsonl")
    text = _json_lines(found) if as_json else _markdown(found)
    if output is None:
        print(_shown(text), end="")
        return
    write_new(output, text)
    note(f"saved {output}")


@app.command()
def delete(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A conversation.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All conversations.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete a conversation, or all of them; nothing of it stays in the file."""
    if everything == (id is not None):
        raise ConfigError("give an id, or --all", hint="gptkit history list shows the ids")
    with closing(open_store()) as store:
        what = "all conversations" if id is None else f"conversation {store.find(id)}"
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"Delete {what}?")):
            raise ConfigError("nothing was deleted", hint="--yes deletes without asking")
        if id is None:
            n = store.delete_all()
            note(f"{n:,} conversation{'s' * (n != 1)} deleted")
        else:
            store.delete(store.find(id))
            note(f"{what} deleted")


def _markdown(found: StoredConversation) -> str:
    """Return the turns up to where the talk is, for readers."""
    from gptkit.chat.recorder import restored
    from gptkit.chat.save import as_markdown

    return as_markdown(
        restored(found).path(),
        model=found.model,
        system=found.system,
        when=_when(found.created_at),
    )


def _json_lines(found: StoredConversation) -> str:
    """Return the turns up to where the talk is, for programs."""
    from gptkit.chat.recorder import restored
    from gptkit.chat.save import as_json_lines

    return as_json_lines(restored(found).path(), system=found.system)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gptkit.text.safe import safe_line

    table = Table(box=None, pad_edge=False)
    for heading in head:
        table.add_column(heading, no_wrap=heading not in ("begins", "text"))
    for row in rows:
        table.add_row(*(Text(safe_line(cell)) for cell in row))
    Console(markup=False, emoji=False, highlight=False).print(table)


def _shown(text: str) -> str:
    from gptkit.text.safe import safe

    return safe(text) if sys.stdout.isatty() else text


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
