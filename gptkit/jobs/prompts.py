"""A row and a cell of a job -> the prompt that asks the cell's model for its answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gptkit.decoding.prefix import CHUNK, LEAST_SHARED
from gptkit.jobs.fields import texts
from gptkit.jobs.job import CHAT_FIELD
from gptkit.jobs.spec import AUTO
from gptkit.plugin_api import ChatTemplate
from gptkit.text import prompting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gptkit.jobs.job import Cell
    from gptkit.jobs.rows import Row
    from gptkit.plugin_api import Template, Tokenizer
    from gptkit.text.prompting import Prompt

FIRST_TRY = 8
"""Examples that `k: auto` tries first; where they fit, twice as many, and so on."""
SHARE_FROM = 4
"""Answers that a prefix must serve: the engine has a place for one for every four sequences."""


def prompt(row: Row, cell: Cell, tokenizer: Tokenizer, on_overflow: str) -> Prompt:
    """Return the prompt of a row; raise BadRow or ContextOverflow where there can be none."""
    fields = texts(row.fields, cell.wanted, cell.columns)
    if isinstance(cell.template, ChatTemplate):
        turn: tuple[prompting.Role, str] = ("user", fields[CHAT_FIELD])
        return prompting.conversation(
            cell.template, cell.system, [turn], tokenizer, cell.room, on_overflow="error"
        )
    return _few_shot(cell, cell.template, fields, tokenizer, on_overflow)


def _few_shot(
    cell: Cell,
    template: Template,
    fields: Mapping[str, str],
    tokenizer: Tokenizer,
    on_overflow: str,
) -> Prompt:
    """Return a prompt with the best examples, the best one first or, where they are the row's own,
    next to the item. With `k: auto` what does not fit was not asked for."""
    own = cell.examples.index is not None
    best = cell.examples.best(fields, cell.examples.most)
    auto = cell.examples.k == AUTO
    n = min(FIRST_TRY, len(best)) if auto else len(best)
    while True:
        chosen = list(reversed(best[:n])) if own else best[:n]
        made = prompting.few_shot(
            template, chosen, fields, tokenizer, cell.room, on_overflow, best_last=own
        )
        if made.n_dropped or n == len(best):
            break
        n = min(2 * n, len(best))
    return replace(made, n_dropped=made.n_cut) if auto else made


def n_shared(made: Prompt, n: int) -> int:
    """Return how many tokens the n answers to a prompt are to share, whichever costs less.

    That is what all rows share, behind which each answer computes the rest for itself; or all but
    the last token, which is computed for this row, as far as whole chunks of it are not there.
    """
    whole = len(made.ids) - 1
    if n < SHARE_FROM or own_cost(made, n, whole) >= own_cost(made, n, made.n_shared):
        return made.n_shared
    return whole


def own_cost(made: Prompt, n: int, shared: int) -> int:
    """Return how many tokens are computed for n answers, beside what was for other rows."""
    if shared < LEAST_SHARED:
        return n * len(made.ids)
    mine = shared - made.n_shared // CHUNK * CHUNK if shared > made.n_shared else 0
    return mine + n * (len(made.ids) - shared)
