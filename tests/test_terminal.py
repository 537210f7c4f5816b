"""What reaches a terminal: no control byte but our own, whatever road it tries.

Several command lines run in one process, whose streams are a real pseudo-terminal.
"""

from __future__ import annotations

import json
import random
import re
import sys

import pytest

from tests import makers
from tests.cli.screen import Terminal, environment
from tests.text.test_safe import SEQUENCES

TOKENIZER = makers.TOKENIZER_FIXTURE / "acme_tokenizer.py"
HOSTILE = "\x1b]52;c;eA==\x07\x1b[2J\x1b[31m\r\n\x9b1m\u202e[bold][#x] :smile:"
PLUGIN = f"""
from gptkit.plugin_api import Sampler, hookimpl

raise RuntimeError({HOSTILE!r})
"""
SAMPLER = f"""
from gptkit.plugin_api import Sampler, hookimpl


class Rude(Sampler):
    {HOSTILE!r}

    name = "rude"
    phase = "scale"

    def apply(self, logits, p, rows):
        raise RuntimeError({HOSTILE!r})


@hookimpl
def gptkit_samplers():
    yield Rude
"""
LOOP = """
import json, sys
from gptkit.cli import main
for args in json.loads(sys.argv[1]):
    print(f"<{main(args)}>", flush=True)
"""
LENGTH = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of models that say hostile bytes, and of things with hostile names."""
    here = tmp_path_factory.mktemp("hostile")
    utf8 = makers.utf8_tokenizer()
    chosen = random.Random(7)
    noise = b"".join(chosen.randbytes(chosen.randint(1, 8)) + b" " for _ in range(250))
    said = "".join(SEQUENCES).encode() + noise
    for i in range(0, len(said), LENGTH):
        makers.save_reciter(here / f"says{i // LENGTH}", utf8, said[i : i + LENGTH])
    makers.save_reciter(here / "plain", utf8, b"x")
    broken = here / f"model{HOSTILE}"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": HOSTILE}))
    (here / f"{HOSTILE}.yaml").write_text("model: [\n")
    (here / "keys.yaml").write_text('"\\e[2J\\a\\u202e": 1\nmodel: "\\e]0;x\\a"\ninputs: 3\n')
    (here / "fails.py").write_text(PLUGIN)
    (here / "rude.py").write_text(SAMPLER)
    makers.save_random(here / "home" / "models" / HOSTILE)
    return here


def sent(folder, *command_lines, columns=100, **environ):
    """Run command lines in a terminal; return the bytes that it was sent."""
    plugins = ":".join(map(str, (TOKENIZER, folder / "fails.py", folder / "rude.py")))
    env = environment(
        GPTKIT_PLUGINS=plugins, GPTKIT_HOME=str(folder / "home"), NO_COLOR="1", **environ
    )
    command = [sys.executable, "-c", LOOP, json.dumps(command_lines)]
    terminal = Terminal(["env", "-C", str(folder), *command], env=env, columns=columns)
    try:
        assert terminal.wait_for_exit(timeout_s=60) == 0
    finally:
        terminal.close()
    return terminal.raw


def codes(raw):
    """Return the exit code of each command line."""
    lines = raw.decode().splitlines()
    return [int(line[1:-1]) for line in lines if line[:1] == "<" and line[-1:] == ">"]


def check_no_controls(raw):
    """Check that nothing but line ends and tabs controls the terminal, and that all is UTF-8."""
    text = re.sub("\x1b\\[[01]m", "", raw.decode())  # the bold headings of our tables
    assert "\r" not in text.replace("\r\n", "")
    for start, end in ((0, 9), (0x0B, 0x0D), (0x0E, 0x20), (0x7F, 0xA0)):
        assert not [c for c in text if start <= ord(c) < end]
    assert not [c for c in text if 0x202A <= ord(c) < 0x202F or 0x2066 <= ord(c) < 0x206A]


def test_what_a_model_says_is_shown_and_steers_nothing(folder):
    n_models = len(list(folder.glob("says*")))
    assert n_models > 5
    args = ("--max-new-tokens", str(LENGTH), "-s", "greedy", "-m")
    raw = sent(folder, *(["generate", "x", *args, f"says{i}"] for i in range(n_models)))
    check_no_controls(raw)
    assert codes(raw) == [0] * n_models
    assert "\u241b[2J\u241b[H\u241b[31m" in raw.decode()
    assert raw.decode().count("\u241b") >= len(SEQUENCES) // 2


def test_raw_output_is_for_those_who_ask(folder):
    args = ("--max-new-tokens", "20", "-s", "greedy", "--raw-output", "-m", "says0")
    assert b"\x1b[2J\x1b[H" in sent(folder, ["generate", "x", *args])


def test_names_values_keys_and_exceptions(folder):
    """Each of them is in a message; each message is one line, and shown as it is."""
    plain = ["generate", "x", "-m", "plain", "--seed", "1", "--max-new-tokens", "3"]
    cases = [
        (["generate", "x", "-m", f"./{HOSTILE}"], 3),
        (["generate", "x", "-m", f"model{HOSTILE}"], 3),
        ([*plain, "-s", f"{HOSTILE}=1"], 2),
        ([*plain, "-s", f"temperature={HOSTILE}"], 2),
        ([*plain, "-s", "rude"], 1),
        ([*plain, "--seed", HOSTILE], 2),
        ([*plain, "--tokenizer", HOSTILE], 2),
        ([*plain, "--tokenizer", f"char:{HOSTILE}"], 3),
        (["generate", "-m", "plain", "--prompt-file", HOSTILE], 2),
        (["run", HOSTILE], 2),
        (["run", f"{HOSTILE}.yaml"], 2),
        (["run", "keys.yaml"], 2),
        (["run", "keys.yaml", "--set", f"{HOSTILE}=1"], 2),
        (["train", HOSTILE], 2),
        (["models", "show", f"./{HOSTILE}"], 3),
        (["plugins", "show", HOSTILE], 2),
        (["tokenize", "x", "-t", HOSTILE], 2),
        (["tokenize", HOSTILE, "-t", "utf8_bytes"], 0),
        ([HOSTILE], 2),
        (["generate", f"--{HOSTILE}"], 2),
        (["plugins", "list"], 0),
        (["plugins", "show", "rude"], 0),
        (["models", "list"], 0),
    ]
    raw = sent(folder, *(args for args, _ in cases), columns=200)
    check_no_controls(raw)
    assert codes(raw) == [code for _, code in cases]
    text = raw.decode()
    assert "Traceback" not in text and "internal error" not in text
    assert text.count("gptkit: error: ") == sum(code != 0 for _, code in cases)
    assert "[bold][#x] :smile:" in text  # no markup of ours, no emoji
