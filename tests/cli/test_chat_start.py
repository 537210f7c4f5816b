"""How `gptkit chat` starts and ends: the prompt before the model, and the terminal as it was."""

import os
import re
import shutil
import sys
import time

import pytest

from tests.cli.conftest import GPTKIT, TORCH
from tests.cli.screen import Terminal, environment

slow = pytest.mark.slow
GATE = """
import os, time
until = time.monotonic() + 120
while not os.path.exists({gate!r}) and time.monotonic() < until:
    time.sleep(0.01)
"""


@pytest.fixture
def begin():
    """Return a function that starts a program in a terminal, and ends it with the test."""
    started = []

    def run(command, env, **size):
        started.append(Terminal(command, env=env, **size))
        return started[-1]

    yield run
    for terminal in started:
        terminal.close()


# The start --------------------------------------------------------------------------------------


@pytest.fixture
def loads(begin, model, env, tmp_path):
    """Return a chat whose model comes when its `come` is called."""
    gate, plugin = tmp_path / "gate", tmp_path / "gate.py"
    plugin.write_text(GATE.format(gate=str(gate)))
    given = env("the answer")
    given["GPTKIT_PLUGINS"] += f"{os.pathsep}{plugin}"
    chat = begin([*GPTKIT, "chat", "-m", str(model), "-s", "scripted", *TORCH], given)
    chat.come = gate.touch
    return chat


def test_the_prompt_is_there_before_the_model_and_takes_what_is_typed(loads):
    loads.type("h")
    text = loads.wait("> h", "starting ...")
    assert "context" not in text
    loads.type("ix\x7f\r")
    loads.wait("then this is answered. Ctrl-C takes it back")
    loads.type("\x03")
    loads.wait("takes it back\n> hi")
    loads.type(" you")
    loads.come()
    text = loads.wait("/help lists", "> hi you\n")
    assert text.index("/help lists") < text.index("> hi you")
    loads.type("!\r")
    loads.wait("> hi you!\nthe answer")


def test_what_was_sent_before_the_model_came_is_answered(loads):
    loads.wait("starting ...")
    loads.type("hello\r")
    loads.wait("starting; then this is answered")
    loads.come()
    text = loads.wait("the answer")
    assert text.index("> hello") < text.index("/help lists") < text.index("the answer")
    loads.wait_for_prompt()


@pytest.mark.parametrize(
    ("keys", "gap_s"),
    [("\x04", 0), ("/exit\r", 0), ("\x03\x03", 0.05), pytest.param("\x03\x03", 0.2, marks=slow)],
)
def test_leaving_does_not_wait_for_the_model(loads, keys, gap_s):
    """The second Ctrl-C was lost where it came while the first prompt was ending."""
    loads.wait("starting ...")
    for key in keys if keys[0] == "\x03" else [keys]:
        loads.type(key)
        time.sleep(gap_s)
    assert loads.wait_for_exit(timeout_s=10) == 0
    assert loads.modes_after == loads.modes_before


@pytest.mark.parametrize("typed", ["hello", "hello\r"])
def test_a_load_that_fails_is_one_line_and_an_exit_code(begin, typed):
    chat = begin([*GPTKIT, "chat", "-m", "no-such-model"], environment())
    chat.type(typed)
    assert chat.wait_for_exit() == 3
    text = chat.text()
    assert "gptkit: error: no such model directory: no-such-model" in text
    assert "Traceback" not in text
    assert chat.modes_after == chat.modes_before


# The end ----------------------------------------------------------------------------------------


def settled(raw):
    """Check that the cursor is seen, paste comes without brackets, and the first screen is back."""
    for mode, state in ((b"25", b"h"), (b"2004", b"l"), (b"1049", b"l")):
        found = re.findall(rb"\x1b\[\?%s([hl])" % mode, raw)
        assert not found or found[-1] == state, mode


def at_an_answer(chat, tmp_path):
    chat.type("go\r")
    chat.wait("abcde")


def at_the_probabilities(chat, tmp_path):
    chat.type("go\r")
    chat.wait("abcde")
    chat.type("\x03")
    chat.wait("[stopped]")
    chat.type("/probs\r")
    chat.wait("token 1 of")


def at_an_editor(chat, tmp_path):
    chat.type("go\r")
    chat.wait("abcde")
    chat.type("\x03")
    chat.wait("[stopped]")
    chat.type("/edit\r")
    deadline = time.monotonic() + 120
    while not (tmp_path / "edits").exists() and time.monotonic() < deadline:
        chat._read()


def at_the_prompt(chat, tmp_path):
    chat.type("some words")


@pytest.mark.parametrize(
    "place",
    [
        at_an_answer,
        at_the_probabilities,
        pytest.param(at_the_prompt, marks=pytest.mark.slow),
        pytest.param(at_an_editor, marks=pytest.mark.slow),
    ],
)
def test_the_terminal_is_as_it_was_after_a_signal(start, tmp_path, place):
    editor = tmp_path / "editor.py"
    editor.write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'edits')!r}).touch()\ntime.sleep(20)\n"
    )
    more = {"EDITOR": f"{sys.executable} {editor}"}
    chat = start("abcdefghij" * 30, delay_s=0.02, env_more=more)
    place(chat, tmp_path)
    chat.child.kill(15)
    assert chat.wait_for_exit() == 143
    assert chat.modes_after == chat.modes_before
    settled(chat.raw)


@pytest.mark.slow
def test_the_shell_has_its_terminal_while_a_chat_is_stopped(begin, model, env, tmp_path):
    if not shutil.which("bash"):
        pytest.skip("no bash")
    given = env("abcdefghij" * 20, "next", PS1="$ ")
    shell = begin(["bash", "--norc", "--noprofile", "-i"], given)
    shell.type("stty -a > before\r".replace("before", str(tmp_path / "before")))
    chat = " ".join([*GPTKIT, "chat", "-m", str(model), "-s", "scripted=0.03", *TORCH])
    shell.type(f"{chat}\r")
    shell.wait("/help lists")
    shell.wait_for_prompt()
    for seen in ("abcdefgh", "next"):  # in an answer, then at the prompt
        shell.type("go\r")
        shell.wait(seen)
        if seen == "next":
            shell.wait_for_prompt()
        shell.type("\x1a")
        shell.wait("Stopped", since=seen)
        shell.type(f"stty -a > {tmp_path}/{seen}\r")
        shell.type("fg\r")
        shell.wait("$ fg", since="Stopped")
        shell.type("unseen")
        if seen != "next":
            shell.wait("ij\n\n> unseen")
        shell.type("\x03")
        shell.wait_for_prompt()
        before = (tmp_path / "before").read_text()
        assert (tmp_path / seen).read_text() == before
    shell.type("\x04")
    shell.wait("$", since="fg")
    shell.type(f"stty -a > {tmp_path}/after; exit\r")
    shell.wait_for_exit()
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
