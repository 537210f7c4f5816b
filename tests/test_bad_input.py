"""Bad input from outside: what users see, where it is found, and the exit code.

Each case has the number of its row in the project's table of bad input. Those of the first half
must be found before torch is imported, so they share one process that never imports it.
"""

from __future__ import annotations

import json
import os
import time

import pytest

from gptkit.cli import main
from gptkit.errors import ResourceError
from gptkit.model import memory
from gptkit.model.config import GPTConfig
from gptkit.model.gpt import GPT
from gptkit.plugin_host import registry
from tests import makers
from tests.checkpoints import test_hostile as hostile
from tests.checkpoints.makers import hf_folder

PLUGIN = str(makers.TOKENIZER_FIXTURE / "acme_tokenizer.py")
DEEP = "[" * 10_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a working directory with models, jobs and files that are wrong in many ways."""
    here = tmp_path_factory.mktemp("work")
    makers.save_random(here / "tiny")
    makers.save_random(here / "bos", bos_id=5)
    makers.save_random(here / "padded", n_vocab=100)
    makers.save_random(here / "small", makers.char_tokenizer("abc"))
    utf8 = makers.utf8_tokenizer()
    makers.save_random(here / "bytes", type(utf8)(["<|endoftext|>"]))
    makers.save_reciter(here / "emoji", utf8, "\N{GRINNING FACE}".encode())
    makers.save_reciter(here / "hostile", utf8, b"\x1b]52;c;eA==\x07\r\x9b")
    makers.save_reciter(here / "stray", utf8, b"ok", mend=_stray_nan)
    makers.save_reciter(here / "broken", utf8, b"ok", mend=_nan_at_step_3)
    (here / "empty_folder").mkdir()
    (here / "line\nbreak").mkdir()
    for name, case in HOSTILE_ROWS.items():
        hostile.HOSTILE[case][0](here / name)
    hf_folder(here / "heads", n_head=3)
    with (here / "big.txt").open("wb") as big:
        big.truncate(100_000_000)
    (here / "in.jsonl").write_text('{"text": "a"}\n')
    for name, text in JOBS.items():
        (here / name).write_text(text)
    return here


def _stray_nan(tensors):
    tensors["wpe.weight"][200] = float("nan")  # a position that nobody reaches
    tensors["wpe.weight"][201, 0] = float("inf")


def _nan_at_step_3(tensors):
    tensors["wpe.weight"][3, 0] = float("nan")


@pytest.fixture(scope="module")
def cold(folder):
    """Return a process that runs command lines and must not import torch for them."""
    commands = makers.Commands(folder, GPTKIT_PLUGINS=PLUGIN)
    yield commands
    commands.close()


def check_lines(err, said, hint):
    """Check that stderr ends in one line that says `said`, and its hint."""
    lines = err.splitlines()
    assert "Traceback" not in err and "internal error" not in err, err
    assert all(line.startswith(("gptkit: error: ", "  hint: ", "note: ")) for line in lines), err
    (error,) = (line for line in lines if line.startswith("gptkit: error: "))
    assert said in error
    assert len(error) < 1200
    after = lines[lines.index(error) + 1 :]
    assert len(after) <= 1
    if hint is not None:
        assert after and after[0].startswith("  hint: ") and hint in after[0], err


# Found before torch is imported -----------------------------------------------------------------

HOSTILE_ROWS = {
    "row25": "pytorch_model.bin",
    "row26": "git lfs pointer",
    "row27": "html",
    "row27b": "config html",
    "row28": "last byte missing",
    "row29": "length 2^63",
    "row30a": "overlap",
    "row30b": "hole",
    "row30c": "negative offset",
    "row30d": "overflow",
    "row30e": "tensor twice",
    "row31": "100,001 tensors",
    "row32": "unknown dtype",
    "row33a": "index ../",
    "row33b": "index absolute",
    "row34": "missing shard",
    "row35": "pickle",
    "row38": "empty",
    "row40": "other tensors",
    "row42a": "config not json",
    "row42b": "config 10^9 layers",
    "row42c": "config key twice",
}
"""Folders of test_hostile.py, which has many more."""

JOB = """\
model: tiny
template: {item: "Q: $text\\nA: $answer", output: answer, separator: "\\n\\n"}
inputs: in.jsonl
outputs: out.jsonl
stop: {max_new_tokens: 8}
"""
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
JOBS = {
    "unknown.yaml": JOB + "temprature: 1\n",
    "near.yaml": JOB + "sampling: {sed: 7}\n",
    "twice.yaml": JOB + "model: other\n",
    "tag.yaml": JOB + "k: !!python/object/apply:os.system [ls]\n",
    "tab.yaml": JOB + "sampling:\n\tseed: 1\n",
    "indent.yaml": JOB + "sampling:\n    seed: 1\n  chain: [greedy]\n",
    "colon.yaml": JOB + "system: note: this\n",
    "bomb.yaml": BOMB,
    "deep.yaml": f"model: {DEEP}",
    "big.yaml": JOB + "# " + "x" * 1_000_001,
    "quoted.yaml": JOB + 'sampling: {chain: [temperature: "0.7"]}\n',
    "no.yaml": JOB + "sampling: {chain: [temperature: no]}\n",
    "true.yaml": JOB + "sampling: {chain: [top_k: true]}\n",
    "nan.yaml": JOB + "sampling: {chain: [temperature: .nan]}\n",
    "chain.yaml": JOB + "sampling: {chain: [{top_q: 1}]}\n",
    "cut.yaml": JOB.replace("out.jsonl", "two words.jsonl # of five"),
}


def generate(*args):
    return ("generate", "hi", "-m", "tiny", *args)


COLD = [
    ("1 nan", generate("-s", "temperature=nan"), 2, "temperature: nan is not a number from 0", ""),
    ("1 inf", generate("-s", "temperature=inf"), 2, "inf is not a number from 0 to 100", ""),
    ("1 -1", generate("-s", "temperature=-1"), 2, "temperature: -1 is below 0", "off"),
    ("1 101", generate("-s", "temperature=101"), 2, "temperature: 101 is above 100", ""),
    ("1 chat", ("chat", "-m", "tiny", "-s", "temperature=nan"), 2, "nan is not a number", ""),
    ("1 run", ("run", "nan.yaml"), 2, "nan is not a number from 0 to 100", ""),
    ("1 huge", generate("-s", "temperature=" + "9" * 400), 2, "too large", ""),
    ("4 comma", generate("-s", "temperature=0,7"), 2, "'0,7' is not a number", "0.7"),
    ("4 option", generate("--temperature", "0,7"), 2, "--temperature: '0,7' is not", "0.7"),
    ("5", generate("-s", "top_k=-1"), 2, "top_k: -1 is below 0", "off"),
    ("5 fraction", generate("-s", "top_k=1.5"), 2, "top_k: 1.5 is not a whole number", ""),
    ("5 huge", generate("-s", "top_k=" + "9" * 20), 2, "top_k: the number is too large", ""),
    ("8", generate("-s", "top_p=1.5"), 2, "top_p: 1.5 is above 1", ""),
    ("10 negative", generate("--max-new-tokens", "-3"), 2, "max_new_tokens: -3 is below 0", ""),
    ("10 1e9", generate("--max-new-tokens", "1e9"), 2, "is not a whole number", ""),
    ("10 context", generate("--max-new-tokens", "65"), 2, "65 is above 64, the model's", "to 64"),
    ("11", generate("--stop", ""), 2, "--stop must not be empty", ""),
    ("12 2**64", generate("--seed", str(2**64)), 2, "--seed must be a whole number in [0, 2", ""),
    ("12 1.5", generate("--seed", "1.5"), 2, "--seed must be a whole number in [0, 2^63-1]", ""),
    ("12 abc", generate("--seed", "abc"), 2, "--seed must be a whole number in [0, 2^63-1]", ""),
    ("19", ("generate", "-m", "tiny", "--prompt-file", "big.txt"), 2, "over 8 MB", ""),
    ("24 path", ("generate", "hi", "-m", "./tiyn"), 3, "no such model directory: ./tiyn", "./tiny"),
    ("24 name", ("generate", "hi", "-m", "tiyn"), 3, "no such model directory: tiyn", "tiny"),
    ("24 chat", ("chat", "-m", "./tiyn"), 3, "no such model directory: ./tiyn", "./tiny"),
    ("25", ("generate", "hi", "-m", "empty_folder"), 3, "no weights in empty_folder: looked", None),
    ("25 name", ("generate", "hi", "-m", "line\nbreak"), 3, "no weights in line", None),
    *(
        (f"{name[3:]} {case}", ("generate", "hi", "-m", name), 3, hostile.HOSTILE[case][1], None)
        for name, case in HOSTILE_ROWS.items()
    ),
    ("41", ("generate", "hi", "-m", "small", "--tokenizer", "utf8_bytes"), 3, "256 ids", "belong"),
    ("42 heads", ("generate", "hi", "-m", "heads"), 3, "n_head 3 does not divide n_embd 8", None),
    ("45", ("run", "unknown.yaml"), 2, "unknown.yaml:6: unknown key 'temprature'", ""),
    ("45 near", ("run", "near.yaml"), 2, "near.yaml:6: unknown key 'sed'", "did you mean 'seed'?"),
    (
        "46",
        ("run", "twice.yaml"),
        2,
        "twice.yaml:6: key 'model' is given twice, first in line 1",
        None,
    ),
    ("47", ("run", "tag.yaml"), 2, "tag.yaml:6: tag '!!python/object/apply:os.system'", ""),
    ("48 tab", ("run", "tab.yaml"), 2, "tab.yaml:7:1: a tab", "quote the text"),
    ("48 indent", ("run", "indent.yaml"), 2, "indent.yaml:8:", "indentation"),
    ("48 colon", ("run", "colon.yaml"), 2, "colon.yaml:6:13: a second ': '", "quote the text"),
    ("49 bomb", ("run", "bomb.yaml"), 2, "more than the limit of 10,000 values", None),
    ("49 deep", ("run", "deep.yaml"), 2, "deeper than the limit of 64 levels", None),
    ("49 big", ("run", "big.yaml"), 2, "larger than the limit of 1 MB", None),
    ("50 text", ("run", "quoted.yaml"), 2, "temperature: text '0.7' is not a number", None),
    ("50 no", ("run", "no.yaml"), 2, "temperature: text 'no' is not a number", None),
    ("50 true", ("run", "true.yaml"), 2, "top_k: True is not a whole number", None),
    ("50 place", ("run", "chain.yaml"), 2, "chain.yaml:6: unknown sampler 'top_q'", "'top_p'"),
    ("parameter", generate("-s", "top_p:q=1"), 2, "top_p has no parameter 'q'", "p"),
    ("sampler", generate("-s", "temprature=1"), 2, "unknown sampler 'temprature'", "'temperature'"),
    ("two at once", generate("-s", "tpo_p=1", "-s", "top_k=-1"), 2, "'tpo_p'; top_k: -1", "top_p"),
    ("lacks", generate("-s", "greedy", "--top-k", "3"), 2, "the chain has no top_k", "-s top_k=3"),
    ("criterion", generate("--stop-when", "strngs=x"), 2, "criterion 'strngs'", "'strings'"),
    ("overflow", generate("--on-overflow", "cut"), 2, "--on-overflow: 'cut' is none of", ""),
    ("dtype", generate("--dtype", "f32"), 2, "--dtype: 'f32' is none of", "float32"),
    ("device", generate("--device", "tpu"), 2, "--device: 'tpu' is none of", "cpu"),
    ("backend", generate("--backend", "nunpy"), 2, "--backend: 'nunpy' is none of", "numpy"),
    ("tokenizer", generate("--tokenizer", "bqe"), 2, "unknown tokenizer 'bqe'", "'bpe'"),
    ("tokenizer file", generate("--tokenizer", "char:a\nb"), 3, "no such file or folder: a", ""),
    ("prompt file", ("generate", "--prompt-file", "no\nsuch"), 2, "--prompt-file: no such", ""),
    ("two prompts", generate("--prompt-file", "big.txt"), 2, "a prompt is given as well", ""),
    ("numpy", generate("--backend", "numpy", "--dtype", "float16"), 2, "float32 on the CPU", ""),
    ("job", ("run", "sumarize"), 2, "no such job: sumarize", "did you mean 'summarize'?"),
    ("recipe", ("train", "mnii"), 2, "mnii", "mini"),
    ("model", ("models", "show", "./tiyn"), 3, "no such model directory: ./tiyn", "./tiny"),
    ("plugin", ("plugins", "show", "top_q"), 2, "nothing is called 'top_q'", "top_p"),
    ("tokenize", ("tokenize", "hi", "-t", "bqe"), 2, "unknown tokenizer 'bqe'", "'bpe'"),
]


@pytest.mark.parametrize(
    ("args", "code", "said", "hint"), [case[1:] for case in COLD], ids=[case[0] for case in COLD]
)
def test_is_found_before_torch_is_imported(cold, folder, args, code, said, hint):
    before = sorted(os.listdir(folder))
    done = cold(*args)
    check_lines(done.err, said, hint)
    assert done.code == code
    assert done.out == ""
    assert not done.torch
    assert sorted(os.listdir(folder)) == before


# Found when the model is there, or no error at all ----------------------------------------------


@pytest.fixture
def gptkit(folder, monkeypatch, capsysbinary):
    """Return a function: run a command line here; return exit code, stdout and stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GPTKIT_PLUGINS", PLUGIN)

    def run(*args):
        code = main([str(arg) for arg in args])
        out, err = capsysbinary.readouterr()
        return code, out.decode("utf-8", "surrogateescape"), err.decode()

    return run


SHORT = ("--max-new-tokens", "5", "--seed", "1")
X = "x" * 64


@pytest.mark.parametrize(
    ("args", "code", "said", "hint"),
    [
        (("", "-m", "tiny"), 2, "the prompt is empty", "no token to start from"),
        ((X + X, "-m", "tiny"), 2, "prompt has 128 tokens, 65 more than fit", "truncate_left"),
        ((X, "-m", "tiny", *SHORT), 2, "1 more than fit; the model's context is 64 and 5", ""),
        (("\u2603", "-m", "tiny", *SHORT), 2, "'\u2603' at offset 0 is not in the vocabulary", ""),
        (("h", "-m", "broken", *SHORT), 1, "logits are not finite at step 4", "--dtype float32"),
    ],
    ids=["13", "15", "16", "unknown character", "43"],
)
def test_is_one_line_and_an_exit_code(gptkit, args, code, said, hint):
    got, out, err = gptkit("generate", *args)
    check_lines(err, said, hint)
    assert got == code
    assert out == ("oko\n" if code == 1 else "")  # what was said before an error stands


@pytest.mark.parametrize(
    ("args", "note"),
    [
        (("hi", "-m", "tiny", *SHORT, "-s", "temperature=0"), "the seed has no effect"),
        (("hi", "-m", "tiny", *SHORT, "-s", "greedy"), "the seed has no effect"),
        (("", "-m", "bos", *SHORT), "the prompt is empty: starting from "),
        (("hi", "-m", "padded", *SHORT), "25 padded ids of the model are masked"),
        (("hi", "-m", "stray", *SHORT), "tensor wpe.weight: 257 non-finite values"),
        (("<|endoftext|>", "-m", "bytes", *SHORT), "1 special-token string treated as text"),
        (("hi", "-m", "tiny", "--max-new-tokens", "5"), "seed "),
        (("\udcff\udcfe", "-m", "bytes", *SHORT), "2 invalid bytes of the prompt replaced"),
    ],
    ids=["2", "2 greedy", "13", "41", "39", "17", "12", "18"],
)
def test_is_a_note_and_works(gptkit, args, note):
    code, out, err = gptkit("generate", *args)
    assert code == 0
    assert out
    (line,) = err.splitlines()
    assert line.startswith(f"note: {note}")


def said_with(gptkit, *stages):
    args = [arg for stage in stages for arg in ("-s", stage)]
    code, out, _ = gptkit("generate", "hi", "-m", "tiny", *SHORT, *args)
    assert code == 0
    return out


def test_the_ends_of_the_ranges_work(gptkit):
    """Rows 2, 3, 5, 6 and 7."""
    greedy, plain = said_with(gptkit, "greedy"), said_with(gptkit)
    assert greedy != plain
    for stage in ("temperature=0", "temperature=1e-9", "top_p=0", "top_k=1"):
        assert said_with(gptkit, stage) == greedy, stage
    for stage in ("top_k=0", "top_k=off", "top_k=999999", "top_p=off", "top_p=1", "temperature=1"):
        assert said_with(gptkit, stage) == plain, stage
    assert said_with(gptkit, "temperature=100")


def test_no_new_tokens_are_an_empty_answer(gptkit):
    """Row 9."""
    code, out, _ = gptkit("generate", "hi", "-m", "tiny", "--max-new-tokens", "0", "--json")
    said = json.loads(out)
    assert (code, said["text"], said["finish_reason"]) == (0, "", "length")


def test_a_prompt_of_blanks_is_a_prompt(gptkit):
    """Row 14."""
    code, out, _ = gptkit("generate", " \n ", "-m", "tiny", *SHORT, "--json")
    assert code == 0
    assert json.loads(out)["prompt_tokens"] == 3


def test_the_default_length_fits_a_small_context(gptkit):
    code, out, _ = gptkit("generate", "hi", "-m", "tiny", "--json")
    said = json.loads(out)
    assert (code, said["new_tokens"], said["finish_reason"]) == (0, 62, "context")


def test_truncated_prompts_are_generated_from(gptkit):
    for side in ("truncate_left", "truncate_right"):
        args = (X + X, "-m", "tiny", *SHORT, "--on-overflow", side)
        code, out, _ = gptkit("generate", *args, "--json")
        assert (code, json.loads(out)["prompt_tokens"]) == (0, 63)


def test_a_pipe_gets_the_exact_bytes_of_the_model(gptkit):
    """Row 22; what a terminal gets is in test_terminal.py."""
    code, out, _ = gptkit("generate", "h", "-m", "hostile", "--max-new-tokens", "12", "--seed", "1")
    assert code == 0
    assert out == "\x1b]52;c;eA==\x07"
    _, raw, _ = gptkit("generate", "h", "-m", "hostile", "--max-new-tokens", "12", "--raw-output")
    assert raw == out


def test_an_answer_that_ends_inside_a_character(gptkit):
    """Row 23."""
    args = ("generate", "a", "-m", "emoji", "--max-new-tokens", "6", "--json")
    code, out, _ = gptkit(*args)
    said = json.loads(out)
    assert (code, said["finish_reason"], said["new_tokens"]) == (0, "length", 6)
    assert said["text"] == "\N{GRINNING FACE}\ufffd"


def test_more_memory_than_there_is(gptkit, tmp_path, monkeypatch):
    """Row 44: packed weights and a cache that do not fit are refused before they are made."""
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    args = ("generate", "hi", "-m", "tiny", *SHORT)
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:        900 kB\n")
    assert gptkit(*args)[0] == 0
    meminfo.write_text("MemAvailable: 9 kB\n")
    code, out, err = gptkit(*args)
    assert (code, out) == (6, "")
    check_lines(err, "tiny needs about 0.0 GB, 0.0 GB free", "--dtype")
    meminfo.write_text("MemAvailable: 6100000 kB\n")
    with pytest.raises(ResourceError, match=r"x needs about 9.4 GB, 6.2 GB free"):
        memory.check("x", 9_400_000_000, "")
    meminfo.write_text("nothing of the kind\n")
    memory.check("x", 10**15, "")


def test_a_text_that_a_comment_cuts_gets_a_note(gptkit, folder):
    """Row 48."""
    code, _, err = gptkit("run", "cut.yaml")
    (folder / "two words.jsonl").unlink()
    assert code == 0
    assert "note: cut.yaml:4: the text ends before ' #'" in err.splitlines()[0]


def test_a_batch_whose_cache_does_not_fit(gptkit, folder, tmp_path, monkeypatch):
    (folder / "good.yaml").write_text(JOB)
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    meminfo.write_text("MemAvailable: 900 kB\n")
    args = ("run", "good.yaml", "--output", str(tmp_path / "out.jsonl"))
    code, out, err = gptkit(*args, "--batch-size", "512")
    assert (code, out) == (6, "")
    note, _, rest = err.partition("\n")[2].partition("\n")
    assert note == "note: out of memory; going on with 256 rows at a time"
    check_lines(rest, "the cache of 256 sequences needs about", "batch")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_million_letters_are_refused_soon(gptkit, folder, data):
    """Row 20: a text without a break for the pattern, and merges by the thousand."""
    tokenizer = registry().find("tokenizer", "bpe").value.load(data / "tokenizers" / "gpt2")
    config = GPTConfig(vocab_size=50257, block_size=64, n_layer=0, n_embd=1)
    tensors = GPT(config).init_weights(seed=1).state_dict()
    makers.save(folder / "gpt2", config, tensors, tokenizer)
    (folder / "long.txt").write_text("a" * 1_000_000)
    start = time.process_time()
    code, out, err = gptkit("generate", "--prompt-file", "long.txt", "-m", "gpt2")
    assert (code, out) == (2, "")
    assert time.process_time() - start < 4  # 2 s for the text, and loading
    check_lines(err, "more than fit; the model's context is 64", "truncate_left")
