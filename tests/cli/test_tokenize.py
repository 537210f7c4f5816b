"""`gptkit tokenize`: what it prints, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gptkit.cli import main
from gptkit_plugins.tokenizers import BPE, Char
from tests.checkpoints import makers

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def bpe(tmp_path):
    """Return `bpe:PATH` of a small tokenizer with one control token."""
    BPE.train(["low low lower"], vocab_size=260, special=("<|end|>",)).save(tmp_path)
    return f"bpe:{tmp_path}"


@pytest.fixture
def say(capsys):
    """Return a function that runs a command line and returns (exit code, stdout, stderr)."""

    def run(*argv):
        code = main(["tokenize", *map(str, argv)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_line_for_each_token(say, bpe):
    assert say("low low\n\t", "-t", bpe) == (
        0,
        "    257  low\n    258  ·low\n    198  ↵\n    197  →\n"
        "4 tokens, 9 characters, 9 bytes: 2.25 bytes for each token\n",
        "",
    )


def test_parts_of_characters_and_control_characters_are_visible(say, bpe):
    code, out, _ = say("é\x1b[2J", "-t", bpe)
    assert code == 0 and "\x1b" not in out
    shown = [line.split()[1] for line in out.splitlines()[:-1]]
    assert shown == ["\\xc3", "\\xa9", "␛", "[", "2", "J"]


def test_json(say, bpe):
    code, out, _ = say("low é", "--tokenizer", bpe, "--json")
    assert code == 0
    assert json.loads(out) == {
        "tokenizer": "bpe",
        "ids": [257, 220, 127, 102],
        "pieces": ["low", " ", "\\xc3", "\\xa9"],
        "n_tokens": 4,
    }


def test_no_text_has_no_tokens(say, bpe):
    assert say("", "-t", bpe)[1] == "0 tokens, 0 characters, 0 bytes\n"


def test_a_control_token_in_the_text_is_text(say, bpe):
    code, out, err = say("<|end|>", "-t", bpe, "--json")
    assert (code, len(json.loads(out)["ids"])) == (0, 7)
    assert err == "note: 1 special-token string treated as text\n"


@pytest.mark.parametrize(
    ("data", "text", "note"),
    [
        (b"low\n", "low\n", ""),
        (b"lo\xffw\xfe", "lo\ufffdw\ufffd", "2 invalid bytes of the text replaced by U+FFFD"),
        ("\ufffd".encode(), "\ufffd", ""),
    ],
)
def test_a_dash_reads_stdin(say, bpe, monkeypatch, data, text, note):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, err = say("-", "-t", bpe, "--json")
    assert code == 0
    assert json.loads(out)["ids"] == BPE.load(Path(bpe[4:])).encode_ordinary(text)
    assert note in err and bool(note) == bool(err)


def test_too_much_text(say, bpe, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a" * 8_000_001)))
    code, _, err = say("-", "-t", bpe)
    assert code == 2
    assert err.startswith("gptkit: error: the text is over 8 MB, which is the limit\n  hint: ")


def test_a_tokenizer_of_somebody_else(say, monkeypatch):
    monkeypatch.setenv("GPTKIT_PLUGINS", str(FIXTURES / "acme_tokenizer" / "acme_tokenizer.py"))
    code, out, _ = say("hé", "-t", "utf8_bytes", "--json")
    assert (code, json.loads(out)["ids"]) == (0, [104, 195, 169])


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ("bpee", 2, "unknown tokenizer 'bpee'"),
        ("bpe:no/such", 3, "tokenizer bpe: no such file or folder: no/such"),
        ("bpe:", 2, "tokenizer 'bpe:' has no path after the colon"),
        ("char", 2, "tokenizer char has no vocabulary of its own"),
    ],
)
def test_a_tokenizer_that_is_not_there(say, spec, code, said):
    got, out, err = say("hello", "-t", spec)
    assert (got, out) == (code, "")
    assert err.startswith(f"gptkit: error: {said}") and err.count("\n") == 2
    assert "\n  hint: " in err


def test_a_character_outside_a_closed_vocabulary(say, tmp_path):
    Char.train(["helo"]).save(tmp_path)
    code, out, err = say("help", "-t", f"char:{tmp_path}")
    assert (code, out) == (2, "")
    assert "character 'p' at offset 3 is not in the vocabulary" in err


def test_a_plugin_that_raises_while_it_loads(say, tmp_path, monkeypatch):
    plugin = tmp_path / "odd.py"
    source = (FIXTURES / "acme_tokenizer" / "acme_tokenizer.py").read_text()
    plugin.write_text(source.replace("if path is None:", "if not path.is_dir():"))
    monkeypatch.setenv("GPTKIT_PLUGINS", str(plugin))
    code, _, err = say("hello", "-t", "utf8_bytes")
    assert code == 1 and "Traceback" not in err
    assert f"tokenizer 'utf8_bytes' of '{plugin}' can't load without a path: AttributeError" in err


def test_two_tokenizers_are_one_too_many(say, bpe):
    code, _, err = say("hello", "-t", bpe, "-m", "mini")
    assert code == 2 and "--tokenizer and --model both name a tokenizer" in err


def test_a_model_without_tokenizer_files(say, data):
    code, _, err = say("hello", "-m", data / "checkpoints" / "gpt-nano-sort" / "hf")
    assert code == 3 and "has no tokenizer files" in err


def test_a_model_brings_its_own_tokenizer(say, tmp_path):
    makers.save(tmp_path / "tiny", tokenizer=Char.train(["abcdefghijklmnopq"]))
    code, out, _ = say("cab", "-m", tmp_path / "tiny", "--json")
    assert (code, json.loads(out)["ids"]) == (0, [2, 0, 1])
    assert json.loads(out)["tokenizer"] == "char"


def run(*argv, **kwargs):
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, **kwargs)


def test_torch_is_not_imported(bpe):
    code = (
        "import sys; from gptkit.cli import main; "
        f"main(['tokenize', 'low', '-t', {bpe!r}, '--json']); print('torch' in sys.modules)"
    )
    done = run("-c", code, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_terminal_gets_two_colours_by_turns(bpe):
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color"}
    argv = [sys.executable, "-m", "gptkit", "tokenize", "low low\nx", "-t", bpe]
    with subprocess.Popen(argv, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 65_536):
                said += chunk
        except OSError:  # how Linux says that the other end has closed
            pass
    os.close(ours)
    assert process.returncode == 0
    blue, magenta, end = "\x1b[34m", "\x1b[35m", "\x1b[0m"
    text = said.decode().replace("\r\n", "\n")
    assert text.startswith(f"{blue}low{end}{magenta}·low{end}{blue}↵{end}\n{magenta}x{end}\n")
    assert f"{blue}257 {end}{magenta}258 {end}{blue}198 {end}{magenta}87 {end}" in text
