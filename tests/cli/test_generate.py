"""`gptkit generate`: what is printed where, and that options do what they say."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from gptkit.cli import main
from tests import makers

TOKENIZER = str(makers.TOKENIZER_FIXTURE / "acme_tokenizer.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("models")
    makers.save_random(here / "tiny")
    makers.save_random(here / "advised", sampling=[{"temperature": 0.5}, {"top_k": 3}])
    letters = makers.char_tokenizer("abcdefgh\n")
    makers.save_reciter(here / "letters", letters, letters.encode_ordinary("abcdefgh"))
    makers.save_reciter(
        here / "ends", letters, letters.encode_ordinary("abc\n"), eos_ids=(0,), bos_id=0
    )
    return here


@pytest.fixture
def generate(folder, capsys, monkeypatch):
    """Return a function: run the command; return stdout and stderr of a run that went well."""
    monkeypatch.chdir(folder)

    def run(*args, code=0):
        assert main(["generate", *map(str, args)]) == code
        return capsys.readouterr()

    return run


def said(generate, *args):
    return json.loads(generate(*args, "--json").out)


def test_text_goes_to_stdout_and_the_seed_to_stderr(generate):
    out, err = generate("a", "-m", "letters", "--max-new-tokens", "6")
    assert out == "abcdef"
    assert err.startswith("note: seed ") and len(err.splitlines()) == 1
    drawn = err.split()[-1]
    again = generate("a", "-m", "letters", "--max-new-tokens", "6", "--seed", drawn)
    assert (again.out, again.err) == (out, "")


def test_the_same_seed_says_the_same_and_another_something_else(generate):
    one, two, three = (
        generate("hi", "-m", "tiny", "--max-new-tokens", "30", "--seed", seed).out
        for seed in (1, 1, 2)
    )
    assert one == two != three


def test_json_has_one_object_with_all_of_it(generate):
    found = said(generate, "ab", "-m", "letters", "--max-new-tokens", "4", "--seed", "3")
    timing = found.pop("timing")
    assert found == {
        "text": "bcde",
        "token_ids": [2, 3, 4, 5],
        "prompt_tokens": 2,
        "reused_tokens": 0,
        "new_tokens": 4,
        "finish_reason": "length",
        "seed": 3,
        "model": "letters",
        "chain": ["sample"],
    }
    assert set(timing) == {"load_s", "first_token_s", "total_s", "tok_per_s"}
    assert all(math.isfinite(value) and value >= 0 for value in timing.values())


def test_logprobs_are_of_the_model_and_sum_to_one(generate):
    args = ("hi", "-m", "tiny", "--max-new-tokens", "3", "--seed", "1", "-s", "temperature=0.5")
    found = said(generate, *args, "--logprobs", "75")
    assert len(found["logprobs"]) == 3
    for one, token in zip(found["logprobs"], found["token_ids"], strict=True):
        top = dict(map(tuple, one["top"]))
        assert one["token_id"] == token
        assert top[token] == pytest.approx(one["logprob"])
        assert sum(map(math.exp, top.values())) == pytest.approx(1, abs=1e-4)
        assert list(top.values()) == sorted(top.values(), reverse=True)
    assert "logprobs" not in said(generate, *args)


def test_reasons_to_end(generate):
    """End of text, stop string, stop token, length, context and time."""
    ends = said(generate, "a", "-m", "ends")
    assert (ends["text"], ends["finish_reason"]) == ("abc", "eos")
    on = said(
        *(generate, "a", "-m", "ends", "--stop-when", "ignore_eos", "--max-new-tokens", "6"),
    )
    assert (on["text"], on["finish_reason"]) == ("abc\nab", "length")
    cut = said(generate, "a", "-m", "letters", "--stop", "de", "--stop", "zz")
    assert (cut["text"], cut["finish_reason"]) == ("abc", "stop_string")
    token = said(generate, "a", "-m", "letters", "--stop-when", "tokens=5")
    assert (token["text"], token["finish_reason"]) == ("abcd", "stop_token")
    full = said(generate, "a", "-m", "letters", "--max-new-tokens", "256")
    assert (full["new_tokens"], full["finish_reason"]) == (255, "context")
    late = said(generate, "a", "-m", "letters", "--stop-when", "max_time_s=1e-9")
    assert late["finish_reason"] == "time"


def test_a_stop_string_is_never_shown_in_part(generate):
    out, _ = generate("a", "-m", "letters", "--stop", "cdX", "--stop", "efg", "--seed", "1")
    assert out == "abcd"


def test_the_chain_a_model_recommends_serves_where_none_is_named(generate):
    found, err = generate("hi", "-m", "advised", "--seed", "1", "--json")
    assert json.loads(found)["chain"] == ["temperature=0.5", "top_k=3", "sample"]
    assert "note: sampling as advised recommends: temperature=0.5 top_k=3 sample" in err
    found, err = generate("hi", "-m", "advised", "--seed", "1", "--top-p", "0.9", "--json")
    assert json.loads(found)["chain"] == ["top_p=0.9", "sample"]
    assert err == ""


def test_shorthands_and_stages_are_the_same(generate):
    base = ("hi", "-m", "tiny", "--seed", "1")
    short = said(generate, *base, "--top-p", "0.9", "--top-k", "20", "--temperature", "0.7")
    long = said(generate, *base, "-s", "temperature=0.7", "-s", "top_k=20", "-s", "top_p=0.9")
    assert short["chain"] == long["chain"] == ["temperature=0.7", "top_k=20", "top_p=0.9", "sample"]
    assert short["token_ids"] == long["token_ids"]
    over = said(generate, *base, "-s", "top_k=20", "-s", "temperature=1", "--temperature", "0.7")
    assert over["chain"] == ["top_k=20", "temperature=0.7", "sample"]


def test_backends_and_dtypes_agree(generate):
    base = ("hi", "-m", "tiny", "--max-new-tokens", "20", "-s", "greedy")
    torch, numpy = said(generate, *base), said(generate, *base, "--backend", "numpy")
    assert torch["token_ids"] == numpy["token_ids"]
    assert said(generate, *base, "--dtype", "bfloat16")["new_tokens"] == 20
    file = said(generate, "hi", "-m", "tiny/model.safetensors", *base[3:])
    assert file["token_ids"] == torch["token_ids"]


def test_the_prompt_from_a_file_and_from_stdin(folder, tmp_path):
    (tmp_path / "prompt.txt").write_text("ab")
    commands = makers.Commands(tmp_path)
    try:
        rest = ("-m", folder / "letters", "--max-new-tokens", "3", "--seed", "1", "--json")
        file = commands("generate", "--prompt-file", "prompt.txt", *rest)
        piped = commands("generate", "-", *rest, stdin=b"ab")
        given = commands("generate", "ab", *rest)
    finally:
        commands.close()
    texts = [json.loads(one.out)["text"] for one in (file, piped, given)]
    assert texts == ["bcd"] * 3


def test_an_empty_prompt_starts_from_the_first_token(generate):
    found, err = generate("", "-m", "ends", "--seed", "1", "--json")
    assert json.loads(found)["prompt_tokens"] == 1
    assert err == "note: the prompt is empty: starting from '\\n'\n"


def test_a_prompt_that_is_left_out_is_stdin_unless_that_is_a_terminal(folder, tmp_path):
    """`echo Hello | gptkit generate` once started from nothing, without a word."""
    commands = makers.Commands(tmp_path)
    try:
        rest = ("-m", folder / "ends", "--seed", "1", "--json")
        piped = commands("generate", *rest, stdin=b"ab")
        empty = commands("generate", "", *rest, stdin=b"ab")
        none = commands("generate", *rest, stdin=b"")
    finally:
        commands.close()
    found = [json.loads(one.out) for one in (piped, empty, none)]
    assert [one["text"] for one in found] == ["bc", "abc", "abc"]
    assert [one["prompt_tokens"] for one in found] == [2, 1, 1]
    typed, keyboard = os.openpty()
    command = [sys.executable, "-m", "gptkit", "generate", *map(str, rest)]
    done = subprocess.run(command, stdin=keyboard, capture_output=True, timeout=120, check=True)
    os.close(typed)
    os.close(keyboard)
    assert json.loads(done.stdout)["text"] == "abc"


def test_control_characters_reach_a_pipe_and_a_file_as_they_are(tmp_path, capfdbinary, monkeypatch):
    """What is shown equals the text in the JSON, byte for byte (a terminal: test_terminal.py)."""
    monkeypatch.setenv("GPTKIT_PLUGINS", TOKENIZER)
    script = bytes(range(256)) + "\N{GRINNING FACE}".encode()
    folder = makers.save_reciter(tmp_path / "m", makers.utf8_tokenizer(), script[:200])
    args = ["generate", "x", "-m", str(folder), "--max-new-tokens", "200", "--seed", "1"]
    assert main(args) == 0
    sys.stdout.flush()
    plain = capfdbinary.readouterr().out
    assert main([*args, "--json"]) == 0
    sys.stdout.flush()
    found = json.loads(capfdbinary.readouterr().out)
    assert plain == found["text"].encode() == script[:200].decode("utf-8", "replace").encode()


def test_threads_is_the_number_that_torch_takes(folder):
    """In a process of its own: torch asks once."""
    code = (
        "from gptkit.cli import main\n"
        f"main(['generate', 'ab', '-m', {str(folder / 'ends')!r}, '--threads', '2'])\n"
        "import torch\n"
        "print(' threads', torch.get_num_threads())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.endswith(" threads 2\n"), done.stderr


def test_threads_are_at_least_one(capsys):
    assert main(["generate", "ab", "--threads", "0"]) == 2
    assert "--threads" in capsys.readouterr().err
