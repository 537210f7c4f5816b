"""`gptkit sampler`: its tables fit the screen, say what its JSON says, and its plots are drawn."""

from __future__ import annotations

import importlib.util
import json
import math

import pytest

from gptkit.cli import main, sampler_view
from tests import makers
from tests.fakes import ByteTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("sampler")
    makers.save_random(here / "tiny")
    makers.save_random(here / "advised", sampling=[{"temperature": 0.5}, {"top_k": 3}])
    letters = makers.char_tokenizer("abc\n")
    makers.save_reciter(
        here / "ends", letters, letters.encode_ordinary("abc\n"), eos_ids=(0,), bos_id=0
    )
    (here / "hot.yaml").write_text("chain: [{temperature: 1.5}, {top_p: 0.9}]")
    (here / "cold.yaml").write_text("sampling:\n  chain: [{temperature: 0.3}, {top_k: 5}]\n")
    (here / "other").mkdir()
    (here / "other" / "hot.yaml").write_text("chain: [greedy]")
    return here


@pytest.fixture
def sampler(folder, capsys, monkeypatch):
    """Return a function: run the command at 80 columns; return stdout and stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args, code=0):
        assert main(["sampler", *map(str, args)]) == code
        return capsys.readouterr()

    return run


@pytest.fixture
def generate(folder, capsys):
    def run(*args):
        assert main(["generate", *map(str, args), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


TINY = ("-m", "tiny", "--seed", "4")
CHAIN = ("-s", "temperature=0.8", "-s", "top_k=10", "-s", "top_p=0.9")


def narrow(text):
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    return lines


# trace --------------------------------------------------------------------------------------------


def test_trace_shows_the_tokens_that_generate_says(sampler, generate):
    said = generate("Hello", *TINY, *CHAIN, "--max-new-tokens", "5")
    found = json.loads(sampler("trace", "Hello", *TINY, *CHAIN, "--tokens", "5", "--json").out)
    assert [one["token"]["id"] for one in found["tokens"]] == said["token_ids"]
    assert [one["position"] for one in found["tokens"]] == [5, 6, 7, 8, 9]
    assert (found["model"], found["seed"]) == ("tiny", 4)
    fourth = json.loads(sampler("trace", "Hello", *TINY, *CHAIN, "--position", "4", "--json").out)
    assert fourth["tokens"][0].pop("finish_reason") == "length"
    assert found["tokens"][3].pop("finish_reason") is None
    assert fourth["tokens"] == found["tokens"][3:4]
    first = json.loads(sampler("trace", "Hello", *TINY, *CHAIN, "--json").out)
    assert first["tokens"][0]["stages"] == found["tokens"][0]["stages"]


def test_trace_adds_up_stage_by_stage(sampler):
    found = json.loads(sampler("trace", "Hello", *TINY, *CHAIN, "--json").out)
    (one,) = found["tokens"]
    stages = one["stages"]
    assert [s["stage"] for s in stages] == ["model", "temperature=0.8", "top_k=10", "top_p=0.9"]
    assert stages[2]["survivors"] == 10
    for before, after in zip(stages, stages[1:], strict=False):
        assert after["before"] == before["after"]
    assert stages[-1]["removed_mass"] < 0.1
    assert one["draw"]["picker"] == "sample" and one["draw"]["margin_nats"] > 0


def test_the_table_of_a_trace(sampler):
    out = sampler("trace", "Hello", *TINY, *CHAIN, "-s", "penalties=off").out
    lines = narrow(out)
    assert lines[0].startswith("token 1 ") and lines[0].endswith("seed 4   position 5")
    assert lines[1].split()[:4] == ["stage", "kept", "removed", "entropy"]
    assert [line.split()[0] for line in lines[2:6]] == ["model", "temperature", "top_k", "top_p"]
    assert lines[4].split()[2] == "10"
    assert lines[6].startswith("sample: ") and "nats over" in lines[6]
    assert lines[7] == "off: penalties"


def test_a_token_is_followed_to_the_stage_that_removed_it(sampler):
    found = json.loads(sampler("trace", "Hello", *TINY, "-s", "top_k=1", "--json").out)
    (one,) = found["tokens"]
    loser = one["stages"][1]["best_removed"]
    text = loser["text"]
    out = sampler("trace", "Hello", *TINY, "-s", "top_k=1", "--token", text).out
    lines = narrow(out)
    assert lines[4] == f'sample: "{one["token"]["text"]}" the only token left'
    assert lines[5].startswith(f'"{text}" was removed by top_k=1, where it came in as #2 ')
    asked = (*TINY, "-s", "top_k=1", "--token", text, "--json")
    found = json.loads(sampler("trace", "Hello", *asked).out)["tokens"][0]["asked"]
    assert found == {"token": {"id": loser["id"], "text": text}, "removed_by": "top_k=1"}
    kept = one["token"]["text"]
    out = sampler("trace", "Hello", *TINY, "-s", "top_k=1", "--token", kept).out
    assert out.splitlines()[-1] == f'"{kept}" was removed by no stage'


def test_trace_takes_the_recommended_chain_and_presets(sampler):
    out, err = sampler("trace", "Hello", "-m", "advised", "--seed", "1", "--json")
    assert "sampling as advised recommends: temperature=0.5 top_k=3 sample" in err
    assert len(json.loads(out)["tokens"][0]["stages"]) == 3
    out, err = sampler("trace", "Hello", *TINY, "--preset", "nanogpt", "-s", "top_k=2", "--json")
    assert err == "note: preset nanogpt: temperature=0.8 top_k=2 sample\n"
    assert json.loads(out)["tokens"][0]["stages"][-1]["survivors"] == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--position", "2", "--tokens", "3"), "--position and --tokens both say what to show"),
        (("--token", "ab"), "--token: 'ab' is 2 tokens: 'a', 'b'"),
        (("--token", ""), "--token: '' is 0 tokens"),
        (("--plot", "x.pdf"), "--plot x.pdf: the name tells what to draw"),
        (("--plot", "no/x.svg"), "--plot no/x.svg: there is no folder no"),
        (("--preset", "hg"), "unknown preset 'hg'"),
    ],
)
def test_what_trace_refuses(sampler, args, said):
    _, err = sampler("trace", "Hello", *TINY, *args, code=2)
    assert said in err and "hint: " in err


def test_an_answer_that_ends_before_the_position(sampler):
    _, err = sampler("trace", "a", "-m", "ends", "--position", "9", code=2)
    assert "--position 9: the answer ended after 4 tokens (eos)" in err
    seen = json.loads(sampler("trace", "a", "-m", "ends", "--tokens", "9", "--json").out)["tokens"]
    assert [one["finish_reason"] for one in seen] == [None, None, None, "eos"]


# compare ------------------------------------------------------------------------------------------


def compared(sampler, *args):
    return json.loads(sampler("compare", *args, *TINY, "--json").out)


def test_compare_puts_chains_side_by_side(sampler):
    found = compared(sampler, "hot.yaml", "cold.yaml", "nanogpt", "--tokens", "10")
    assert (found["rows"], found["prompts"], found["model"], found["seed"]) == (80, 8, "tiny", 4)
    assert [one["name"] for one in found["chains"]] == ["hot", "cold", "nanogpt"]
    hot, cold, nanogpt = found["chains"]
    assert cold["chain"] == ["temperature=0.3", "top_k=5", "sample"]
    assert cold["survivors"] == {"mean": 5, "median": 5}
    assert nanogpt["survivors"]["mean"] == 75  # fewer than 200: all of them
    assert nanogpt["removed_mass"] == 0
    assert found["model_entropy_nats"] > hot["entropy_nats"] > cold["entropy_nats"]
    assert {one["argmax_agreement"] for one in found["chains"]} == {1.0}
    assert {one["tokens"] for one in found["chains"]} == {80}
    assert set(hot["ms_per_step"]) == {"1", "16"}
    assert all(0 <= value <= 1 for one in found["chains"] for value in one["distinct"].values())


def test_a_comparison_is_the_same_for_the_same_seed(sampler):
    def figures(seed):
        args = ("compare", "hot.yaml", "-m", "tiny", "--seed", seed, "--tokens", "5", "--json")
        found = json.loads(sampler(*args).out)
        del found["chains"][0]["ms_per_step"]
        return found

    assert figures(1) == figures(1) != figures(2)


def test_the_table_of_a_comparison(sampler):
    out = sampler("compare", "hot.yaml", "cold.yaml", *TINY, "--tokens", "5").out
    lines = narrow(out)
    assert lines[0].split() == ["hot", "cold"]
    rows = {line[:22].strip(): line[22:].split() for line in lines[1 : lines.index("")]}
    assert rows["tokens left, median"][1] == "5"
    assert rows["best token kept"] == ["100.0", "%", "100.0", "%"]
    assert "rows refused" not in rows
    assert "hot: temperature=1.5 top_p=0.9 sample" in lines
    assert lines[-1].startswith("40 rows, 8 prompts, model tiny, seed 4; without a chain the ent")


@pytest.mark.slow
def test_more_chains_than_fit_make_more_tables(sampler):
    names = ["hot.yaml", "cold.yaml", "nanogpt", "openai", "other/hot.yaml", "openai"]
    lines = narrow(sampler("compare", *names, *TINY, "--tokens", "2").out)
    heads = [line.split() for line in lines if line.startswith(" " * 22)]
    assert len(heads) > 1
    assert [name for head in heads for name in head] == names[:1] + ["cold"] + names[2:]


def test_prompts_from_a_file(sampler, tmp_path):
    (tmp_path / "p.txt").write_text("Once\n\nHello there\r\n")
    found = compared(sampler, "cold.yaml", "--prompts", tmp_path / "p.txt", "--tokens", "4")
    assert (found["prompts"], found["rows"]) == (2, 8)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("no.yaml",), "no such file: no.yaml"),
        (("nanogtp",), "unknown preset 'nanogtp'"),
        (("hot.yaml", "--tokens", "64"), "prompt 5 has 27 tokens, and with 64 more it is above 64"),
        (("hot.yaml", "--prompts", "none.txt"), "--prompts: none.txt: No such file or directory"),
        (("hot.yaml", "--prompts", "empty.txt"), "--prompts: empty.txt has no prompt"),
        (("hot.yaml", "--prompts", "odd.txt"), "odd.txt: "),
        (("hot.yaml", "--plot", "x"), "--plot x: the name tells what to draw"),
        (("bias.yaml",), "bias: logit_bias: token id 99 is not in the vocabulary of 75"),
    ],
)
def test_what_compare_refuses(sampler, folder, args, said):
    (folder / "empty.txt").write_text("\n \n")
    (folder / "odd.txt").write_text("a\N{SNOWMAN}\n")
    (folder / "bias.yaml").write_text("chain: [{logit_bias: {99: 1}}]")
    out, err = sampler("compare", *args, *TINY, code=2)
    assert said in err and "hint: " in err
    assert out == ""


# presets, plots, words ----------------------------------------------------------------------------


def test_presets_are_listed_in_full(sampler):
    lines = narrow(sampler("presets").out)
    heads = [line.split()[0] for line in lines if line[:1] not in ("", " ")][:-1]
    assert heads == ["hf", "llama.cpp", "vllm", "openai", "nanogpt"]
    assert "    - penalties: {repeat: off, scope: all, window: 64}" in lines
    found = json.loads(sampler("presets", "nanogpt", "--json").out)
    assert [one["name"] for one in found] == ["nanogpt"]
    assert found[0]["chain"] == [{"temperature": 0.8}, {"top_k": 200}, "sample"]
    _, err = sampler("presets", "nano", code=2)
    assert "unknown preset 'nano'" in err


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plots_are_drawn(sampler, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    file = tmp_path / f"trace.{suffix}"
    sampler("trace", "Hello", *TINY, *CHAIN, "--tokens", "3", "--plot", file)
    other = tmp_path / f"compare.{suffix}"
    sampler("compare", "hot.yaml", "nanogpt", *TINY, "--tokens", "3", "--plot", other)
    start = b"\x89PNG" if suffix == "png" else b"<?xml"
    assert all(one.read_bytes().startswith(start) for one in (file, other))


def test_without_matplotlib_a_plot_is_refused_before_anything_is_computed(sampler, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else there(name)
    )
    out, err = sampler("compare", "hot.yaml", "-m", "no such model", "--plot", "x.png", code=2)
    assert "--plot needs matplotlib, which is not installed" in err
    assert 'hint: pip install "gptkit[plots]"' in err


@pytest.mark.parametrize(
    ("p", "said"),
    [
        *((0, "0"), (1, "1"), (0.5, ".500"), (0.081, ".081"), (0.31, ".310"), (0.0004, ".0004")),
        *((0.00004, "4e-5"), (0.9999, ".9999"), (1 - 1e-9, "1"), (1e-12, "1e-12")),
    ],
)
def test_probabilities_are_short(p, said):
    assert sampler_view._p(p) == said


def test_tokens_are_shown_safely():
    tokenizer = ByteTokenizer()
    shown = [sampler_view.token_text(tokenizer, i) for i in (32, 10, 27, 0xE5, 256)]
    assert shown == ['" "', '"\\n"', '"\N{SYMBOL FOR ESCAPE}"', '"\\xe5"', "<|endoftext|>"]
    assert sampler_view.bits(math.log(8)) == "3.00 b"
