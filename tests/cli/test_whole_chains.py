"""`--preset` and `-s @FILE`, in each command that samples."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gptkit.cli import main
from tests import makers
from tests.jobs.workshop import Workshop


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return makers.save_random(tmp_path_factory.mktemp("m") / "tiny", sampling=["greedy"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "creative.yaml").write_text(
        "sampling:\n  chain: [{top_k: 9}, {temperature: 0.5}]\n"
    )
    return tmp_path


@pytest.fixture
def generate(tiny, folder, capsys):
    def run(*args, code=0):
        line = ["generate", "Hello", "-m", str(tiny), "--max-new-tokens", "3", "--seed", "1"]
        assert main([*line, "--json", *args]) == code
        return capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("args", "chain", "note"),
    [
        (
            ("--preset", "nanogpt"),
            ["temperature=0.8", "top_k=200", "sample"],
            "preset nanogpt: temperature=0.8 top_k=200 sample",
        ),
        (
            ("--preset", "nanogpt", "-s", "top_k=3", "--temperature", "2", "-s", "greedy"),
            ["temperature=2.0", "top_k=3", "greedy"],
            "preset nanogpt: temperature=2.0 top_k=3 greedy",
        ),
        (
            ("-s", "@creative.yaml", "-s", "temperature=off"),
            ["top_k=9", "temperature=off", "sample"],
            "creative.yaml: top_k=9 temperature=off sample",
        ),
    ],
)
def test_generate(generate, args, chain, note):
    out, err = generate(*args)
    assert json.loads(out)["chain"] == chain
    assert f"note: {note}\n" in err
    assert "recommends" not in err


@pytest.mark.parametrize(
    ("args", "said", "hint"),
    [
        (("--preset", "nanogpt", "--top-p", "0.9"), "--top-p is given but", "add -s top_p=0.9"),
        (("--preset", "nanogtp"), "unknown preset 'nanogtp'", "did you mean 'nanogpt'?"),
        (("-s", "top_k=1", "-s", "@creative.yaml"), "comes behind another", "put it first"),
        (("-s", "@creative.yml"), "no such file: creative.yml", "did you mean 'creative.yaml'?"),
    ],
)
def test_what_generate_refuses(generate, args, said, hint):
    _, err = generate(*args, code=2)
    assert said in err and hint in err


def test_run(tiny, folder, capsys):
    shop = Workshop(folder, tiny)
    job = str(shop.job(rows=[{"text": "x"}], stop="{max_new_tokens: 3}"))
    assert main(["run", job, "-s", "@creative.yaml", "-s", "top_k=3"]) == 0
    err = capsys.readouterr().err
    assert "note: creative.yaml: top_k=3 temperature=0.5 sample\n" in err
    assert "sampling top_k=3 temperature=0.5 sample, seed 7" in err


def test_chat(tiny, folder):
    command = [sys.executable, "-m", "gptkit", "chat", "-m", str(tiny), "--preset", "nanogpt"]
    lines = b"/set preset openai\n/set top_p 0.5\n/show\n"
    done = subprocess.run(
        [*command, "-s", "top_k=3"], input=lines, capture_output=True, timeout=120, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert "note: preset nanogpt: temperature=0.8 top_k=3 sample\n" in said
    assert "preset openai: logit_bias=off penalties=off temperature=off top_p=off sample" in said
    assert ["top_p=0.5", "/set"] in [line.split() for line in said.splitlines()]
