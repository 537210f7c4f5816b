"""`gptkit run --dry-run`: what a job would do, told without computing or writing anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gptkit.cli import options
from gptkit.cli.progress import display
from gptkit.text.safe import safe, safe_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gptkit.checkpoints.checkpoint import Checkpoint
    from gptkit.jobs.estimate import CellEstimate
    from gptkit.jobs.job import Job
    from gptkit.jobs.rows import Row
    from gptkit.plugin_api import Tokenizer
    from gptkit.text.prompting import Prompt

CONTROL = "\u27ea{}\u27eb"
"""How a control token is shown, so that it is not taken for text that says the same."""
WIDTH = 13
"""Of the words at the left."""


def dry_run(job: Job, tokenizer: str | None, *, as_json: bool) -> None:
    """Print what a job would do; `tokenizer` is what --tokenizer says."""
    from gptkit.jobs.estimate import estimate

    for line in job.notes:
        options.note(line)
    tokenizers = _Tokenizers(job, tokenizer)
    with display() as show:
        found = estimate(job, job.inputs, tokenizers.of, lambda n, of: show("looking", n, of))
    if as_json:
        print(json.dumps(_record(job, found, tokenizers), ensure_ascii=False))
    else:
        _print(job, found, tokenizers)


class _Tokenizers:
    """The tokenizers of a job's models, each loaded once."""

    def __init__(self, job: Job, given: str | None) -> None:
        self.job, self.given = job, given
        self._loaded: dict[int, Tokenizer] = {}

    def of(self, source: Checkpoint) -> Tokenizer:
        """Return the tokenizer that goes with a model."""
        from gptkit import assembly

        if id(source) not in self._loaded:
            loaded, notes = assembly.open_tokenizer(source, self.job.registry, self.given)
            self._loaded[id(source)] = loaded
            for line in notes:
                options.note(line)
        return self._loaded[id(source)]


# For people -----------------------------------------------------------------------------------


def _print(job: Job, found: Sequence[CellEstimate], tokenizers: _Tokenizers) -> None:
    _line("dry run", f"{_rows(job.scan.n_rows)}; nothing is computed or written")
    if found[0].n_looks < job.scan.n_rows:
        said = f"from {found[0].n_looks:,} of the rows, in equal steps, so not exact"
        _line("estimated", said)
    if len(found) == 1:
        _print_cell(found[0])
    else:
        _print_cells(found)
    there = ", which is there already" if job.outputs.exists() else ""
    _line("writes", f"{job.destination}{there}; beside it {', '.join(_suffixes(job))}")
    for one, (row, made) in _firsts(found):
        named = f"row {row.index:,}" if row.id is None else f"id {row.id!r}"
        said = f"{len(made.ids):,} tokens, for {named}"
        print()
        template = one.cell.label.get("template")
        _line("first prompt", said if template is None else f"{said}, template {template}")
        pieces = _pieces(made.ids, tokenizers.of(one.cell.source))
        shown = (CONTROL.format(it) if kind == "control" else it for kind, it in pieces)
        print(safe("".join(shown)))


def _print_cell(one: CellEstimate) -> None:
    cell = one.cell
    _line("model", f"{cell.source.path.name}, context {cell.source.config.block_size:,}")
    if cell.chain:
        method = f", {cell.method}" if str(cell.method) else ""
        _line("sampling", f"{' '.join(map(str, cell.chain))}, seed {cell.seed}{method}")
    for kind, n in sorted(one.failures.items()):
        _line("no prompt", f"{_rows(one.scaled(n))}, {kind}")
    if not one.lengths:
        return
    span = f"{min(one.lengths):,} to {max(one.lengths):,} a row, median {one.median:,.0f}"
    _line("prompts", f"{one.prompt_tokens:,} tokens; {span}")
    if cell.examples.pool:
        fewest, most = min(one.examples), max(one.examples)
        said = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        _line("examples", f"{said} a row, of {len(cell.examples.pool):,}")
    if one.n_shortened:
        _line("shortened", f"{one.scaled(one.n_shortened):,} prompts, to fit")
    saved = one.prefill_alone - one.prefill_shared
    whole = f"; {one.prefill_alone:,} if nothing were shared" if saved else ""
    _line("to prefill", f"{one.prefill_shared:,} tokens{whole}")
    if one.n_scored:
        _line("to score", f"{one.scored_tokens:,} tokens")
    if one.max_new_tokens:
        answers = f"{one.n:,} answers a row, " if one.n > 1 else ""
        said = f"at most {one.new_tokens:,} tokens; {answers}{one.max_new_tokens:,} each"
        _line("to write", said)


def _print_cells(found: Sequence[CellEstimate]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for axis in found[0].cell.label:
        table.add_column(axis)
    for head in ("prompts", "failed", "shortened", "tokens", "longest", "prefill", "write"):
        table.add_column(head, justify="right")
    for one in found:
        table.add_row(
            *(Text(safe_line(name)) for name in one.cell.label.values()),
            f"{one.n_prompts:,}",
            f"{one.scaled(sum(one.failures.values())):,}",
            f"{one.scaled(one.n_shortened):,}",
            f"{one.prompt_tokens:,}",
            f"{max(one.lengths, default=0):,}",
            f"{one.prefill_shared:,}",
            f"{one.new_tokens:,}",
        )
    print()
    Console(highlight=False).print(table)
    print()
    alone, shared = sum(o.prefill_alone for o in found), sum(o.prefill_shared for o in found)
    _line("to prefill", f"{shared:,} tokens in all; {alone:,} if nothing were shared")
    _line("to write", f"at most {sum(one.new_tokens for one in found):,} tokens in all")


def _rows(n: int) -> str:
    return f"{n:,} row{'s' * (n != 1)}"


def _line(what: str, said: str) -> None:
    print(f"{what:<{WIDTH}}{safe_line(said)}")


# For programs ---------------------------------------------------------------------------------


def _record(job: Job, found: Sequence[CellEstimate], tokenizers: _Tokenizers) -> dict[str, Any]:
    return {
        "rows": job.scan.n_rows,
        "looked_at": found[0].n_looks,
        "estimated": found[0].n_looks < job.scan.n_rows,
        "n": job.n,
        "cells": [_cell_record(one) for one in found],
        "prefill_tokens": sum(one.prefill_shared for one in found),
        "new_tokens_at_most": sum(one.new_tokens for one in found),
        "writes": [job.destination, *(f"{job.destination}{suffix}" for suffix in _suffixes(job))],
        "first_prompts": [_first_record(one, *first, tokenizers) for one, first in _firsts(found)],
    }


def _cell_record(one: CellEstimate) -> dict[str, Any]:
    cell = one.cell
    return {
        "cell": dict(cell.label),
        "model": cell.source.path.name,
        "context": cell.source.config.block_size,
        "chain": [str(stage) for stage in cell.chain],
        "method": str(cell.method),
        "seed": cell.seed,
        "prompts": one.n_prompts,
        "failures": {kind: one.scaled(n) for kind, n in sorted(one.failures.items())},
        "shortened": one.scaled(one.n_shortened),
        "examples": {
            "pool": len(cell.examples.pool),
            "min": min(one.examples, default=0),
            "max": max(one.examples, default=0),
        },
        "prompt_tokens": {
            "total": one.prompt_tokens,
            "min": min(one.lengths, default=0),
            "median": one.median,
            "max": max(one.lengths, default=0),
        },
        "prefill_tokens": {"shared": one.prefill_shared, "alone": one.prefill_alone},
        "scored_tokens": one.scored_tokens,
        "new_tokens_at_most": one.new_tokens,
    }


def _first_record(
    one: CellEstimate, row: Row, made: Prompt, tokenizers: _Tokenizers
) -> dict[str, Any]:
    pieces = _pieces(made.ids, tokenizers.of(one.cell.source))
    return {
        "cell": dict(one.cell.label),
        "index": row.index,
        "id": row.id,
        "tokens": len(made.ids),
        "pieces": [{kind: text} for kind, text in pieces],
    }


# For both -------------------------------------------------------------------------------------


def _suffixes(job: Job) -> list[str]:
    """Return what the names of the files beside the output add to its own."""
    from gptkit.jobs.files import Files

    files = Files.of(job.outputs)
    beside = (files.journal, files.lock, files.manifest)
    return [path.name.removeprefix(files.output.name) for path in beside]


def _firsts(
    found: Sequence[CellEstimate],
) -> Iterator[tuple[CellEstimate, tuple[Row, Prompt]]]:
    """Yield a cell for each template, with the first row that has a prompt, and the prompt."""
    told: set[int] = set()
    for one in found:
        if one.first is not None and id(one.cell.template) not in told:
            told.add(id(one.cell.template))
            yield one, one.first


def _pieces(ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Yield what a prompt is made of: `text` and its text, or `control` and the token's name."""
    names = {id: name for name, id in tokenizer.special.items()}
    text = b""
    for id in ids:
        if id not in names:
            text += tokenizer.token_bytes(id)
            continue
        if text:
            yield "text", text.decode("utf-8", "replace")
        yield "control", names[id]
        text = b""
    if text:
        yield "text", text.decode("utf-8", "replace")
