"""What begins with a slash: one function for each command; `/help` is made of their docstrings."""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import TYPE_CHECKING

from gptkit.chat.commands import files, talk, tuning, views
from gptkit.chat.events import Note, SessionEvent, Table
from gptkit.chat.plain import shortened
from gptkit.errors import NameClash, UnknownName, did_you_mean, plugin_code
from gptkit.plugin_api import Say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gptkit.chat.session import Session
    from gptkit.plugin_api import Command

    Function = Callable[[Session, str], Iterator[SessionEvent]]


def is_command(line: str) -> bool:
    """Whether a line is `/NAME ...`; `//` begins a message with a slash."""
    return line.startswith("/") and not line.startswith("//")


def run(session: Session, line: str) -> Iterator[SessionEvent]:
    """Run `/NAME REST`; raise UnknownName where there is no such command."""
    name = re.split(r"\s", line[1:], maxsplit=1)[0]
    rest = line[1 + len(name) :].strip()
    if name in OWN:
        yield from OWN[name](session, rest)
    elif name.rpartition("/")[2] in session.settings.registry.names("command"):
        found = session.settings.registry.find("command", name).value
        yield from _run_plugin(session, found(), rest)
    else:
        hint = f"{_near(session, name)}; // begins a message with a slash"
        raise UnknownName(f"unknown command '/{name}'", hint=hint)


def names(session: Session) -> list[str]:
    """Return the names of all commands: our own, and those of plugins.

    One that is taken, by us or by two plugins, stands with its distribution before it.
    """
    registry = session.settings.registry
    theirs = []
    for offer in registry.offers("command"):
        full = f"{offer.source.distribution}/{offer.name}"
        for name in (full,) if offer.name in OWN else (offer.name, full):
            with contextlib.suppress(NameClash):
                if registry.find("command", name) is offer:
                    theirs.append(name)
                    break
    return [*OWN, *sorted(theirs)]


def usage(session: Session, name: str) -> tuple[str, str]:
    """Return how a command is written and what it does."""
    if name in OWN:
        first = (OWN[name].__doc__ or "").partition("\n")[0]
        arguments, colon, does = first.partition(": ")
        arguments, does = (arguments, does) if colon else ("", first)
    else:
        found = session.settings.registry.find("command", name).value
        arguments, does = found.arguments, found.summary()
    return f"/{name} {arguments}".rstrip(), does


def choices(arguments: str) -> tuple[str, ...]:
    """Return the words of a usage that are typed as they stand, such as on and off of [on|off].

    What is in capitals, such as PATH, stands for something else.
    """
    return tuple(dict.fromkeys(re.findall(r"(?<![\w.-])[a-z][a-z0-9_-]*(?![\w.])", arguments)))


def help_(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[COMMAND]: List the commands, or say more of one."""
    if not rest:
        rows = [usage(session, name) for name in names(session)]
        yield Table((*rows, ("//TEXT", "Say a text that begins with a slash.")))
        return
    name = rest.removeprefix("/")
    if name not in names(session):
        raise UnknownName(f"unknown command '/{name}'", hint=_near(session, name))
    said = OWN.get(name) or session.settings.registry.find("command", name).value
    body = (inspect.getdoc(said) or "").splitlines()[1:]
    lines = [": ".join(usage(session, name)), *body]
    yield Table(tuple((line,) for line in lines))


def _near(session: Session, name: str) -> str:
    """Say which command somebody may mean by a name that is none."""
    if name in ELSEWHERE:
        return f"here it is '/{ELSEWHERE[name]}'"
    near = did_you_mean(name, names(session))
    return near.replace("'", "'/", 1) if near else "/help lists the commands"


def _run_plugin(session: Session, command: Command, rest: str) -> Iterator[SessionEvent]:
    with plugin_code(f"command '/{command.name}'"):
        for said in command.run(session, rest):
            if isinstance(said, Say):
                yield Note(f"said: {shortened(said.text)}")
                yield from session.say(said.text)
            else:
                yield Note(str(said))


def _named(functions: tuple[Function, ...]) -> Mapping[str, Function]:
    return {function.__name__.rstrip("_"): function for function in functions}


ELSEWHERE = {
    "?": "help",
    "bye": "exit",
    "clear": "reset",
    "new": "reset",
    "q": "exit",
    "quit": "exit",
    "read": "file",
    "regen": "retry",
    "regenerate": "retry",
}
"""What other chats call our commands."""

OWN = _named((help_, *talk.COMMANDS, *tuning.COMMANDS, *views.COMMANDS, *files.COMMANDS))
"""Name to function; it is given the session and what follows the name."""
