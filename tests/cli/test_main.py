"""The boundary of the command line: exit codes, two lines for an error, streams that fail."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptkit import __version__
from gptkit.cli import generate, main
from gptkit.errors import ConfigError
from tests import docs_blocks, makers

GPTKIT = [sys.executable, "-m", "gptkit"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return makers.save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Return a model with a context so long that a signal finds it at work."""
    folder = tmp_path_factory.mktemp("models") / "endless"
    return makers.save_random(folder, block_size=100_000)


def fails_with(error, monkeypatch, capsys):
    """Return what `gptkit generate` says and its exit code when `error` is raised inside."""

    def raises(*args):
        raise error

    monkeypatch.setattr(generate, "_prompt_text", raises)
    code = main(["generate", "x"])
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("a: 1 is wrong"), 2, "gptkit: error: a: 1 is wrong\n"),
        (ConfigError("no", hint="yes"), 2, "gptkit: error: no\n  hint: yes\n"),
        (ConfigError("two\nlines \x1b[2J"), 2, "gptkit: error: two lines \u241b[2J\n"),
        (MemoryError(), 6, "gptkit: error: out of memory\n  hint: try a smaller model"),
        (OSError(28, "No space left on device"), 6, "cannot write output: No space left on dev"),
        (OSError(5, "Input/output error", "/a/b"), 6, "cannot use /a/b: Input/output error\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "error: internal error: ZeroDivisionError: division by zero\n  hint: GPTKIT_DEBUG=1",
        ),
    ],
)
def test_every_error_is_two_lines_and_a_code(error, code, said, monkeypatch, capsys):
    got, err = fails_with(error, monkeypatch, capsys)
    assert got == code
    assert said in err
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("GPTKIT_DEBUG", "1")
    with pytest.raises(ConfigError, match="no"):
        fails_with(ConfigError("no"), monkeypatch, capsys)


@pytest.mark.parametrize(
    ("args", "said", "hint"),
    [
        (["nosuch"], "No such command 'nosuch'", "see gptkit --help"),
        (["plugins", "lst"], "Did you mean 'list'?", "see gptkit plugins --help"),
        (["generate", "a", "b"], "unexpected extra argument", "see gptkit generate --help"),
        (["report", "x", "--html"], "'--html' requires an argument", "see gptkit report --help"),
        (["generate", "--nosuch"], "No such option: --nosuch", "--help"),
        (["generate", "--seed"], "'--seed' requires an argument", "--help"),
        (["run"], "no job is given", "a path, or one of these: classify, extract"),
        (["train"], "Missing argument 'CONFIG.yaml'", "see gptkit train --help"),
        (["generate", "x", "--logprobs", "-1"], "Invalid value for '--logprobs'", "generate"),
    ],
)
def test_a_misused_command_line_says_where_help_is(args, said, hint, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    error, told = err.splitlines()
    assert out == ""
    assert error.startswith("gptkit: error: ") and said in error
    assert told.startswith("  hint: ") and hint in told


@pytest.mark.parametrize("args", [[], ["plugins"], ["models"]])
def test_asking_for_nothing_shows_the_help(args, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Usage: gptkit {' '.join([*args, '[OPTIONS] COMMAND'])}")
    assert "Commands:\n" in err


@pytest.mark.parametrize("command", docs_blocks.commands())
def test_help_says_what_an_option_takes_and_not_its_type(command, capsys):
    """`--top-k <str>` and `--logprobs <int range>` told nobody anything."""
    assert main([*command.split(), "--help"]) == 0
    options = capsys.readouterr().out.partition("\nOptions:\n")[2]
    assert "  -h, --help " in options
    assert "<" not in re.sub(r"\[.*?\]", "", options, flags=re.DOTALL)


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gptkit {__version__}\n"
    for args in (["--help"], ["-h"], ["generate", "--help"]):
        assert main(args) == 0
        assert capsys.readouterr().out.startswith("Usage: gptkit ")


# Real processes ---------------------------------------------------------------------------------


def shell(line, **environ):
    """Run a line of bash in which `gptkit` is ours; the exit code is that of gptkit."""
    command = " ".join(GPTKIT)
    return subprocess.run(
        ["bash", "-c", line.replace("gptkit", command, 1) + "\nexit ${PIPESTATUS[0]}"],
        capture_output=True,
        env={**os.environ, **environ},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        "gptkit plugins list --json | head -c 1",
        "gptkit --help | true",
        "gptkit generate h -m {tiny} --max-new-tokens 60 --seed 1 | head -c 1",
    ],
)
def test_a_reader_that_has_gone_is_no_error(line, tiny):
    done = shell(line.format(tiny=tiny))
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize("args", ["plugins list", "generate h -m {tiny} --seed 1", "--version"])
def test_a_full_disk_gives_exit_6(args, tiny):
    done = shell(f"gptkit {args.format(tiny=tiny)} > /dev/full")
    error, hint = done.stderr.decode().splitlines()
    assert done.returncode == 6
    assert error == "gptkit: error: cannot write output: No space left on device"
    assert hint.startswith("  hint: free some space")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("gptkit --version >&-", 0),
        ("gptkit nosuch 2>&-", 2),
        ("gptkit generate - -m {tiny} <&-", 2),  # an empty prompt, and no token to start from
    ],
)
def test_closed_streams(line, code, tiny):
    done = shell(line.format(tiny=tiny))
    assert done.returncode == code
    assert b"Traceback" not in done.stderr and b"internal" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(endless, number, code):
    process = subprocess.Popen(
        [*GPTKIT, "generate", "h", "-m", str(endless), "--max-new-tokens", "90000", "--seed", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(1)  # it has begun
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert time.monotonic() - sent < 10
    assert err == b""
    assert out.endswith(b"\n")  # so that the next prompt of the shell begins a line


SENDS = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"


def test_ctrl_c_while_the_program_is_imported_says_nothing(tmp_path):
    """The first 0.1 s of every command once ended in a traceback."""
    (tmp_path / "typer.py").write_text(SENDS)
    done = shell("gptkit --version", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_ctrl_c_after_the_work_is_done_says_nothing(tmp_path):
    (tmp_path / "late.py").write_text(
        f"import atexit\n\natexit.register(lambda: exec({SENDS!r}))\n"
    )
    listed = shell("gptkit plugins list --json", GPTKIT_PLUGINS=str(tmp_path / "late.py"))
    assert (listed.returncode, listed.stderr) == (130, b"")
    assert json.loads(listed.stdout)


def test_ctrl_c_that_a_library_takes_for_a_failed_import_is_no_bug(monkeypatch, capsys):
    """torch goes on without numpy when it is interrupted, and numpy can't be imported twice."""

    def taken(*args):
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        raise ImportError("cannot load module more than once per process")

    monkeypatch.setattr(generate, "_prompt_text", taken)
    before = signal.getsignal(signal.SIGINT)
    assert main(["generate", "x"]) == 130
    assert capsys.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_that_is_ignored_stays_ignored():
    """A shell without job control starts what ends in & so."""
    code = "import signal, gptkit.__main__ as m; m.main(); print(signal.getsignal(signal.SIGINT))"
    line = f"trap '' INT; {sys.executable} -c '{code}' --version"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"{signal.SIG_IGN!s}\n")


def test_sigterm_is_no_failure_of_the_plugin_that_is_being_imported(tmp_path):
    plugin = tmp_path / "slow.py"
    plugin.write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)\n")
    done = shell("gptkit plugins list", GPTKIT_PLUGINS=str(plugin))
    assert (done.returncode, done.stdout) == (143, b"")


@pytest.mark.slow
def test_an_ascii_terminal_gets_replacements(tmp_path):
    utf8 = makers.utf8_tokenizer()
    model = makers.save_reciter(tmp_path / "m", utf8, "a\N{GRINNING FACE}\u00e9".encode())
    done = shell(
        f"gptkit generate x -m {model} --max-new-tokens 7 --seed 1 --backend torch",
        PYTHONIOENCODING="ascii",
        LC_ALL="C",
        GPTKIT_PLUGINS=str(makers.TOKENIZER_FIXTURE / "acme_tokenizer.py"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a??", b"")
