"""Examine a slash command: it shows lines or says something, whatever is typed behind its name."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gptkit.chat.commands import ELSEWHERE, OWN, choices
from gptkit.errors import GptkitError
from gptkit.plugin_api import Say
from gptkit.testing import imports, texts, values
from gptkit.testing.report import Examination

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.plugin_api import Command
    from gptkit.testing.report import Report

WIDEST = 60
"""Characters of a summary that fit beside the names on /help."""
MOST = 1000
"""Lines and sayings of one run, after which it is said to have no end."""
N_TEXTS = 20
SLOW_MS = 200.0
"""Milliseconds until the first line above which a command is called slow."""
TURNS = (("user", "What is a token?"), ("assistant", "A small piece of text."))


@dataclass(slots=True)
class Talk:
    """A talk as a command sees it: nothing but what `Chat` promises."""

    said: list[tuple[str, str]] = field(default_factory=list)
    model_name: str = "kit"

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Role and text of each turn so far."""
        return tuple(self.said)


def examine(cls: type[Command], *, seed: int = 0) -> Report:
    """Examine a command class."""
    exam = Examination(cls.name, "command", cls.summary(), imports.file_of(cls))
    imports.check(exam, cls)
    rng = random.Random(seed)
    if exam.check("L1", "name, arguments and summary are what /help needs", _declaration, cls):
        if exam.check("L2", "it shows lines, or says something", _runs, cls, rng):
            exam.check("L3", "it prints nothing itself, and leaves the turns alone", _silence, cls)
            exam.check("L4", "milliseconds to the first line", _cost, cls)
    return exam.report()


def _declaration(exam: Examination, cls: type[Command]) -> None:
    values.check_declared(exam, cls, "L1")
    if cls.name in OWN:
        exam.find("L1", f"/{cls.name} is a bundled command, which is run in its place")
    elif cls.name in ELSEWHERE:
        exam.find("L1", f"/{cls.name} is what others call /{ELSEWHERE[cls.name]}", "warning")
    if not isinstance(cls.arguments, str) or "\n" in cls.arguments or ": " in cls.arguments:
        exam.find("L1", f"arguments is {cls.arguments!r}, not a line such as 'PATH [TEXT]'")
    if not cls.summary().endswith("."):
        exam.find("L1", f"the summary {cls.summary()!r} is no sentence", "warning")
    if len(cls.summary()) > WIDEST:
        exam.find("L1", f"the summary has {len(cls.summary())} characters, {WIDEST} fit", "warning")
    cls()


def _typed(cls: type[Command], rng: random.Random) -> Iterator[str]:
    """Yield what may stand behind the name: nothing, the words of its usage, any text."""
    words = choices(cls.arguments)
    yield from ("", *words, *map(" ".join, itertools.permutations(words, 2)))
    yield from ("1", "-1", "99", "x", "off", "a b", "'", "--help", "/", "no/such/file.txt")
    for _ in range(N_TEXTS):
        yield texts.nasty(rng, 6).strip()


def _run(exam: Examination, cls: type[Command], talk: Talk, rest: str) -> None:
    """Run it once as a chat would; a GptkitError is an answer, too."""
    typed = f"/{cls.name} {rest!r}"
    before, n = talk.turns, 0
    with contextlib.suppress(GptkitError):
        for said in cls().run(talk, rest):
            if talk.turns != before:
                exam.find("L3", f"{typed} changes the turns: yield Say(TEXT) for that")
            if isinstance(said, Say) and isinstance(said.text, str):
                if not said.text.strip():
                    exam.find("L2", f"{typed} says an empty text")
                talk.said += [("user", said.text), ("assistant", "An answer.")]
                before = talk.turns
            elif not isinstance(said, str):
                exam.find("L2", f"{typed} yields {said!r}, neither a line nor a Say")
            n += 1
            if n == MOST:
                exam.find("L2", f"{typed} yields {MOST:,} lines and no end")
                return


def _runs(exam: Examination, cls: type[Command], rng: random.Random) -> None:
    """Run it in an empty folder, with all that may be typed, early and late in a talk."""
    for turns in ((), TURNS, TURNS * 20):
        with _somewhere():
            for rest in _typed(cls, rng):
                _run(exam, cls, Talk(list(turns)), rest)


def _silence(exam: Examination, cls: type[Command]) -> None:
    printed = io.StringIO()
    with _somewhere(), contextlib.redirect_stdout(printed):
        for rest in ("", *choices(cls.arguments)):
            _run(exam, cls, Talk(list(TURNS)), rest)
    if text := printed.getvalue():
        exam.find("L3", f"it prints {text[:20]!r} itself: yield the lines")


def _cost(exam: Examination, cls: type[Command]) -> None:
    best = float("inf")
    with _somewhere():
        for _ in range(3):
            start = time.perf_counter()
            with contextlib.suppress(GptkitError):
                next(iter(cls().run(Talk(list(TURNS)), "")), None)
            best = min(best, 1000 * (time.perf_counter() - start))
    exam.costs["1 run, ms"] = best
    if best > SLOW_MS:
        exam.find("L4", f"{best:.0f} ms to the first line", "warning")


@contextlib.contextmanager
def _somewhere() -> Iterator[None]:
    """Work in a folder of our own, since it may write files; what it would read has an end."""
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            yield
    finally:
        sys.stdin = stdin
