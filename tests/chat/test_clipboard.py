"""Who copies a text: programs that are there, or the terminal."""

import base64

import pytest

from gptkit.chat import clipboard
from gptkit.errors import RequestError


@pytest.fixture
def desktop(tmp_path, monkeypatch):
    """Return a function that puts a program on the path; what it is given is in a file."""
    for name in ("TMUX", "SSH_CONNECTION", "WAYLAND_DISPLAY", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(clipboard.shutil, "which", which(tmp_path))

    def put(name, *, code=0, **environ):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/args\ncat > {tmp_path}/got\nexit {code}\n'
        )
        program.chmod(0o755)
        for key, value in environ.items():
            monkeypatch.setenv(key, value)
        return tmp_path / "got"

    return put


def which(folder):
    return lambda name: str(folder / name) if (folder / name).exists() else None


def test_nobody_is_there(desktop):
    assert clipboard.copy("text") is None


@pytest.mark.parametrize(
    ("name", "display"),
    [("wl-copy", "WAYLAND_DISPLAY"), ("xclip", "DISPLAY"), ("xsel", "DISPLAY"), ("tmux", "TMUX")],
)
def test_a_program_of_the_desktop(desktop, name, display):
    got = desktop(name, **{display: ":0"})
    assert clipboard.copy("Grüße\n") == name
    assert got.read_text() == "Grüße\n"


def test_behind_ssh_the_desktop_is_that_of_another_machine(desktop):
    desktop("xclip", DISPLAY=":0", SSH_CONNECTION="1")
    assert clipboard.copy("x") is None


def test_one_that_fails_is_passed_over(desktop):
    desktop("wl-copy", code=1, WAYLAND_DISPLAY="wayland-0")
    got = desktop("xclip", DISPLAY=":0")
    assert clipboard.copy("x") == "xclip"
    assert got.read_text() == "x"


def test_the_sequence_for_a_terminal():
    assert clipboard.sequence("é") == f"\x1b]52;c;{base64.b64encode('é'.encode()).decode()}\x07"
    with pytest.raises(RequestError, match="74,994 bytes"):
        clipboard.sequence("x" * 75_000)
