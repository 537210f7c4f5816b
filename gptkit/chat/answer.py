"""What came of one request so far: the answer while it is being written."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gptkit.chat.conversation import Made
from gptkit.chat.events import Answered, Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gptkit.chat.conversation import Turn
    from gptkit.decoding.request import Event, Request
    from gptkit.errors import GptkitError


class Answer:
    """An answer on its way; one that goes on begins with what was there before."""

    def __init__(
        self,
        request: Request,
        blank: str,
        ids: tuple[int, ...],
        text: str,
        looks: Sequence[Look],
    ) -> None:
        self.request = request
        self.blank = "" if ids else blank
        self.ids = [*ids]
        self.n_before = len(ids)
        self.pieces = [text] if text else []
        self.looks = [_look(token, *looks[i : i + 1]) for i, token in enumerate(ids)]
        self.turn: Turn | None = None
        self.reason: str | None = None
        self.error: GptkitError | None = None
        self.n_reused = 0
        self.started = time.perf_counter()
        self.first_s = 0.0

    @property
    def n_new(self) -> int:
        """Tokens that were written by this request."""
        return len(self.ids) - self.n_before

    def take(self, event: Event) -> Event:
        """Note what an event says; return it without the blank that belongs to the template."""
        if event.token_id is not None:
            self.ids.append(event.token_id)
            self.looks.append(Look(event.token_id, event.logprob, event.alternatives, event.trace))
            self.first_s = self.first_s or time.perf_counter() - self.started
        self.n_reused = max(self.n_reused, event.n_reused)
        self.reason, self.error = event.finish_reason, event.error
        text = event.text.removeprefix(self.blank) if not self.pieces else event.text
        if text:
            self.pieces.append(text)
        return replace(event, text=text)

    def made(self, model: str) -> Made:
        """Return how it came about."""
        ids = self.ids[:-1] if self.reason in ("eos", "stop_token") else self.ids
        return Made(
            model,
            tuple(str(stage) for stage in self.request.chain),
            tuple(ids),
            len(self.request.prompt_ids) - self.n_before,
            self.n_reused,
            self.first_s,
            time.perf_counter() - self.started,
        )

    def ended(self, turn: Turn) -> Answered:
        """Return the summary of a finished answer."""
        total = time.perf_counter() - self.started
        n_prompt = len(self.request.prompt_ids)
        return Answered(turn, n_prompt, self.n_reused, self.n_new, self.first_s, total)


def _look(token: int, before: Look | None = None) -> Look:
    """Return the look of a token that stands where `before` was the look of another, or it."""
    if before is None or before.token_id == token:
        return before or Look(token)
    known = (one.logprob for one in before.alternatives if one.token_id == token)
    return Look(token, next(known, None), before.alternatives)
