"""A row and a cell of a job -> the prompt that asks the cell's model for its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.jobs.fields import texts
from gptkit.jobs.job import CHAT_FIELD
from gptkit.plugin_api import ChatTemplate
from gptkit.text import prompting

if TYPE_CHECKING:
    from gptkit.jobs.job import Cell
    from gptkit.jobs.rows import Row
    from gptkit.plugin_api import Tokenizer
    from gptkit.text.prompting import Prompt


def prompt(row: Row, cell: Cell, tokenizer: Tokenizer, on_overflow: str) -> Prompt:
    """Return the prompt of a row; raise BadRow or ContextOverflow where there can be none."""
    fields = texts(row.fields, cell.wanted, cell.columns)
    if isinstance(cell.template, ChatTemplate):
        turn: tuple[prompting.Role, str] = ("user", fields[CHAT_FIELD])
        return prompting.conversation(
            cell.template, cell.system, [turn], tokenizer, cell.room, on_overflow="error"
        )
    return prompting.few_shot(
        cell.template, cell.examples, fields, tokenizer, cell.room, on_overflow
    )
