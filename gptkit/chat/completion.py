"""What may stand at the cursor: commands, and behind each what it takes."""

from __future__ import annotations

import contextlib
import os
import shlex
from typing import TYPE_CHECKING

from prompt_toolkit.completion import Completer, Completion

from gptkit.text.safe import safe, safe_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from gptkit.chat.session import Session
    from gptkit.chat.settings import Setting
    from gptkit.plugin_api import Param

    Word = tuple[str, str]
    """What may be written, and what to say of it."""

MAX_PATHS = 200
FIRST_WORDS = 40


class CommandCompleter(Completer):
    """Completes lines that begin with a slash, once there is a session to ask."""

    def __init__(self, session: Callable[[], Session | None]) -> None:
        self.session = session

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        """Yield what may stand at the cursor."""
        text = document.text_before_cursor
        session = self.session()
        if session is None:
            return
        from gptkit.chat.commands import is_command

        if not is_command(text) or "\n" in text:
            return
        name, blank, rest = text[1:].partition(" ")
        if not blank:
            yield from _commands(session, name)
        elif name in PATHS:
            yield from _paths(rest)
        else:
            *before, last = rest.split(" ")
            for word, said in _words(session, name, [one for one in before if one]):
                if word.startswith(last) and word.isprintable():
                    yield Completion(
                        word, -len(last), display=safe(word), display_meta=safe_line(said)
                    )


def _commands(session: Session, begun: str) -> Iterator[Completion]:
    from gptkit.chat.commands import names, usage

    for name in names(session):
        if name.startswith(begun):
            written, does = usage(session, name)
            yield Completion(
                f"/{name}", -len(begun) - 1, safe_line(written), display_meta=safe_line(does)
            )


def _words(session: Session, command: str, before: list[str]) -> Iterable[Word]:
    """Return what may follow `before` behind a command."""
    if command == "chain":
        return _moves(session, before)
    if command == "compare":
        return (*_presets(), *_samplers(session))
    if command == "set":
        return _settings(session, before)
    if before:
        return ()
    known = WORDS.get(command)
    return known(session) if known is not None else _literals(session, command)


def _names(session: Session) -> Iterator[Word]:
    from gptkit.chat.commands import names, usage

    return ((name, usage(session, name)[1]) for name in names(session))


def _literals(session: Session, command: str) -> Iterator[Word]:
    """Yield the words that its usage names."""
    from gptkit.chat.commands import choices, names, usage

    if command in names(session):
        written, does = usage(session, command)
        yield from ((word, does) for word in choices(written.partition(" ")[2]))


def _turns(session: Session) -> Iterator[Word]:
    turns = session.conversation.turns
    return ((str(turn.number), f"{turn.role}: {turn.text[:FIRST_WORDS]}") for turn in turns)


def _ways(session: Session) -> Iterator[Word]:
    ways = enumerate(session.conversation.ways(), start=1)
    return ((str(i), turn.text[:FIRST_WORDS]) for i, turn in ways)


def _models(session: Session) -> Iterator[Word]:
    from gptkit.checkpoints.library import installed

    return ((name, str(place)) for name, place in installed())


def _templates(session: Session) -> Iterator[Word]:
    from gptkit.errors import GptkitError

    yield "show", "the exact prompt"
    for offer in session.settings.registry.offers("template"):
        with contextlib.suppress(GptkitError):  # it is no chat template, or a broken one
            session.settings.template(offer.name)
            yield offer.name, offer.summary


def _presets(session: Session | None = None) -> tuple[Word, ...]:
    from gptkit.decoding.presets import PRESET_NAMES

    return tuple((name, "preset") for name in PRESET_NAMES)


def _samplers(session: Session) -> Iterator[Word]:
    offers = session.settings.registry.offers("sampler")
    return ((offer.name, offer.summary) for offer in offers)


def _off(session: Session) -> tuple[Word, ...]:
    return (("off", "none at all"),)


def _moves(session: Session, before: list[str]) -> Iterable[Word]:
    stages = [(stage.label, str(stage)) for stage in session.settings.chain]
    if len(before) == 1:
        return ("before", "computed earlier"), ("after", "computed later")
    return stages if len(before) in (0, 2) else ()


def _settings(session: Session, before: list[str]) -> Iterator[Word]:
    """Yield names of settings; behind one its values, and its parameters with their ranges."""
    for setting in session.settings.listing():
        meta = f"{setting.value}  {setting.span or setting.summary}"
        if not before:
            yield setting.name, meta
        elif setting.name == before[0]:
            if len(before) == 1:
                yield from ((word, meta) for word in _values(session, setting))
            for key, declared in _params(session, setting.name).items():
                yield f"{key}=", declared.range_text or declared.help


def _values(session: Session, setting: Setting) -> list[str]:
    """Return what a setting stands at, and what else it may stand at."""
    from gptkit.chat.settings import OWN

    params = _params(session, setting.name)
    declared = OWN.get(setting.name) or next(iter(params.values()), None)
    words = [setting.value]
    if declared is not None:
        words += [*declared.choices, declared.show(declared.default)]
    is_stop = setting.name in session.settings.registry.names("stopping")
    if is_stop or (params and declared is not None and declared.off is not None):
        words.append("off")
    return [
        word for word in dict.fromkeys(words) if word not in ("-", "on", "") and " " not in word
    ]


def _params(session: Session, name: str) -> Mapping[str, Param]:
    """Return the parameters of a sampler or a stopping criterion."""
    registry = session.settings.registry
    for kind in ("sampler", "stopping"):
        for offer in registry.offers(kind):
            if offer.name == name:
                params: Mapping[str, Param] = offer.value.params
                return params
    return {}


WORDS: dict[str, Callable[[Session], Iterable[Word]]] = {
    "help": _names,
    "goto": _turns,
    "edit": _turns,
    "branch": _ways,
    "model": _models,
    "template": _templates,
    "preset": _presets,
    "system": _off,
    "stop": _off,
}
PATHS = ("file", "save")


def _paths(rest: str) -> Iterator[Completion]:
    """Yield the files and folders that a path begins; one with a blank is quoted."""
    begun = rest.lstrip()
    try:
        words = shlex.split(begun)
    except ValueError:  # an open quote: the path goes on
        words = [begun[1:]]
    if len(words) > 1 or (begun[-1:] == " " and words):
        return
    written = words[0] if words else ""
    folder, name = os.path.split(written)
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            found = sorted((one.name, one.is_dir()) for one in entries)
    except OSError:
        return
    shown = [one for one in found if one[0].startswith(name) and one[0].isprintable()]
    for entry, is_folder in shown[:MAX_PATHS]:
        if entry.startswith(".") and not name.startswith("."):
            continue
        path = os.path.join(folder, entry) + "/" * is_folder
        home = written.startswith("~")  # quoted, it would be a folder of that name
        word = path if home and " " not in path else shlex.quote(path)
        yield Completion(word, -len(begun), display=safe(entry + "/" * is_folder))
