"""What holds for every tokenizer, and the closed vocabularies in particular."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptkit.errors import CheckpointError, ConfigError, RequestError
from gptkit_plugins.tokenizers import BPE, Char, Whitespace

CONTROL = ("<|user|>", "<|end|>")
TEXT = "To be, or not to be:\n\tthat is the  question — Ж 字 🎉 <|user|>\n" * 3


def acme():
    sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures" / "acme_tokenizer"))
    try:
        from acme_tokenizer import Utf8Bytes
    finally:
        sys.path.pop(0)
    return Utf8Bytes


KINDS = {
    "char": lambda: Char.train([TEXT], special=CONTROL),
    "whitespace": lambda: Whitespace.train([TEXT], special=CONTROL),
    "bpe": lambda: BPE.train([TEXT], vocab_size=300, special=CONTROL),
    "utf8_bytes": lambda: acme().train([TEXT], special=CONTROL),
}


@functools.cache
def made(name):
    """Train a tokenizer on TEXT, once for all the examples of a property."""
    return KINDS[name]()


@pytest.fixture(params=KINDS)
def tokenizer(request):
    """Return a tokenizer of each kind, trained on TEXT."""
    return KINDS[request.param]()


# Every tokenizer ------------------------------------------------------------------------------


def test_round_trip_of_the_training_text(tokenizer):
    ids = tokenizer.encode_ordinary(TEXT)
    assert all(type(token_id) is int for token_id in ids)
    assert tokenizer.decode(ids) == TEXT
    assert b"".join(map(tokenizer.token_bytes, ids)) == TEXT.encode()
    assert tokenizer.encode_ordinary("") == []


def test_control_tokens_come_last_have_no_bytes_and_are_never_text(tokenizer):
    size = tokenizer.vocab_size
    assert dict(tokenizer.special) == {"<|user|>": size - 2, "<|end|>": size - 1}
    assert {tokenizer.token_bytes(i) for i in tokenizer.special.values()} == {b""}
    ids = tokenizer.encode_ordinary(TEXT)
    assert not {*ids} & {*tokenizer.special.values()}
    assert tokenizer.decode([*ids, *tokenizer.special.values()]) == TEXT


def test_ids_out_of_range(tokenizer):
    for token_id in (-1, tokenizer.vocab_size, 10**9):
        with pytest.raises(RequestError, match=str(token_id)):
            tokenizer.token_bytes(token_id)
        with pytest.raises(RequestError):
            tokenizer.decode([0, token_id])


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = type(tokenizer).load(tmp_path)
    assert again.vocab_size == tokenizer.vocab_size
    assert dict(again.special) == dict(tokenizer.special)
    assert again.encode_ordinary(TEXT) == tokenizer.encode_ordinary(TEXT)
    every = range(tokenizer.vocab_size)
    assert [*map(again.token_bytes, every)] == [*map(tokenizer.token_bytes, every)]
    files = [file for file in tmp_path.iterdir() if file.suffix == ".json"]
    assert type(tokenizer).load(files[0]).vocab_size == tokenizer.vocab_size


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(RequestError, match="offset 2"):
        tokenizer.encode_ordinary("to\ud83d")


def test_vocab_size_is_an_upper_bound(tokenizer):
    with pytest.raises(ConfigError, match="vocab_size"):
        type(tokenizer).train([TEXT], vocab_size=5)


@pytest.mark.parametrize("kind", [Char, Whitespace, BPE])
@pytest.mark.parametrize(
    ("special", "said"), [(("a", "a"), "'a' is given twice"), (("",), "must have a name")]
)
def test_bad_control_names(kind, special, said):
    with pytest.raises(ConfigError, match=said):
        kind.train([TEXT], vocab_size=300, special=special)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), name=st.sampled_from(sorted(KINDS)))
def test_what_the_tokens_say_can_be_said_again(data, name):
    """Text drawn from a tokenizer's own tokens; decode never raises for ids in range."""
    tokenizer = made(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    text = tokenizer.decode(ids)
    try:
        again = tokenizer.encode_ordinary(text)
    except RequestError:
        # Two words side by side are another word, and U+FFFD for broken bytes may be unknown.
        assert name == "whitespace"
        return
    assert tokenizer.decode(again) == text
    assert not {*again} & {*tokenizer.special.values()}


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_open_vocabularies_say_every_text(text):
    for name in ("bpe", "utf8_bytes"):
        tokenizer = made(name)
        assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text


def test_listing_tokenizers_is_light():
    """A class is light: tiktoken and regex come with the first use."""
    code = (
        "import gptkit_plugins.tokenizers, sys; "
        "print(sorted({'tiktoken', 'regex', 'numpy', 'torch', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Closed vocabularies --------------------------------------------------------------------------


def test_char_ids_are_in_the_order_of_the_characters():
    char = Char.train(["hello"], special=("<|end|>",))
    assert char.encode_ordinary("hello") == [1, 0, 2, 2, 3]
    assert char.vocab_size == 5 and char.token_bytes(3) == b"o"
    assert Char.train(["字"]).token_bytes(0) == "字".encode()


def test_tiny_shakespeare_has_65_characters(data):
    text = (data / "text" / "tiny-shakespeare.txt").read_text(encoding="utf-8")
    char = Char.train([text[:500_000], text[500_000:]])
    assert char.vocab_size == 65
    assert char.encode_ordinary("\n z") == [0, 1, 64]
    assert char.decode(char.encode_ordinary(text)) == text


def test_an_unknown_character_is_named_with_its_offset():
    with pytest.raises(RequestError) as caught:
        Char.train(["ab"]).encode_ordinary("abaé")
    assert str(caught.value) == (
        "tokenizer char: character 'é' at offset 3 is not in the vocabulary"
    )
    assert caught.value.hint == "its 2 tokens are those of its training text"


def test_an_unknown_word_is_named_with_its_offset():
    whitespace = Whitespace.train(["the cat  sat\n"])
    assert whitespace.vocab_size == 6
    assert whitespace.encode_ordinary("sat the") == [4, 1, 5]
    with pytest.raises(RequestError, match=r"word 'dog' at offset 4 is not in the vocabulary"):
        whitespace.encode_ordinary("the dog")
    with pytest.raises(RequestError, match=r"word '\\t' at offset 3"):
        whitespace.encode_ordinary("the\tcat")


def test_a_long_unknown_word_is_cut_in_the_message():
    with pytest.raises(RequestError) as caught:
        Whitespace.train(["a"]).encode_ordinary("x" * 10_000)
    assert len(str(caught.value)) < 150


def test_a_million_characters_in_a_moment():
    assert len(Char.train(["a"]).encode_ordinary("a" * 1_000_000)) == 1_000_000


def test_a_closed_vocabulary_has_no_default():
    with pytest.raises(ConfigError, match="char has no vocabulary") as caught:
        Char.load(None)
    assert caught.value.hint == "-t char:PATH"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "chars.json:1: not JSON"),
        (b"[1]", "expected an object, got a list"),
        (b'{"tokens": ["a"], "tokens": ["b"]}', "'tokens' is given twice"),
        (b'{"special": []}', "'tokens' is not a list of texts"),
        (b'{"tokens": ["a", 1]}', "'tokens' is not a list of texts"),
        (b'{"tokens": ["a", "b", "a"]}', "'a' is in 'tokens' twice"),
        (b'{"tokens": ["ab"]}', "'ab' is not one character"),
        (b'{"tokens": [""]}', "'' is not one character"),
        (b'{"tokens": ["a"], "special": ["x", "x"]}', "'x' is in 'special' twice"),
        (b'{"tokens": ["a"], "special": [""]}', "a control token must have a name"),
        (b'{"tokens": ["\\ud83d"]}', "half of a surrogate pair"),
        (b"\xff\xfe", "is not UTF-8 at byte 0"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"  <!DOCTYPE html><p>", "is an HTML page"),
        (b"[" * 100_000, "not JSON that we read"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, content, said):
    (tmp_path / "chars.json").write_bytes(content)
    for path in (tmp_path, tmp_path / "chars.json"):
        with pytest.raises(CheckpointError) as caught:
            Char.load(path)
        assert said in str(caught.value) and "chars.json" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "no.json"):
        with pytest.raises(CheckpointError, match="can't read .*json: No such file"):
            Char.load(path)
    (tmp_path / "chars.json").mkdir()
    with pytest.raises(CheckpointError, match="is not a file"):
        Char.load(tmp_path)


def test_saved_files_are_plain_json(tmp_path):
    Char.train(["b\na"], special=("<|end|>",)).save(tmp_path)
    assert json.loads((tmp_path / "chars.json").read_text()) == {
        "tokens": ["\n", "a", "b"],
        "special": ["<|end|>"],
    }
