"""What begins with a slash: one function for each command; `/help` is made of their docstrings."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from gptkit.chat import save as saving
from gptkit.chat.events import Left, Note, SessionEvent, Table
from gptkit.chat.settings import COMMAND_LINE, DEFAULT
from gptkit.errors import ConfigError, UnknownName, did_you_mean
from gptkit.plugin_api import OFF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gptkit.chat.session import Session

    Command = Callable[[Session, str], Iterator[SessionEvent]]

COMMANDS: dict[str, Command] = {}
"""Name to function; it is given the session and what follows the name."""


def command(function: Command) -> Command:
    """Make a function the command of its name."""
    COMMANDS[function.__name__.rstrip("_")] = function
    return function


def run(session: Session, line: str) -> Iterator[SessionEvent]:
    """Run `/NAME REST`; raise UnknownName where there is no such command."""
    name = re.split(r"\s", line[1:], maxsplit=1)[0]
    rest = line[1 + len(name) :].strip()
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS)
        hint = near.replace("'", "'/", 1) if near else "/help lists the commands"
        raise UnknownName(
            f"unknown command '/{name}'", hint=f"{hint}; // begins a message with a slash"
        )
    yield from COMMANDS[name](session, rest)


def usage(name: str) -> tuple[str, str]:
    """Return how a command is written and what it does, from its docstring's first line."""
    first = (COMMANDS[name].__doc__ or "").partition("\n")[0]
    arguments, _, does = first.rpartition(": ")
    return f"/{name} {arguments}".rstrip(), does


@command
def help_(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[COMMAND]: List the commands, or say more of one."""
    if rest:
        name = rest.removeprefix("/")
        if name not in COMMANDS:
            raise UnknownName(f"unknown command '/{name}'", hint=did_you_mean(name, COMMANDS))
        body = inspect.getdoc(COMMANDS[name]) or ""
        lines = [": ".join(usage(name)), *body.splitlines()[1:]]
        yield Table(tuple((line,) for line in lines))
        return
    yield Table(
        (
            *(usage(name) for name in COMMANDS),
            ("//TEXT", "Say a text that begins with a slash."),
        )
    )


@command
def reset(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Start a new conversation; the settings stay."""
    session.reset()
    yield Note("a new conversation")


@command
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


@command
def show(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Show what is in force, and where each value came from."""
    settings, model = session.settings, session.model
    rows = [("model", f"{model.name}, {model.backend} {model.dtype} on {model.device}", "")]
    rows.append(("template", session.chosen.name, session.chosen.source))
    rows.append(("system", settings.system or OFF, settings.system_from))
    for i, stage in enumerate(settings.chain):
        source = settings.chain_from.get(stage.label, DEFAULT)
        rows.append(("" if i else "chain", str(stage), source))
    for name, choice in session.method.named.items():
        rows.append((name, str(choice), COMMAND_LINE))
    for i, (name, value) in enumerate(session.settings.stop_block().items()):
        shown = name if value is None else f"{name}={value}"
        rows.append(("" if i else "stop", shown, settings.stop_from.get(name, DEFAULT)))
    rows += [("", f"{stop.text!r}", "template") for stop in session.chosen.template.stops]
    rows.append(("seed", str(settings.seed), settings.seed_from))
    rows.append(("on_overflow", settings.on_overflow, settings.overflow_from))
    used, size = session.n_used, model.config.block_size
    rows.append(("context", f"{used:,} of {size:,} tokens used, {size - used:,} left", ""))
    path = session.conversation.path()
    left_out = f", {session.n_left_out} left out" if session.n_left_out else ""
    rows.append(("turns", f"{len(path)}{left_out}", ""))
    yield Table(tuple(rows))


@command
def system(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[TEXT]: Set the instruction that stands before the talk; alone, show it; off removes it."""
    if rest:
        session.say_system("" if rest == OFF else rest)
    yield Note(f"system: {session.settings.system or OFF}")


@command
def save(session: Session, rest: str) -> Iterator[SessionEvent]:
    """FILE: Write NAME.yaml, the settings as a job, or NAME.md or .jsonl, the conversation."""
    if not rest:
        raise ConfigError("/save needs a file name", hint="such as talk.yaml, talk.md, talk.jsonl")
    path = saving.save(session, rest)
    yield Note(f"saved {path}")


@command
def exit_(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Leave; so does Ctrl-D."""
    yield Left()
