"""Editing a text in another program."""

from __future__ import annotations

import sys

import pytest

from gptkit.chat.editor import edited
from gptkit.errors import ConfigError, ResourceError


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Return a function: the user's editor is this Python program, which sees `path`."""

    def use(code, name="EDITOR"):
        program = tmp_path / "an editor.py"
        program.write_text(f"import pathlib, sys\npath = pathlib.Path(sys.argv[1])\n{code}\n")
        monkeypatch.setenv(name, f"{sys.executable} '{program}'")

    monkeypatch.delenv("VISUAL", raising=False)
    return use


def test_a_new_text(editor):
    editor("path.write_text(path.read_text().replace('a', 'ä') + '\\n')")
    assert edited("a cat\nsat") == "ä cät\nsät"


@pytest.mark.parametrize(
    "code", ["pass", "path.write_text(path.read_text() + '\\n')", "path.write_text(' \\n')"]
)
def test_unchanged_or_empty(editor, code):
    editor(code)
    assert edited("words") is None


def test_visual_goes_before_editor(editor, monkeypatch):
    monkeypatch.setenv("EDITOR", "/nowhere")
    editor("path.write_bytes(b'x\\xff')", "VISUAL")
    assert edited("words") == "x\ufffd"


def test_what_may_go_wrong(editor, monkeypatch):
    editor("sys.exit(3)")
    with pytest.raises(ResourceError, match="ended with 3; nothing is changed"):
        edited("x")
    editor("path.unlink()")
    with pytest.raises(ResourceError, match="left no text"):
        edited("x")
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    with pytest.raises(ConfigError, match="can't run the editor '/no/such/editor'"):
        edited("x")
    monkeypatch.setenv("EDITOR", "'open")
    with pytest.raises(ConfigError, match="EDITOR"):
        edited("x")
