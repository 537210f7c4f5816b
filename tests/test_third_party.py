"""Two packages of other people, found through their metadata alone, in every place they serve.

The commands run in one process whose path holds the packages as pip would have put them there.
"""

from __future__ import annotations

import json

import pytest

from tests import makers

PACKAGES = f"{makers.SAMPLER_FIXTURE}:{makers.TOKENIZER_FIXTURE}"
LENGTH = ("--max-new-tokens", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("work")
    utf8 = makers.utf8_tokenizer()
    makers.save_random(here / "bytes", utf8, block_size=256)
    makers.save_reciter(here / "reciter", utf8, "caf\u00e9 ".encode())
    makers.save_random(here / "letters")
    rows = ({"id": i, "text": f"row {i}"} for i in range(3))
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (here / "job.yaml").write_text(
        "model: bytes\n"
        'template: {item: "Q: $text\\nA: $answer", output: answer, separator: "\\n\\n"}\n'
        "inputs: in.jsonl\noutputs: out.jsonl\n"
        "sampling: {seed: 7, chain: [temperature: 0.9, square: 0.9]}\n"
        "stop: {max_new_tokens: 8}\n"
    )
    return here


@pytest.fixture(scope="module")
def gptkit(folder):
    commands = makers.Commands(folder, PYTHONPATH=PACKAGES)
    yield commands
    commands.close()


def rows(folder, name="out.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_both_are_listed_with_their_owners(gptkit):
    listed = json.loads(gptkit("plugins", "list", "--json").out)
    offers = {offer["name"]: offer for plugin in listed for offer in plugin["offers"]}
    assert offers["square"]["from"] == "acme-sampler 0.1"
    assert offers["square"]["params"]["a"]["range"] == "at least 0 and at most 1"
    assert offers["utf8_bytes"]["from"] == "acme-tokenizer 0.1"
    assert not [plugin for plugin in listed if plugin["status"] != "ok"]
    shown = gptkit("plugins", "list")
    assert "square" in shown.out and "acme-sampler 0.1" in shown.out
    page = gptkit("plugins", "show", "square")
    assert (page.code, page.err) == (0, "")
    assert "a  float  0..1  off  threshold factor    e.g. -s square=VALUE" in page.out


def generate(gptkit, *args):
    done = gptkit("generate", "hi", "-m", "bytes", *LENGTH, "--seed", "1", "--json", *args)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_generate_takes_the_sampler_by_either_name(gptkit):
    plain = generate(gptkit)
    off = generate(gptkit, "-s", "square=off")
    bare = generate(gptkit, "-s", "square=0.3")
    owned = generate(gptkit, "-s", "acme-sampler/square=0.3")
    strict = generate(gptkit, "-s", "square:a=1")
    assert bare["chain"] == owned["chain"] == ["square=0.3", "sample"]
    assert bare["token_ids"] == owned["token_ids"]
    assert off["token_ids"] == plain["token_ids"]
    assert len(strict["token_ids"]) == 8


def test_the_sampler_does_what_it_says(gptkit):
    """At this temperature the best token has a third of the mass, and the others 0.25 % each."""
    asked = ("generate", "h", "-m", "reciter", *LENGTH, "--seed", "5", "-s", "temperature=10")
    hot = gptkit(*asked)
    cut = gptkit(*asked, "-s", "square=0.1")
    assert cut.out == "caf\u00e9 ca"
    assert hot.out != cut.out


def test_its_ranges_and_names_are_checked_like_ours(gptkit):
    wrong = gptkit("generate", "hi", "-m", "bytes", "-s", "square=1.5")
    assert wrong.code == 2
    assert wrong.err.startswith("gptkit: error: square: 1.5 is above 1 (threshold factor")
    near = gptkit("generate", "hi", "-m", "bytes", "-s", "squar=0.5")
    assert "hint: did you mean 'square'?" in near.err
    other = gptkit("generate", "hi", "-m", "bytes", "-s", "acme-tokenizer/square=0.5")
    assert other.code == 2 and "unknown sampler 'acme-tokenizer/square'" in other.err


def test_chat_takes_the_sampler_at_the_start_and_later(gptkit):
    def chat(*args, stdin):
        command = ("chat", "-m", "bytes", "--template", "dialogue", *LENGTH, "--seed", "1")
        done = gptkit(*command, *args, stdin=stdin)
        assert done.code == 0, done.err
        return done

    asked = chat("-s", "square=0.3", stdin=b"hello\n")
    later = chat(stdin=b"/set square 0.3\nhello\n")
    assert asked.out == later.out
    assert "square=0.3" in later.err
    shown = chat(stdin=b"/set square 0.3\n/set\n").out
    (line,) = (line for line in shown.splitlines() if line.startswith("square"))
    assert "0.3" in line and "at least 0 and at most 1" in line
    wrong = gptkit("chat", "-m", "bytes", stdin=b"/set square 2\n")
    assert wrong.code == 2 and "square: 2 is above 1" in wrong.err


def test_a_job_takes_the_sampler_from_its_file_and_from_options(gptkit, folder):
    done = gptkit("run", "job.yaml")
    assert done.code == 0, done.err
    assert "sampling temperature=0.9 square=0.9 sample, seed 7" in done.err
    first = rows(folder)
    assert [row["id"] for row in first] == [0, 1, 2]
    assert all(row["new_tokens"] == 8 for row in first)
    options = ("-s", "temperature=0.9", "-s", "acme-sampler/square=0.9", "--output", "two.jsonl")
    assert gptkit("run", "job.yaml", *options).code == 0
    assert rows(folder, "two.jsonl") == first
    wrong = gptkit("run", "job.yaml", "--set", "sampling.chain.1.square=3")
    assert wrong.code == 2 and "square: 3 is above 1" in wrong.err


def test_a_model_whose_tokenizer_is_theirs(gptkit, folder):
    """Its checkpoint names the tokenizer; bytes become whole characters on their way out."""
    done = gptkit("generate", "h", "-m", "reciter", "--max-new-tokens", "5", "--seed", "1")
    assert (done.code, done.out) == (0, "caf\u00e9")
    shown = gptkit("models", "show", "reciter", "--json")
    assert json.loads(shown.out)["tokenizer"] == "utf8_bytes"
    split = json.loads(gptkit("tokenize", "\u00e9", "-t", "utf8_bytes", "--json").out)
    assert split["ids"] == [0xC3, 0xA9]


def test_their_tokenizer_instead_of_the_models_own(gptkit, folder):
    asked = ("generate", "h", "-m", "bytes", *LENGTH, "--seed", "1", "--json")
    own = json.loads(gptkit(*asked).out)
    theirs = json.loads(gptkit(*asked, "--tokenizer", "utf8_bytes").out)
    owned = json.loads(gptkit(*asked, "--tokenizer", "acme-tokenizer/utf8_bytes").out)
    assert own["token_ids"] == theirs["token_ids"] == owned["token_ids"]
    chat = gptkit(
        *("chat", "-m", "reciter", "--tokenizer", "utf8_bytes", "--template", "dialogue"),
        *("--max-new-tokens", "5"),
        stdin=b"h\n",
    )
    assert chat.code == 0, chat.err
    assert len(chat.out) > 1
    job = gptkit("run", "job.yaml", "--tokenizer", "utf8_bytes", "--output", "three.jsonl")
    assert job.code == 0, job.err
    assert len(rows(folder, "three.jsonl")) == 3
    small = gptkit("generate", "hi", "-m", "letters", "--tokenizer", "utf8_bytes")
    assert small.code == 3
    assert "tokenizer utf8_bytes has 256 ids, the model only" in small.err


def test_without_the_packages_the_names_are_unknown(folder):
    commands = makers.Commands(folder, PYTHONPATH="")
    try:
        done = commands("generate", "hi", "-m", "bytes")
        assert done.code == 2
        assert "unknown tokenizer 'utf8_bytes'" in done.err
        done = commands("generate", "hi", "-m", "letters", "-s", "square=0.3")
        assert "unknown sampler 'square'" in done.err
    finally:
        commands.close()
