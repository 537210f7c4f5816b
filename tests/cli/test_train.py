"""`gptkit train` from the outside: what it prints, where it writes, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from gptkit.cli import main
from tests.training.fakes import write_recipe


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    return tmp_path


def test_lines_name_losses_samples_and_the_checkpoint(capsys):
    assert main(["train", "tiny.yaml"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "3,680 parameters, vocabulary 7, 1,718 + 191 tokens, cpu"
    assert any(line.startswith("step 20: training loss 1.") for line in lines)
    assert any(line.startswith("  | ab") for line in lines)
    assert lines[-1] == "saved out/tiny at step 20"
    assert err == ""


def test_the_checkpoint_generates(folder, capsys):
    assert main(["train", "tiny.yaml", "--output", "there"]) == 0
    capsys.readouterr()
    assert main(["generate", "ab", "-m", "./there", "--max-new-tokens", "4", "--seed", "1"]) == 0
    assert len(capsys.readouterr().out) >= 4


def test_json_lines(capsys):
    assert main(["train", "tiny.yaml", "--json", "--set", "training.max_steps=3"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in told] == [
        "started", *["progress"] * 3, "evaluated", "sampled", "saved", "finished",
    ]  # fmt: skip
    assert told[-1]["step"] == 3 and told[-1]["path"] == os.path.join("out", "tiny")


def test_an_output_that_is_taken_is_told_before_the_corpus_is_read(folder, capsys, monkeypatch):
    assert main(["train", "tiny.yaml"]) == 0
    before = (folder / "out/tiny/manifest.json").read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # "reading the corpus" came first
    assert main(["train", "tiny.yaml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "gptkit: error: output out/tiny already holds a checkpoint",
        "  hint: --resume goes on with it; --output DIR writes elsewhere",
    ]
    assert (folder / "out/tiny/manifest.json").read_bytes() == before


def test_resume_with_another_shape_exits_5(capsys):
    assert main(["train", "tiny.yaml"]) == 0
    assert main(["train", "tiny.yaml", "--resume", "--set", "model.n_embd=32"]) == 5
    assert "model.n_embd 16 -> 32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope.yaml"], 2, "no recipe nope.yaml"),
        (["tiny.yaml", "--set", "model.n_hed=3"], 2, "--set model.n_hed: unknown key 'n_hed'"),
        (["tiny.yaml", "--set", "model.block_size=3000"], 2, "1,718 tokens, block_size 3,000"),
        (["tiny.yaml", "--set", "data.text=gone.txt"], 2, "no file 'gone.txt'"),
        (["tiny.yaml", "--set", "sample.chain=[gredy]"], 2, "unknown sampler 'gredy'"),
        (["tiny.yaml", "--set", "output.sampling=[gredy]"], 2, "unknown sampler 'gredy'"),
        (["tiny.yaml", "--set", "output.chat_template=x"], 2, "unknown template 'x'"),
        (["tiny.yaml", "--set", "tokenizer={chars: {}}"], 2, "unknown tokenizer 'chars'"),
        (["tiny.yaml", "--set", "sample.prompts=[xyz]"], 2, "'x' at offset 0"),
        (["tiny.yaml", "--device", "tpu"], 2, "training.device"),
        (["tiny.yaml", "--output", "words.txt"], 2, "output words.txt is a file"),
        (["tiny.yaml", "--output", "."], 2, "not empty and no checkpoint"),
    ],
)
def test_bad_input_is_one_line_and_a_hint_before_any_work(arguments, code, message, folder, capsys):
    assert main(["train", *arguments]) == code
    out, err = capsys.readouterr()
    first, *hint = err.splitlines()
    assert first.startswith("gptkit: error: ") and message in first
    assert len(hint) <= 1
    assert out == "" and not (folder / "out").exists()


def start(*arguments, stdout=subprocess.PIPE):
    return subprocess.Popen(
        [sys.executable, "-m", "gptkit", "train", "tiny.yaml", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "100"},
    )


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_saves_and_resume_goes_on(signum, code, folder, capsys):
    process = start("--json", "--set", "training.max_steps=1000000")
    assert process.stdout
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 12:
            break
    process.send_signal(signum)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"stopped and saved; the same command with --resume goes on" in err
    step = json.loads(rest.splitlines()[-1])["step"]
    assert json.loads((folder / "out/tiny/state.json").read_text())["step"] == step >= 12
    more = ["--resume", "--set", f"training.max_steps={step + 2}"]
    assert main(["train", "tiny.yaml", *more]) == 0
    assert f"going on after step {step:,}" in capsys.readouterr().out


def test_a_terminal_gets_a_bar(folder):
    ours, theirs = pty.openpty()
    process = start("--set", "training.max_steps=300", stdout=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end closes
            break
        if not data:
            break
        shown += data
    assert process.wait(timeout=60) == 0
    assert b"/300" in shown and b"tok/s" in shown
    assert "saved out/tiny at step 300" in shown.decode()
    assert process.stderr and process.stderr.read() == b""
    process.stderr.close()
    os.close(ours)
