"""`gptkit chat` in a real pseudo-terminal, and in a pipe."""

import json
import stat
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import GPTKIT


def test_a_talk(start):
    """Prompt, answer, markup, commands, several lines, status, Ctrl-D."""
    chat = start("Hello there!", "A second\nanswer.", "[bold]x[/bold] [/foo] :smile:", "ok")
    assert "/help lists the commands" in chat.text()
    chat.type("hi\r")
    chat.wait("Hello there!\n\n>")
    chat.wait_for_prompt()
    assert "> hi\nHello there!\n" in chat.text()
    chat.wait("17 of 512, 495 left", "reused")

    chat.type("one\x1b\rtwo\r")  # Alt-Enter begins a line
    chat.wait("> one\n  two\nA second\nanswer.")
    chat.wait_for_prompt()

    chat.type("[bold] [/foo] [/] [link=x] :smile:\r")
    said = chat.wait("[bold]x[/bold] [/foo] :smile:")
    assert "> [bold] [/foo] [/] [link=x] :smile:\n" in said
    chat.wait_for_prompt()

    chat.type("/set top_p 7\r")
    chat.wait("error: top_p: 7 is above 1")
    chat.wait_for_prompt()
    chat.type("/rest\r")
    chat.wait("hint: did you mean '/reset'?")
    chat.wait_for_prompt()
    chat.type("/show\r")
    chat.wait("scripted", "command line", "chat")
    chat.wait_for_prompt()

    chat.type("\x1b[200~pasted line\nand another\x1b[201~")  # bracketed paste
    chat.wait("> pasted line\n  and another")
    chat.type("\r")
    chat.wait("  and another\nok")
    chat.wait_for_prompt()

    chat.type("\x04")
    assert chat.wait_for_exit() == 0


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(start):
    chat = start("abcdefghij" * 30, "the next", delay_s=0.05)
    chat.type("go\r")
    chat.wait("abcde")
    chat.type("typed meanwhile")
    pressed = time.monotonic()
    chat.type("\x03")
    chat.wait("[stopped]", timeout_s=5)
    # 200 ms is what a user may wait; the rest is for a machine that is busy with other tests.
    assert time.monotonic() - pressed < 1.0
    chat.wait("> typed meanwhile")
    assert "abcde" in chat.text()
    assert "^C" not in chat.text()
    chat.type("\r")
    chat.wait("the next\n\n>")  # what was said is in the context, or this were the first answer
    chat.wait_for_prompt()

    # At a prompt: the first empties the line, of the others two in a row leave.
    chat.type("some words\x03")
    chat.wait_for_prompt()
    chat.type("\x03")
    chat.wait("Ctrl-C again leaves")
    chat.wait_for_prompt()
    chat.type("/system\r")
    chat.wait("system: off")
    chat.wait_for_prompt()
    chat.type("\x03")
    time.sleep(0.2)
    chat.wait_for_prompt()
    chat.type("\x03")
    assert chat.wait_for_exit() == 0


def test_alt_enter_during_an_answer_begins_a_line_too(start):
    """It was Enter there: the terminal made its carriage return another key."""
    chat = start("abcdefghij" * 4, "two", delay_s=0.05)
    chat.type("go\r")
    chat.wait("abc")
    chat.type("first\x1b\rsecond\r")
    chat.wait("> first\n  second")


def test_input_history_is_private_and_there_in_the_next_start(start, tmp_path):
    home = tmp_path / "home"
    more = {"GPTKIT_HOME": str(home)}
    chat = start("one", env_more=more)
    chat.type("first words\r")
    chat.wait_for_prompt()
    chat.type("second\x1b\rlines ä\r")
    chat.wait_for_prompt()
    chat.type("/exit\r")
    assert chat.wait_for_exit() == 0
    assert stat.S_IMODE((home / "chat_history").stat().st_mode) == 0o600

    chat = start("one", env_more=more)
    chat.type("\x1b[A")
    chat.wait("> /exit")
    chat.type("\x1b[A")
    chat.wait("> second\n  lines ä")
    chat.type("\x1b[A\x1b[A")  # over its first line
    chat.wait("> first words")


@pytest.mark.slow
def test_without_a_history_what_is_typed_is_not_kept_either(start, tmp_path):
    """`--no-history` kept no conversation, but the file of the arrow keys had every message."""
    more = {"GPTKIT_HOME": str(tmp_path / "home")}
    chat = start("one", args=["--no-history"], env_more=more)
    chat.type("a secret\r")
    chat.wait("> a secret\none")
    chat.wait_for_prompt()
    time.sleep(0.3)  # the line learns of earlier ones in a thread
    chat.type("\x1b[A")
    chat.wait("one\n\n> a secret")  # as long as the chat goes on
    chat.type("\x03\x04")
    assert chat.wait_for_exit() == 0
    assert not list(tmp_path.glob("home/*"))


@pytest.mark.slow
def test_raw_output_is_for_those_who_ask_and_ctrl_d_waits_for_the_answer(start):
    chat = start("\x1b[31mred and more", args=["--raw-output"], delay_s=0.05)
    chat.type("hi\r")
    chat.wait("red")
    chat.type("\x04")
    assert chat.wait_for_exit() == 0
    assert "red and more" in chat.text()
    assert b"\x1b[31mred" in chat.raw


# In a pipe ------------------------------------------------------------------------------------


def piped(model, env, data, *args):
    return subprocess.run(
        [*GPTKIT, "chat", "-m", str(model), "-s", "scripted", *args],
        input=data,
        env=env,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_a_pipe_gets_the_answers_and_their_exact_bytes(model, env):
    hostile = b"a\x1b]52;c;x\x07\r\xc2\x9b[bold] \xf0\x9f\x98\x80"
    done = piped(model, env(hostile, "two"), b"hi\n\nagain\n")
    assert done.stdout == hostile + b"\ntwo\n"
    assert done.returncode == 0
    assert b"\x1b" not in done.stderr


def test_an_option_that_is_wrong_is_refused_before_torch_is_imported(model, env):
    wrong = [
        (["-s", "top_p=1.5"], "top_p: 1.5 is above 1"),
        (["--temperature", "nan"], "--temperature"),
        (["--seed", "-1"], "--seed"),
        (["--stop", ""], "--stop must not be empty"),
        (["--on-overflow", "shrink"], "none of drop_oldest"),
        (["--template", "qa"], "no chat template"),
        (["--template", "caht"], "did you mean 'chat'?"),
        (["--max-new-tokens", "513"], "513 is above 512"),
        (["--stop-when", "tokens=9999"], "tokens: 9,999 is no token of the model"),
    ]
    code = (
        "import json, sys\n"
        "from gptkit.cli import main\n"
        "for args in json.loads(sys.argv[2]):\n"
        "    code = main(['chat', '-m', sys.argv[1], *args])\n"
        "    print(code, 'torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model), json.dumps([args for args, _ in wrong])],
        env=env("x"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    said = done.stderr.split("2 False\n")
    assert len(said) == len(wrong) + 1
    for (args, words), got in zip(wrong, said, strict=False):
        assert words in got, args
