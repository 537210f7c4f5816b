"""Guess that a text goes on as it did before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import ConfigError, Drafter, DraftView, Params, param

from ..repeats import repeats

if TYPE_CHECKING:
    from collections.abc import Sequence


class PromptLookup(Drafter):
    """Propose what followed the last tokens when they occurred before (Saxena 2023).

    The longest end of the text that occurs earlier decides, from `max_ngram` tokens down to
    `min_ngram`, and of equally long ones the most recent.
    """

    name = "prompt_lookup"
    max_ngram = param(3, ge=1, le=100, help="tokens that are looked for at most")
    min_ngram = param(1, ge=1, le=100, help="tokens that must be found")

    def propose(self, view: DraftView, k: int, p: Params) -> Sequence[int]:
        """Return at most k tokens, fewer where the match is near the end of the text."""
        if p.min_ngram > p.max_ngram:
            raise ConfigError(
                f"{self.name}: min_ngram {p.min_ngram} is above max_ngram {p.max_ngram}"
            )
        place, longest = 0, p.min_ngram - 1
        for at, length in repeats(view.tokens, longest=p.max_ngram):
            if length > longest:
                place, longest = at, length
            if longest == p.max_ngram:
                break
        return view.tokens[place : place + k] if place else ()
