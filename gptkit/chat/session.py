"""A line in, events out: the conversation, its settings and the engine; knows no terminal."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gptkit import assembly
from gptkit.chat import commands
from gptkit.chat.conversation import CANCELLED, Conversation, Turn
from gptkit.chat.events import Answered, Failed, Note, SessionEvent
from gptkit.decoding.method import Method
from gptkit.decoding.noise import derive
from gptkit.decoding.request import Event, Request, is_greedy, resolve_stops
from gptkit.errors import GptkitError, RequestError
from gptkit.text import prompting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.assembly import Model
    from gptkit.chat.settings import ChatSettings, ChosenTemplate
    from gptkit.decoding.request import Draft

MAX_MESSAGE_BYTES = 8_000_000


class Decoder(Protocol):
    """What a session needs of the engine."""

    def add(self, request: Request) -> int:
        """Queue a request and return its id."""
        ...

    def step(self) -> list[tuple[int, Event]]:
        """Compute a little and return what came of it."""
        ...

    def cancel(self, id: int) -> Event:
        """End a request and return its last event."""
        ...


class Session:
    """One user's talk with one model. `handle` takes what was typed; `interrupt` stops an answer.

    Nothing runs between two calls of `handle`: a thread is not needed, and none is used.
    """

    def __init__(
        self,
        engine: Decoder,
        model: Model,
        settings: ChatSettings,
        chosen: ChosenTemplate,
        *,
        model_name: str | None = None,
        method: Method | None = None,
        draft: Draft | None = None,
    ) -> None:
        self.engine = engine
        self.model = model
        self.settings = settings
        self.chosen = chosen
        self.model_name = model_name or model.name
        self.method = method or Method()
        self.draft = draft
        self.last: Answered | None = None
        self._check_template()
        self._blank = prompting.blank_before_output(chosen.template)
        self._stop = False
        self.reset()

    def _check_template(self) -> None:
        """Refuse a template that this tokenizer can't serve now, not at the first message."""
        template, system = self.chosen.template, self.settings.system
        frame = (*template.head(system), *template.turn("user", ""), *template.reply())
        prompting.encode(frame, self.model.tokenizer)

    def say_system(self, text: str) -> None:
        """Set the instruction that stands before the talk; an empty one removes it."""
        self.chosen.template.head(text or None)  # it may have no place for one
        self.settings.say_system(text)

    def reset(self) -> None:
        """Start a new conversation with the same settings."""
        self.conversation = Conversation()
        self.n_left_out = 0
        self.n_used = 0

    def greet(self) -> Iterator[SessionEvent]:
        """Yield what the user should know before the first message."""
        for line in self.model.notes:
            yield Note(line)
        chain = " ".join(map(str, self.settings.chain))
        if self.model.recommended and not self.settings.names_chain:
            yield Note(f"sampling as {self.model.name} recommends: {chain}")
        if self.settings.seed_from == "drawn" and not is_greedy(self.settings.chain):
            yield Note(f"seed {self.settings.seed}")

    def interrupt(self) -> None:
        """Stop the answer that is being written; safe to call from a signal handler."""
        self._stop = True

    def handle(self, line: str) -> Iterator[SessionEvent]:
        """Serve one line: text is said to the model, `/NAME` runs a command, `//` says a slash."""
        try:
            text, n_bad = _clean(line)
            if n_bad:
                were = "bytes were" if n_bad > 1 else "byte was"
                yield Note(f"{n_bad} invalid {were} replaced by U+FFFD")
            if text.startswith("/") and not text.startswith("//"):
                yield from commands.run(self, text)
            elif text:
                yield from self._answer(text.removeprefix("/") if text[:2] == "//" else text)
        except GptkitError as error:
            yield Failed(error)
        except Exception as error:  # a bug, ours or a plugin's, must not cost the conversation
            if os.environ.get("GPTKIT_DEBUG") == "1":
                raise
            yield Failed(_bug(error))
        finally:
            self._stop = False

    def _answer(self, text: str) -> Iterator[SessionEvent]:
        if len(text.encode()) > MAX_MESSAGE_BYTES:
            limit = MAX_MESSAGE_BYTES // 10**6
            raise RequestError(f"the message is over {limit} MB, which is the limit")
        if found := prompting.special_strings(text, self.model.tokenizer):
            yield Note(f"{found} special-token string{'s' * (found > 1)} treated as text")
        before = self.conversation.cursor
        self.conversation.add("user", text)
        try:
            prompt = self._prompt()
            request = self._request(prompt.ids)
            id = self.engine.add(request)
        except Exception:
            self.conversation.go_to(before)
            raise
        if prompt.n_dropped:
            self.n_left_out += prompt.n_dropped
            yield Note(
                f"the {prompt.n_dropped} oldest turns no longer fit in the context of "
                f"{self.model.config.block_size:,} tokens; the model does not see them any more"
            )
        for line in prompt.notes:
            yield Note(line)
        try:
            yield from self._write(id, request)
        finally:
            if self.conversation.cursor is not None and self.conversation.cursor.role == "user":
                self.conversation.go_to(before)  # stopped before it began: as if not said

    def _prompt(self) -> prompting.Prompt:
        """Return the prompt; a quarter of the context, at most, is kept free for the answer."""
        size = self.model.config.block_size
        room = size - max(1, min(self.settings.stops.max_new_tokens, size // 4))
        turns = [(turn.role, turn.text) for turn in self.conversation.path()]
        return prompting.conversation(
            self.chosen.template,
            self.settings.system,
            turns,
            self.model.tokenizer,
            room,
            first=self.n_left_out,
            on_overflow=self.settings.on_overflow,
        )

    def _request(self, ids: list[int]) -> Request:
        settings = self.settings
        block = assembly.with_template_stops(
            settings.stop, self.chosen.template, self.model.tokenizer
        )
        stops = resolve_stops(
            block, settings.registry, max_new_tokens=settings.stops.max_new_tokens
        )
        n_before = sum(turn.role == "user" for turn in self.conversation.path()) - 1
        seed = derive(settings.seed, n_before, 0)
        strategy = self.method.strategy
        return Request(tuple(ids), settings.chain, stops, seed, draft=self.draft, strategy=strategy)

    def _write(self, id: int, request: Request) -> Iterator[SessionEvent]:
        """Yield the engine's events; keep what was written however it ends."""
        answer = _Answer(request, self._blank)
        try:
            while answer.reason is None:
                if self._stop:
                    events = [(id, self.engine.cancel(id))]
                else:
                    events = self.engine.step()
                for whose, event in events:
                    if whose == id:
                        yield answer.take(event)
        finally:
            if answer.reason is None:  # whoever listened has gone
                answer.take(self.engine.cancel(id))
            self._keep(answer)
        if self.last is not None and self.last.turn is self.conversation.cursor:
            yield self.last
        if answer.error is not None:
            yield Failed(answer.error)

    def _keep(self, answer: _Answer) -> None:
        text, reason = "".join(answer.pieces), answer.reason or CANCELLED
        if not text and reason in (CANCELLED, "error"):
            return
        turn = self.conversation.add(
            "assistant", text, finish_reason=reason, seed=answer.request.seed
        )
        self.n_used = len(answer.request.prompt_ids) + answer.n_new
        self.last = answer.ended(turn)


class _Answer:
    """What came of one request so far."""

    def __init__(self, request: Request, blank: str) -> None:
        self.request = request
        self.blank = blank
        self.pieces: list[str] = []
        self.reason: str | None = None
        self.error: GptkitError | None = None
        self.n_new = self.n_reused = 0
        self.started = time.perf_counter()
        self.first_s = 0.0

    def take(self, event: Event) -> Event:
        """Note what an event says; return it without the blank that belongs to the template."""
        if event.token_id is not None:
            self.n_new += 1
            self.first_s = self.first_s or time.perf_counter() - self.started
        self.n_reused = max(self.n_reused, event.n_reused)
        self.reason, self.error = event.finish_reason, event.error
        text = event.text.removeprefix(self.blank) if not self.pieces else event.text
        if text:
            self.pieces.append(text)
        return replace(event, text=text)

    def ended(self, turn: Turn) -> Answered:
        """Return the summary of a finished answer."""
        total = time.perf_counter() - self.started
        n_prompt = len(self.request.prompt_ids)
        return Answered(turn, n_prompt, self.n_reused, self.n_new, self.first_s, total)


def _clean(line: str) -> tuple[str, int]:
    """Return the line without its end, and how many code points of it were no characters."""
    text, n_bad = re.subn("[\ud800-\udfff]", "\ufffd", line)
    return text.rstrip(), n_bad


def _bug(error: Exception) -> GptkitError:
    text = " ".join(str(error).split())
    return GptkitError(
        f"internal error: {type(error).__name__}: {text}",
        hint="the conversation stands; GPTKIT_DEBUG=1 shows the traceback; please report it",
    )
