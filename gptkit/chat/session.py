"""A line in, events out: the conversation, its settings and the engine; knows no terminal."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gptkit import assembly
from gptkit.chat import commands
from gptkit.chat.answer import Answer
from gptkit.chat.conversation import CANCELLED, PARTIAL, Conversation
from gptkit.chat.events import Failed, Heading, Note, SessionEvent
from gptkit.chat.plain import shortened
from gptkit.decoding.method import Method
from gptkit.decoding.noise import derive
from gptkit.decoding.request import Event, Request, Stops, is_greedy, resolve_stops
from gptkit.errors import ContextOverflow, GptkitError, RequestError, plugin_code
from gptkit.text import prompting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gptkit.assembly import Model
    from gptkit.chat.conversation import Turn
    from gptkit.chat.events import Answered, Look
    from gptkit.chat.settings import ChatSettings, ChosenTemplate
    from gptkit.decoding.engine import Engine
    from gptkit.decoding.request import Chain, Draft, Stage, StageTrace
    from gptkit.plugin_api import Tokenizer

MAX_MESSAGE_BYTES = 8_000_000
ROOM = "/reset begins a new one; /set on_overflow drop_oldest leaves out the oldest turns"
N_ALTERNATIVES = 10
"""Tokens that might have been, which are kept for each token of an answer."""
LOOKING_BACK = ("bias", "penalty", "constraint")
"""Phases whose stages depend on where the answer begins; the later ones see the logits alone."""
KEEP_EVERY_S = 1.0
"""How often a growing answer is kept."""


class Listener(Protocol):
    """Who keeps what is said, such as the history."""

    def said(self, session: Session, turn: Turn) -> None:
        """Note a turn: a new one, or an answer that has grown."""
        ...

    def moved(self, session: Session) -> None:
        """Note that the talk goes on from another turn."""
        ...


class Session:
    """One user's talk with one model. `handle` takes what was typed; `interrupt` stops an answer.

    Nothing runs between two calls of `handle`: a thread is not needed, and none is used.
    """

    def __init__(
        self,
        engine: Engine,
        model: Model,
        settings: ChatSettings,
        chosen: ChosenTemplate,
        *,
        model_name: str | None = None,
        method: Method | None = None,
        draft: Draft | None = None,
        load: Callable[[str], tuple[Model, Engine]] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.engine = engine
        self.model = model
        self.settings = settings
        self.chosen = chosen
        self.model_name = model_name or model.name
        self.method = method or Method()
        self.draft = draft
        self.listener = listener
        self.last: Answered | None = None
        self.traces = False
        self._load = load
        self._check_template(chosen)
        self._stop = False
        self.reset()

    def _check_template(self, chosen: ChosenTemplate) -> None:
        """Refuse a template that this tokenizer can't serve now, not at the first message."""
        template, system = chosen.template, self.settings.system
        with plugin_code(f"template '{chosen.name}'"):
            frame = (*template.head(system), *template.turn("user", ""), *template.reply())
        prompting.encode(frame, self.model.tokenizer)
        self._blank = prompting.blank_before_output(template)

    def use_template(self, chosen: ChosenTemplate) -> None:
        """Write prompts by another template from now on."""
        self._check_template(chosen)
        self.chosen = chosen

    def use_model(self, name: str) -> None:
        """Talk to another model from now on; the conversation stays."""
        if self._load is None:
            raise RequestError("this session can't load another model")
        before = self.model, self.engine, self.model_name
        self.model, self.engine = self._load(name)
        try:
            self._check_template(self.chosen)
            self.settings.fit(self.model.config)
        except GptkitError:
            self.model, self.engine, self.model_name = before
            raise
        self.model_name, self.draft, self.method = name, None, Method()
        self._measure()

    def say_system(self, text: str) -> None:
        """Set the instruction that stands before the talk; an empty one removes it."""
        self.chosen.template.head(text or None)  # it may have no place for one
        self.settings.say_system(text)

    def reset(self) -> None:
        """Start a new conversation with the same settings."""
        self.open(Conversation())

    def open(self, conversation: Conversation) -> None:
        """Go on with a conversation."""
        self.conversation = conversation
        self.looks: dict[int, tuple[Look, ...]] = {}
        self._requests: dict[int, Request] = {}
        self.last = None
        self.n_left_out = self.n_cut = 0
        self._measure()

    def _measure(self) -> None:
        """Count what the talk takes of the context as it stands."""
        self.n_used = 0
        if self.conversation.cursor is not None:
            with contextlib.suppress(GptkitError):  # what does not fit is said at the next message
                self.n_used = len(self.prompt().ids)

    def go_to(self, turn: Turn | None) -> None:
        """Go on from another turn; what is cached of the way there is used again."""
        self.conversation.go_to(turn)
        self.n_left_out = self.n_cut = 0
        self._measure()
        if self.listener is not None:
            self.listener.moved(self)

    def greet(self) -> Iterator[SessionEvent]:
        """Yield what the user should know before the first message."""
        for line in self.model.notes:
            yield Note(line)
        chain = " ".join(map(str, self.settings.chain))
        if self.model.recommended and not self.settings.names_chain:
            yield Note(f"sampling as {self.model.name} recommends: {chain}")
        if self.settings.seed_from == "drawn" and not is_greedy(self.settings.chain):
            yield Note(f"seed {self.settings.seed}")
        for turn in self.conversation.path()[-2:]:  # a talk that goes on
            name = "you" if turn.role == "user" else self.model.name
            yield Note(f"{name}: {turn.text.strip()}")

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Role and text of each turn so far."""
        return tuple((turn.role, turn.text) for turn in self.conversation.path())

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
            if commands.is_command(text):
                yield from commands.run(self, text)
            elif text:
                yield from self.say(text.removeprefix("/") if text[:2] == "//" else text)
        except GptkitError as error:
            yield Failed(error)
        except Exception as error:  # a bug, ours or a plugin's, must not cost the conversation
            if os.environ.get("GPTKIT_DEBUG") == "1":
                raise
            yield Failed(_bug(error))
        finally:
            self._stop = False

    def say(self, text: str) -> Iterator[SessionEvent]:
        """Say a text after the cursor, and let the model answer."""
        if len(text.encode()) > MAX_MESSAGE_BYTES:
            limit = MAX_MESSAGE_BYTES // 10**6
            raise RequestError(f"the message is over {limit} MB, which is the limit")
        if found := prompting.special_strings(text, self.model.tokenizer):
            yield Note(f"{found} special-token string{'s' * (found > 1)} treated as text")
        before = self.conversation.cursor
        asked = self.conversation.add("user", text)
        try:
            yield from self._write(asked, record=True)
        finally:
            if self.conversation.cursor is asked:
                self.conversation.go_to(before)  # stopped before it began: as if not said

    def retry(self, n: int = 1) -> Iterator[SessionEvent]:
        """Answer the last message again, n times; each answer is another branch."""
        asked = self._asked()
        for i in range(n):
            with self._back_from(asked):
                self.go_to(asked)
                yield from self._write(asked, heading=f"answer {i + 1} of {n}" if n > 1 else "")
                came = self.conversation.cursor is not asked
            if self._stop or not came:
                break

    def go_on(self) -> Iterator[SessionEvent]:
        """Continue the last answer, if it was ended from outside, with the noise of its places."""
        turn = self.conversation.cursor
        if turn is None or turn.role != "assistant":
            raise RequestError("there is no answer to continue")
        if not turn.may_go_on and not turn.edited:
            raise RequestError("the last answer is complete", hint="/retry writes another")
        ids, text = self._ids(turn), turn.text
        whole = _whole_characters(ids, self.model.tokenizer)
        if whole < len(ids):  # the rest of a character that was cut is written again
            ids = ids[:whole]
            text = self.model.tokenizer.decode(ids).removeprefix(self._blank)
        yield from self._go_on(turn, ids, text)

    def choose(self, turn: Turn, n: int, token: int) -> Iterator[SessionEvent]:
        """Put another token in the place of an answer's n-th, from 0, and go on from there."""
        ids = (*self._ids(turn)[:n], token)
        text = self.model.tokenizer.decode(ids).removeprefix(self._blank)
        yield from self._go_on(turn, ids, text)

    def _go_on(self, turn: Turn, ids: tuple[int, ...], text: str) -> Iterator[SessionEvent]:
        asked = turn.parent
        if asked is None:
            raise RequestError("this answer is to no message")
        with self._back_from(asked):
            self.go_to(asked)
            yield from self._write(asked, ids=ids, text=text, seed=turn.seed)

    def _ids(self, turn: Turn) -> tuple[int, ...]:
        """Return the tokens of an answer, those that ended it left out."""
        if turn.made is None or turn.edited:
            return tuple(prompting.encode_text(self._blank + turn.text, self.model.tokenizer))
        return turn.made.token_ids

    def edit(self, turn: Turn, text: str) -> Iterator[SessionEvent]:
        """Say something else in the place of a turn: a new branch, which a message has answered."""
        with self._back_from(turn.parent):
            self.go_to(turn.parent)
            if turn.role == "user":
                yield Note(f"said: {shortened(text)}")
                yield from self.say(text)
                return
            new = self.conversation.add("assistant", text, seed=turn.seed, edited=True)
            self._told(new)
        yield Note(f"turn {new.number} in the place of {turn.number}; /continue goes on from it")

    @contextlib.contextmanager
    def _back_from(self, turn: Turn | None) -> Iterator[None]:
        """Go back to where the talk stands, where it stands at `turn` in the end: nothing came."""
        before = self.conversation.cursor
        try:
            yield
        finally:
            if self.conversation.cursor is turn:
                self.go_to(before)

    def _asked(self) -> Turn:
        """Return the message that the last answer is to."""
        turn = self.conversation.cursor
        if turn is not None and turn.role == "assistant":
            turn = turn.parent
        if turn is None:
            raise RequestError("there is no message to answer here")
        return turn

    def compare(self, chains: Sequence[tuple[str, Chain]]) -> Iterator[SessionEvent]:
        """Answer the last message by each of several chains; each answer is another branch."""
        asked, kept = self._asked(), self.conversation.cursor
        try:
            for name, chain in chains:
                self.go_to(asked)
                yield from self._write(asked, chain=chain, heading=name, retry=0)
                if self._stop:
                    break
        finally:
            self.go_to(kept)

    def prompt(self) -> prompting.Prompt:
        """Return the prompt; a quarter of the context, at most, is kept free for the answer."""
        size = self.model.config.block_size
        room = size - max(1, min(self.settings.stops.max_new_tokens, size // 4))
        turns = [(turn.role, turn.text) for turn in self.conversation.path()]
        policy = self.settings.on_overflow
        try:
            return prompting.conversation(
                self.chosen.template,
                self.settings.system,
                turns,
                self.model.tokenizer,
                room,
                first=self.n_left_out,
                on_overflow=policy,
            )
        except ContextOverflow as error:
            if policy != "error":
                raise
            raise ContextOverflow(str(error), hint=ROOM) from None

    def _request(self, ids: Sequence[int], chain: Chain, seed: int) -> Request:
        settings = self.settings
        block = assembly.with_template_stops(
            settings.stop, self.chosen.template, self.model.tokenizer
        )
        stops = resolve_stops(
            block, settings.registry, max_new_tokens=settings.stops.max_new_tokens
        )
        return Request(
            tuple(ids),
            chain,
            stops,
            seed,
            logprobs=N_ALTERNATIVES,
            trace=self.traces,
            draft=self.draft,
            strategy=self.method.strategy,
        )

    def inspect(self, turn: Turn, n: int) -> tuple[StageTrace, ...]:
        """Return what each stage did to the n-th token of an answer, from 0.

        A draw depends on seed, position and what stands before it, so it is simply drawn again.
        Where a stage looks back at what was written, all of the answer is.
        """
        look = self.looks[turn.number][n]
        if look.trace:
            return look.trace
        if turn.made is None or turn.made.model != self.model_name:
            raise RequestError("another model wrote this answer")
        before = self._requests[turn.number]
        if any(map(_looks_back, before.chain)):
            self._trace_all(turn, before, len(before.prompt_ids) - turn.made.n_prompt)
            if trace := self.looks[turn.number][n].trace:
                return trace
            raise RequestError("what the stages remembered then is not known any more")
        ids = (*before.prompt_ids[: turn.made.n_prompt], *turn.made.token_ids[:n])
        stops = Stops(max_new_tokens=1)
        request = replace(
            before, prompt_ids=ids, stops=stops, trace=True, draft=None, strategy=None
        )
        event = next(iter(self.engine.stream(request)))
        if event.error is not None or event.token_id != look.token_id:
            raise RequestError("the chain takes another token here now")
        return event.trace

    def _trace_all(self, turn: Turn, before: Request, n_before: int) -> None:
        """Write an answer again, from its n-th token on, to keep what each stage does."""
        looks = list(self.looks[turn.number])
        stops = replace(before.stops, max_new_tokens=len(looks) - n_before, max_time_s=0.0)
        request = replace(before, stops=stops, trace=True, draft=None, strategy=None)
        drawn = (one for one in self.engine.stream(request) if one.token_id is not None)
        for i, event in enumerate(drawn, start=n_before):
            if event.token_id != looks[i].token_id:
                break
            looks[i] = replace(looks[i], trace=event.trace)
        self.looks[turn.number] = tuple(looks)

    def _seed(self, retry: int | None) -> int:
        """Return the seed of the answer to the cursor; each answer to one message has its own."""
        answers = self.conversation.children(self.conversation.cursor)
        n_before = sum(turn.role == "user" for turn in self.conversation.path()) - 1
        return derive(self.settings.seed, n_before, len(answers) if retry is None else retry)

    def _write(
        self,
        asked: Turn,
        *,
        ids: tuple[int, ...] = (),
        text: str = "",
        chain: Chain | None = None,
        seed: int | None = None,
        retry: int | None = None,
        heading: str = "",
        record: bool = False,
    ) -> Iterator[SessionEvent]:
        """Write an answer to the cursor; one that goes on begins with `ids`, which say `text`."""
        prompt = self.prompt()
        seed = self._seed(retry) if seed is None else seed
        request = self._request([*prompt.ids, *ids], chain or self.settings.chain, seed)
        before = self.looks.get(self._turn_before(asked, ids), ())
        answer = Answer(request, self._blank, ids, text, before)
        id = self.engine.add(request)
        if record:
            self._told(asked)
        if prompt.n_dropped:
            self.n_left_out += prompt.n_dropped
            yield Note(
                f"the {prompt.n_dropped} oldest turns no longer fit in the context of "
                f"{self.model.config.block_size:,} tokens; the model does not see them any more"
            )
        if prompt.n_cut > self.n_cut:
            yield Note(
                f"the {prompt.n_cut:,} oldest tokens no longer fit in the context of "
                f"{self.model.config.block_size:,}; the model does not see them any more"
            )
        self.n_cut = prompt.n_cut
        for line in prompt.notes:
            yield Note(line)
        if heading:
            yield Heading(heading)
        if text:
            yield Event(text)
        yield from self._stream(id, answer)

    def _turn_before(self, asked: Turn, ids: tuple[int, ...]) -> int:
        """Return the number of the answer that a new one goes on with, 0 where there is none."""
        for turn in reversed(self.conversation.children(asked)):
            if ids and turn.made is not None and turn.made.token_ids[: len(ids) - 1] == ids[:-1]:
                return turn.number
        return 0

    def _stream(self, id: int, answer: Answer) -> Iterator[SessionEvent]:
        """Yield the engine's events; keep what was written however it ends."""
        kept_at = time.monotonic()
        try:
            while answer.reason is None:
                if self._stop:
                    events = [(id, self.engine.cancel(id))]
                else:
                    events = self.engine.step()
                for whose, event in events:
                    if whose == id:
                        yield answer.take(event)
                if answer.reason is None and time.monotonic() - kept_at > KEEP_EVERY_S:
                    self._keep(answer)
                    kept_at = time.monotonic()
        finally:
            if answer.reason is None:  # whoever listened has gone
                answer.take(self.engine.cancel(id))
            self._keep(answer)
        if self.last is not None and self.last.turn is self.conversation.cursor:
            yield self.last
        if answer.error is not None:
            yield Failed(answer.error)

    def _keep(self, answer: Answer) -> None:
        """Make what there is of an answer a turn, or the turn of it a longer one."""
        text, reason = "".join(answer.pieces), answer.reason or PARTIAL
        if answer.turn is not None:
            self.conversation.take_back(answer.turn)
        elif not text and reason in (CANCELLED, PARTIAL, "error"):
            return
        answer.turn = turn = self.conversation.add(
            "assistant",
            text,
            finish_reason=reason,
            seed=answer.request.seed,
            made=answer.made(self.model_name),
        )
        self.looks[turn.number] = tuple(answer.looks)
        self._requests[turn.number] = answer.request
        self.n_used = len(answer.request.prompt_ids) + answer.n_new
        self.last = answer.ended(turn)
        self._told(turn)

    def _told(self, turn: Turn) -> None:
        if self.listener is not None:
            self.listener.said(self, turn)


def _whole_characters(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Return how many tokens there are before a character whose bytes are not all there."""
    n = len(ids)
    tail = b""
    while n and len(tail) < 4:  # no character has more bytes
        tail = tokenizer.token_bytes(ids[n - 1]) + tail
        n -= 1
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(tail)
        if decoder.getstate()[0]:
            return n
    return len(ids)


def _looks_back(stage: Stage) -> bool:
    """Return whether a stage may tell what was written from what was asked, or remembers it."""
    if stage.is_off:
        return False
    return stage.sampler.state_from is not None or stage.sampler.phase in LOOKING_BACK


def _clean(line: str) -> tuple[str, int]:
    """Return the line without blanks at its end, and how many code points were no characters."""
    text, n_bad = re.subn("[\ud800-\udfff]", "\ufffd", line)
    return text.rstrip(), n_bad


def _bug(error: Exception) -> GptkitError:
    text = " ".join(str(error).split())
    return GptkitError(
        f"internal error: {type(error).__name__}: {text}",
        hint="the conversation stands; GPTKIT_DEBUG=1 shows the traceback; please report it",
    )
