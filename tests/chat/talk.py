"""A session over a fake model, and what its events say, as plain lists."""

from __future__ import annotations

from types import SimpleNamespace

from gptkit.chat.events import Answered, Failed, Left, Note, Table
from gptkit.chat.session import Session
from gptkit.chat.settings import ChatSettings, ChosenTemplate
from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Event
from gptkit.plugin_host import Found, discover, index, load
from tests.fakes import MarkedTemplate, chat_model


class RecordingEngine(Engine):
    """An engine that keeps the requests it was given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.requests = []

    def add(self, request):
        self.requests.append(request)
        return super().add(request)


def registry(*plugins):
    """Return the bundled plugins, and more from modules or objects with hooks."""
    ours = [found for found in discover(files=()) if found.distribution == "gptkit"]
    theirs = [
        Found(f"plugin{i}", f"dist{i}", "1", lambda plugin=plugin: plugin)
        for i, plugin in enumerate(plugins)
    ]
    return index(load([*ours, *theirs]))


def session(answers=("hello",), *, plugins=(), model=None, template=None, **settings):
    """Return a session whose model gives `answers` in order."""
    model = model or chat_model(answers)
    chosen = ChosenTemplate(template or MarkedTemplate(), "marked", "model")
    in_force = ChatSettings(registry(*plugins), **{"seed": 1, **settings})
    in_force.fit(model.config)
    engine = RecordingEngine(model.forward, model.tokenizer, model.eos_ids)
    return Session(engine, model, in_force, chosen)


def sort(events):
    """Return what events said, by kind."""
    said = SimpleNamespace(text="", notes=[], rows=[], errors=[], answers=[], left=False, n=0)
    for event in events:
        match event:
            case Event():
                said.text += event.text
                said.n += 1
            case Note():
                said.notes.append(event.text)
            case Table():
                said.rows += event.rows
            case Failed():
                said.errors.append(event.error)
            case Answered():
                said.answers.append(event)
            case Left():
                said.left = True
    return said


def say(session, line):
    """Return what came of one line."""
    return sort(session.handle(line))


def prompt(session, n=-1):
    """Return the prompt of the n-th request as text with its control tokens visible."""
    tokenizer = session.model.tokenizer
    names = {id: name for name, id in tokenizer.special.items()}
    ids = session.engine.requests[n].prompt_ids
    return b"".join(
        names[id].encode() if id in names else tokenizer.token_bytes(id) for id in ids
    ).decode()
