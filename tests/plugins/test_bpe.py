"""Byte-level BPE: recorded cases, every file format, and files that are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time

import pytest

from gptkit.errors import CheckpointError, ConfigError, RequestError
from gptkit_plugins.tokenizers import BPE, bpe_files

URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
SENTENCE = "Not all heroes wear capes."
IDS = [3673, 477, 10281, 5806, 1451, 274, 13]


@pytest.fixture(scope="session")
def gpt2(data):
    """Return GPT-2's tokenizer, read from the published files."""
    return BPE.load(data / "tokenizers" / "gpt2")


@pytest.fixture
def small(tmp_path):
    """Return a small trained tokenizer and the folder in which it is saved."""
    bpe = BPE.train(["low lower lowest slow 字 字"], vocab_size=270, special=("<|end|>",))
    bpe.save(tmp_path)
    return bpe, tmp_path


# Recorded cases -------------------------------------------------------------------------------


def test_all_recorded_cases(data, gpt2):
    folder = data / "tokenizers" / "tiktoken"
    made = {
        "gpt2": gpt2,
        "r50k_base": BPE.load(folder / "r50k_base.tiktoken"),
        "cl100k_base": BPE.load(folder / "cl100k_base.tiktoken"),
    }
    cases = json.loads((data / "tokenizers" / "cases.json").read_text(encoding="utf-8"))
    assert len(cases) == 60
    for case in cases:
        tokenizer = made[case["encoding"]]
        assert tokenizer.encode_ordinary(case["text"]) == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["text"]
    assert dict(made["r50k_base"].special) == {"<|endoftext|>": 50256} == dict(gpt2.special)
    cl100k = made["cl100k_base"]
    assert cl100k.vocab_size == 100_277 and cl100k.special["<|endofprompt|>"] == 100_276
    assert cl100k.token_bytes(100_270) == b""  # stands for nothing


def test_gpt2(gpt2):
    assert gpt2.vocab_size == 50_257
    assert gpt2.encode_ordinary(SENTENCE) == IDS
    assert gpt2.token_bytes(477) == b" all" and gpt2.token_bytes(50_256) == b""
    assert 50_256 not in gpt2.encode_ordinary("a <|endoftext|> b")


def test_the_constants_are_tiktokens(monkeypatch):
    from tiktoken_ext import openai_public

    asked = []

    def ranks(url, expected_hash):
        asked.append(expected_hash)
        return {}

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", ranks)
    for publish in (openai_public.r50k_base, openai_public.cl100k_base):
        made = publish()
        pattern, special = bpe_files.KNOWN_FILES[asked[-1]]
        assert pattern == made["pat_str"]
        assert special == made["special_tokens"]
    assert asked == list(bpe_files.KNOWN_FILES)


@pytest.mark.parametrize("unit", ["a", "^", " ", "\n", " \n", "'s", "7", "字", "👩‍👩‍👧", "e\u0301"])
def test_a_megabyte_of_one_thing(gpt2, unit):
    text = unit * (1_000_000 // len(unit.encode()))
    start = time.perf_counter()
    ids = gpt2.encode_ordinary(text)
    assert time.perf_counter() - start < 10  # 0.3 s measured; the naive algorithm takes minutes
    assert gpt2.decode(ids) == text


# Formats --------------------------------------------------------------------------------------


def test_each_of_a_pair_of_files_finds_the_other(data, tmp_path, gpt2):
    folder = data / "tokenizers" / "gpt2"
    shutil.copyfile(folder / "encoder.json", tmp_path / "vocab.json")
    shutil.copyfile(folder / "vocab.bpe", tmp_path / "merges.txt")
    for path in (
        folder / "encoder.json",
        folder / "vocab.bpe",
        tmp_path,
        tmp_path / "vocab.json",
        tmp_path / "merges.txt",
    ):
        again = BPE.load(path)
        assert again.encode_ordinary(SENTENCE) == IDS
        assert (again.vocab_size, again.special) == (gpt2.vocab_size, gpt2.special)


@pytest.mark.parametrize("cut", ["ByteLevel", "Split"])
def test_a_tokenizer_json_of_hugging_face(data, tmp_path, cut):
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import Regex, models, pre_tokenizers, trainers

    theirs = tokenizers.Tokenizer(models.BPE())
    pattern = r"\p{N}{1,3}| ?\p{L}+|\n"  # leaves blanks out: those are pieces of their own
    theirs.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False)
        if cut == "ByteLevel"
        else pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>", "<|user|>"],  # they come first, as in many published models
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = (data / "text" / "the-verdict.txt").read_text(encoding="utf-8")
    theirs.train_from_iterator([text], trainer)
    theirs.add_tokens([tokenizers.AddedToken("<tool>", special=False)])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = BPE.load(tmp_path)
    assert ours.vocab_size == theirs.get_vocab_size() == 601
    assert dict(ours.special) == {"<|end|>": 0, "<|user|>": 1, "<tool>": 600}
    for sample in (text, "1234567  --  x\n\n Ж字🎉\t", "  "):
        assert ours.encode_ordinary(sample) == theirs.encode(sample).ids
        assert ours.decode(ours.encode_ordinary(sample)) == sample
    (tmp_path / "own").mkdir()
    ours.save(tmp_path / "own")
    again = BPE.load(tmp_path / "own")
    assert again.encode_ordinary(text) == ours.encode_ordinary(text)
    assert again.special == ours.special


def test_what_is_saved_is_a_rank_file_that_tiktoken_reads(small, monkeypatch):
    from tiktoken.load import load_tiktoken_bpe

    bpe, folder = small
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ranks = load_tiktoken_bpe(str(folder / "bpe.tiktoken"))
    assert [*ranks.values()] == [*range(len(ranks))]
    assert [*ranks] == [bpe.token_bytes(i) for i in range(len(ranks))]
    assert bpe.vocab_size == len(ranks) + 1 == bpe.special["<|end|>"] + 1


def test_the_rank_file_of_ours_keeps_its_control_tokens(small):
    bpe, folder = small
    assert BPE.load(folder / "bpe.tiktoken").special == bpe.special
    (folder / "bpe.json").unlink()
    assert BPE.load(folder / "bpe.tiktoken").special == {}
    assert BPE.load(folder).encode_ordinary("lowest") == bpe.encode_ordinary("lowest")


def test_a_folder_without_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no BPE files: looked for bpe.json, tokenizer"):
        BPE.load(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.tiktoken").touch()
    with pytest.raises(CheckpointError, match="has several BPE files"):
        BPE.load(tmp_path)


def test_a_missing_partner_is_named(data, tmp_path):
    shutil.copyfile(data / "tokenizers" / "gpt2" / "encoder.json", tmp_path / "encoder.json")
    with pytest.raises(CheckpointError, match=r"can't read .*vocab.bpe: No such file"):
        BPE.load(tmp_path)


# Refused files --------------------------------------------------------------------------------


def change_ranks(folder, change):
    path = folder / "bpe.tiktoken"
    lines = change(path.read_bytes().splitlines())
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:9], b"?? 9", *lines[10:]], "bpe.tiktoken:10: b'??' is not base64"),
        (lambda lines: [*lines[:9], b"!", *lines[10:]], "bpe.tiktoken:10: b'!' is not base64"),
        (lambda lines: [*lines, b"YQ=="], "bpe.tiktoken:{end}: not a token in base64"),
        (lambda lines: [*lines, b"YWI= -1"], "bpe.tiktoken:{end}: not a token in base64"),
        (lambda lines: [*lines, b"YWI= 9999999999999"], "bpe.tiktoken:{end}: not a token"),
        (lambda lines: [*lines, lines[3]], "bpe.tiktoken:{end}: token b'$' is given twice"),
        (lambda lines: [*lines, b"YWJj 260"], "have one id, 260"),
        (lambda lines: [*lines, b"YWJj %d" % len(lines)], "have one id, {end_id}"),
        (lambda lines: [*lines, b"YWJj 999"], "no token has the id {hole}"),
        (lambda lines: lines[1:], "no token for the byte 0x21"),
        (lambda lines: [], "no token for the byte 0x00"),
    ],
)
def test_bad_rank_files(small, change, said):
    bpe, folder = small
    n = bpe.vocab_size - 1
    said = said.format(end=n + 1, end_id=n, hole=n + 1)
    path = change_ranks(folder, change)
    with pytest.raises(CheckpointError) as caught:
        BPE.load(folder)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def write_pair(folder, vocab=(), merges=(), version="#version: 0.2"):
    """Write vocab.json and merges.txt of 256 bytes and some more."""
    letters = [letter for letter, _ in sorted(bpe_files.LETTERS.items())]
    entries = {token: index for index, token in enumerate([*letters, *vocab])}
    (folder / "vocab.json").write_text(json.dumps(entries))
    (folder / "merges.txt").write_text("\n".join([version, *merges]) + "\n", encoding="utf-8")
    return entries


@pytest.mark.parametrize(
    ("vocab", "merges", "said"),
    [
        (["ab"], ["a b", "ab c"], "merges.txt:3: 'ab c' is no merge of tokens in vocab.json"),
        (["ab"], ["a b", "a b c"], "merges.txt:3: 'a b c' is no merge"),
        (["ab", "abc"], ["a b"], "vocab.json: no merge makes the token 'abc'"),
        (["abc", "ab"], ["a b", "ab c"], "merges.txt:3: makes id 256 after id 257"),
    ],
)
def test_bad_merges(tmp_path, vocab, merges, said):
    write_pair(tmp_path, vocab, merges)
    with pytest.raises(CheckpointError) as caught:
        BPE.load(tmp_path)
    assert said in str(caught.value)


def test_merges_with_the_line_ends_of_windows(tmp_path):
    write_pair(tmp_path, ["ab"], ["a b"])
    file = tmp_path / "merges.txt"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert BPE.load(tmp_path).encode_ordinary("ab") == [256]


def test_control_tokens_of_a_vocabulary_are_those_that_no_merge_makes(tmp_path):
    write_pair(tmp_path, ["ab", "<pad>", "[SEP]"], ["a b"])
    assert BPE.load(tmp_path).special == {"<pad>": 257, "[SEP]": 258}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a": "x"}, "id 'x' of 'a' is not a whole number we use"),
        ({"a": 1.5}, "id 1.5 of 'a' is not a whole number we use"),
        ({"a": True}, "id True of 'a' is not a whole number we use"),
        ({"a": -1}, "id -1 of 'a' is not a whole number we use"),
        ({"a": 1}, "have one id, 1"),
        ({"字": 256}, "no merge makes the token '字'"),
        ({"<x>": 10_000_000}, None),  # a control token may stand far off
    ],
)
def test_bad_vocabularies(tmp_path, change, said):
    entries = write_pair(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(entries | change))
    if said is None:
        assert BPE.load(tmp_path).vocab_size == 10_000_001
        return
    with pytest.raises(CheckpointError) as caught:
        BPE.load(tmp_path)
    assert said in str(caught.value) and "vocab.json" in str(caught.value)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"type": "WordPiece"}}, "model.type 'WordPiece' is not supported"),
        ({"model": {"type": "BPE", "byte_fallback": True}}, "model.byte_fallback True"),
        ({"normalizer": {"type": "NFC"}}, "a normalizer is not supported"),
        ({"pre_tokenizer": None}, "its pre_tokenizer is not supported"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is not supported"),
        ({"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}, "its pre_tokenizer"),
        ({"pre_tokenizer": BYTE_LEVEL | {"use_regex": False}}, "its pre_tokenizer"),
        ({"added_tokens": [1]}, "is not a list we read"),
        ({"added_tokens": [{"content": "!", "id": 7}]}, "'!' has the ids 0, 7"),
        ({"model": {"type": "BPE"}}, "is not a list we read"),
        ({"model": {"type": "BPE", "merges": ["! x"]}}, "expected names with ids"),
        ({"model": {"vocab": {"!": 0}, "merges": ["! x"]}}, "merge 1: '! x' is no merge"),
        ({"model": {"vocab": {"!": 0}, "merges": []}}, "no token for the byte 0x00"),
    ],
)
def test_tokenizer_json_that_is_not_plain_byte_level_bpe(tmp_path, change, said):
    entries = {letter: index for index, letter in enumerate(sorted(bpe_files.LETTERS))}
    whole = {
        "pre_tokenizer": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": entries, "merges": []},
    }
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(whole))
    assert BPE.load(tmp_path).encode_ordinary("!") == [0]
    file.write_text(json.dumps(whole | change))
    with pytest.raises(CheckpointError) as caught:
        BPE.load(tmp_path)
    assert said in str(caught.value) and "tokenizer.json" in str(caught.value)


def test_a_hostile_pattern_stops(small, capfd):
    """tiktoken's engine would panic here, with a backtrace on stderr."""
    _, folder = small
    settings = json.loads((folder / "bpe.json").read_text())
    (folder / "bpe.json").write_text(json.dumps(settings | {"pattern": "(a|aa)+$(?!b)"}))
    bpe = BPE.load(folder)
    start = time.perf_counter()
    with pytest.raises(RequestError, match="exceeded its time limit"):
        bpe.encode_ordinary("a" * 60 + "!")
    assert time.perf_counter() - start < 30  # 1 s of processor time, and no minutes
    assert capfd.readouterr().err == ""
    (folder / "bpe.json").write_text(json.dumps(settings | {"pattern": "(a"}))
    with pytest.raises(CheckpointError, match="no regular expression"):
        BPE.load(folder)


# GPT-2's download -----------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Make tiktoken forget what it read, and refuse every name; return an empty home folder."""
    from tiktoken import registry

    def refuse(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(registry, "ENCODINGS", {})
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("GPTKIT_HOME", str(tmp_path))
    return tmp_path


def fill(folder, data):
    """Put GPT-2's files where tiktoken keeps what it downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in ("vocab.bpe", "encoder.json"):
        made.append(folder / hashlib.sha1((URL + name).encode()).hexdigest())
        shutil.copyfile(data / "tokenizers" / "gpt2" / name, made[-1])
        made[-1].chmod(0o644)
    return made


@pytest.mark.parametrize("variable", ["GPTKIT_HOME", "TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_gpt2_comes_from_the_cache(fresh, data, gpt2, monkeypatch, variable, tmp_path_factory):
    cache = fresh / "downloads"
    if variable != "GPTKIT_HOME":
        cache = tmp_path_factory.mktemp("cache")
        monkeypatch.setenv(variable, str(cache))
    fill(cache, data)
    bpe = BPE.load(None)
    assert bpe.encode_ordinary(SENTENCE) == IDS
    assert bpe.special == gpt2.special and bpe.vocab_size == gpt2.vocab_size
    every = range(bpe.vocab_size)
    assert [*map(bpe.token_bytes, every)] == [*map(gpt2.token_bytes, every)]
    (fresh / "saved").mkdir()
    bpe.save(fresh / "saved")
    assert BPE.load(fresh / "saved").encode_ordinary(SENTENCE) == IDS


def test_offline_without_a_cache(fresh, monkeypatch):
    import os

    with pytest.raises(CheckpointError) as caught:
        BPE.load(None)
    assert str(caught.value) == "can't download GPT-2's vocabulary (ConnectionError)"
    assert caught.value.hint.startswith("-t bpe:PATH takes a folder with encoder.json")
    assert "TIKTOKEN_CACHE_DIR" not in os.environ


def test_a_damaged_download_is_not_used(fresh, data):
    damaged, _ = fill(fresh / "downloads", data)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="can't download GPT-2's vocabulary"):
        BPE.load(None)


def test_a_download_with_the_wrong_hash(fresh, monkeypatch):
    from tiktoken import load

    monkeypatch.setattr(load, "read_file", lambda path: b"#version: 0.2\n")
    with pytest.raises(CheckpointError, match=r"can't download GPT-2's vocabulary \(ValueError\)"):
        BPE.load(None)


def test_a_folder_that_can_t_be_written(fresh, monkeypatch):
    (fresh / "downloads").write_text("in the way")
    from tiktoken import load

    monkeypatch.setattr(load, "read_file", lambda path: b"")
    monkeypatch.setattr(load, "check_hash", lambda data, expected: True)
    with pytest.raises(CheckpointError, match=r"\(.*exists.*\)|\(Not a directory\)"):
        BPE.load(None)


# Text -----------------------------------------------------------------------------------------


def test_a_panic_in_rust_is_an_error_of_ours(small, monkeypatch):
    class PanicException(BaseException):
        pass

    class Panics:
        n_vocab = 1

        def encode_ordinary(self, text):
            raise PanicException("no entry found for key")

    bpe, _ = small
    monkeypatch.setattr(bpe, "_encoding", Panics())
    with pytest.raises(RequestError, match="can't encode this text: no entry found"):
        bpe.encode_ordinary("a")


def test_a_vocabulary_without_training_size():
    with pytest.raises(ConfigError, match="vocab_size is None; it is from 257"):
        BPE.train(["a"], special=("<|end|>",))
