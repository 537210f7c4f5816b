"""Commands that change how the model speaks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gptkit.chat.events import Note, SessionEvent, Table
from gptkit.decoding.presets import PRESETS
from gptkit.errors import ConfigError
from gptkit.plugin_api import OFF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.chat.session import Session


def set_(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[NAME VALUE]: Change a sampler, a stopping criterion or another setting; alone, list them.

    /set temperature 0.7      the stage's first parameter; it joins the chain at its place
    /set top_p off            off, for whatever can be
    /set greedy               a picker takes the place of the other
    /set NAME KEY=VALUE ...   several parameters, or one that is not the first
    /set stop ["\\n", "You:"]  a list, or text with escapes, as YAML has it
    """
    if not rest:
        listed = session.settings.listing()
        yield Table(tuple((s.name, s.value, s.span, s.summary) for s in listed))
        return
    yield Note(session.settings.set(rest))


def chain(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[STAGE before|after STAGE]: Show the chain in order, ? marks what is off, or move a stage."""
    settings = session.settings
    if rest:
        settings.move(rest)
    rows = [
        (f"{'?' * stage.is_off}{stage.brief}", stage.sampler.phase, stage.sampler.summary())
        for stage in settings.chain
    ]
    yield Table(tuple(rows))


def preset(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[NAME]: Take the chain of another engine; alone, list them."""
    if not rest:
        yield Table(tuple((one.name, one.engine) for one in PRESETS.values()))
        return
    yield Note(session.settings.set(f"preset {rest}"))


def seed(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[NUMBER]: Set the seed that all draws follow from, or show it."""
    yield Note(session.settings.set(f"seed {rest}") if rest else f"seed={session.settings.seed}")


def max_(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[TOKENS]: Set how long an answer may be, or show it."""
    if rest:
        session.settings.set(f"max_new_tokens {rest}")
    yield Note(f"max_new_tokens={session.settings.stops.max_new_tokens}")


def stop(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[TEXT]: End answers before a text; off forgets them all; alone, show them."""
    settings = session.settings
    if rest:
        before = settings.stop.get("strings", ())
        old = [before] if isinstance(before, str) else list(before)
        settings.set("stop off" if rest == OFF else f"stop {json.dumps([*old, rest])}")
    yield Note(f"stop: {settings.stop_block().get('strings') or OFF}")


def system(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[TEXT]: Set the instruction that stands before the talk; alone, show it; off removes it."""
    if rest:
        session.say_system("" if rest == OFF else rest)
    yield Note(f"system: {session.settings.system or OFF}")


def template(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[NAME|show]: Write prompts by another chat template, or show the exact prompt."""
    from gptkit.chat.commands.views import prompt

    if rest == "show":
        yield from prompt(session, "")
        return
    if rest:
        session.use_template(session.settings.template(rest))
    yield Note(f"template: {session.chosen.name}")


def model(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[NAME]: Talk to another model from here on, or show which it is."""
    if rest:
        session.use_model(rest)
        for line in session.model.notes:
            yield Note(line)
    size = session.model.config.block_size
    yield Note(f"model: {session.model.name}, context {size:,} tokens")


def trace(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[on|off]: Keep what each stage does to each token to come; /probs shows it at once."""
    if rest not in ("on", OFF, ""):
        raise ConfigError(f"/trace: {rest!r} is neither on nor off")
    if rest:
        session.traces = rest == "on"
    yield Note(f"trace: {'on' if session.traces else OFF}")


COMMANDS = (set_, chain, preset, seed, max_, stop, system, template, model, trace)
