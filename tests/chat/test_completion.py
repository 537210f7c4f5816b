"""What the Tab key offers."""

from __future__ import annotations

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from gptkit.chat.commands import names
from gptkit.chat.completion import CommandCompleter
from gptkit.decoding.presets import PRESET_NAMES
from gptkit.plugin_api import Command, hookimpl
from tests.chat.talk import say, session


class Shout(Command):
    """Say a text loudly."""

    name = "shout"
    arguments = "[twice|TEXT]"

    def run(self, chat, rest):
        yield rest.upper()


class Plugin:
    @staticmethod
    @hookimpl
    def gptkit_commands():
        yield Shout


@pytest.fixture
def talk():
    return session(["one", "two"], plugins=[Plugin])


def offered(talk, text):
    """Return what stands in the line after each offer was taken, and what is said of it."""
    found = CommandCompleter(lambda: talk).get_completions(Document(text), CompleteEvent())
    return {
        text[: len(text) + one.start_position] + one.text: one.display_meta_text for one in found
    }


def test_commands_those_of_plugins_too(talk):
    assert list(offered(talk, "/")) == [f"/{name}" for name in names(talk)]
    assert offered(talk, "/sho") == {
        "/show": "Show what is in force, and where each value came from.",
        "/shout": "Say a text loudly.",
    }


@pytest.mark.parametrize("text", ["", "text", "//s", "/file\nx", "/undo ", "/nonsense x"])
def test_nothing(talk, text):
    assert offered(talk, text) == {}


def test_without_a_session_yet():
    assert offered(None, "/") == {}


def test_settings_values_and_ranges(talk):
    say(talk, "/set temperature 0.7")
    found = offered(talk, "/set top_")
    assert {"/set top_k", "/set top_p"} <= set(found)
    assert "at least 0 and at most 1" in found["/set top_p"]
    found = offered(talk, "/set temperature ")
    assert {"/set temperature 0.7", "/set temperature off"} <= set(found)
    found = offered(talk, "/set on_overflow ")
    assert "/set on_overflow off" not in found
    assert "/set on_overflow drop_oldest" in found
    for line in found:
        assert not say(talk, line).errors, line
    assert "/set dry multiplier=" in offered(talk, "/set dry m")


def test_every_value_that_is_offered_is_taken(talk):
    for setting in list(offered(talk, "/set ")):
        for line in offered(talk, f"{setting} "):
            if not line.endswith("="):
                errors = say(talk, line).errors
                assert not errors, (line, errors)


def test_turns_and_branches(talk):
    say(talk, "first words")
    say(talk, "/retry")
    assert offered(talk, "/goto ") == {
        "/goto 1": "user: first words",
        "/goto 2": "assistant: one",
        "/goto 3": "assistant: one",
    }
    assert set(offered(talk, "/branch ")) == {"/branch 1", "/branch 2"}
    assert offered(talk, "/edit 4") == {}


def test_names(talk):
    assert set(offered(talk, "/preset ")) == {f"/preset {name}" for name in PRESET_NAMES}
    assert "/model mini" in offered(talk, "/model ")
    assert {"/template show", "/template dialogue"} <= set(offered(talk, "/template "))
    assert "/template qa" not in offered(talk, "/template ")  # no chat template
    assert "/help shout" in offered(talk, "/help sh")
    assert set(offered(talk, "/trace ")) == {"/trace on", "/trace off"}
    assert set(offered(talk, "/markdown ")) == {"/markdown on", "/markdown off"}
    assert offered(talk, "/shout ") == {"/shout twice": "Say a text loudly."}
    assert offered(talk, "/shout twice ") == offered(talk, "/nothing ") == {}
    assert "/compare hf nanogpt" in offered(talk, "/compare hf n")


def test_chain(talk):
    say(talk, "/set temperature 0.7")
    assert set(offered(talk, "/chain ")) == {"/chain temperature", "/chain sample"}
    assert set(offered(talk, "/chain temperature ")) == {
        "/chain temperature before",
        "/chain temperature after",
    }
    assert "/chain temperature before sample" in offered(talk, "/chain temperature before s")
    assert offered(talk, "/chain temperature before sample ") == {}


def test_paths(talk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "two words.txt", ".hidden", "\x1b[2Jevil", "it's"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside.md").write_text("x")
    assert set(offered(talk, "/file ")) == {
        "/file notes.txt",
        "/file 'two words.txt'",
        "/file folder/",
        """/file 'it'"'"'s'""",
    }
    assert set(offered(talk, "/file .")) == {"/file .hidden"}
    assert set(offered(talk, "/file 'two w")) == {"/file 'two words.txt'"}
    assert set(offered(talk, "/save folder/")) == {"/save folder/inside.md"}
    assert offered(talk, "/file notes.txt What") == {}
    assert offered(talk, "/file nowhere/") == {}
    for line in ("/file 'two words.txt'", """/file 'it'"'"'s'"""):
        assert not say(talk, line).errors
    monkeypatch.setenv("HOME", str(tmp_path))
    assert set(offered(talk, "/file ~/no")) == {"/file ~/notes.txt"}
