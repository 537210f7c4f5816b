"""Training of BPE against a trainer that recounts everything, and against Hugging Face's."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from gptkit.errors import RequestError
from gptkit_plugins.tokenizers import BPE
from gptkit_plugins.tokenizers.bpe_files import BYTE_ORDER, LETTERS
from gptkit_plugins.tokenizers.bpe_training import PATTERN, learn


def recount(texts: list[str], n_tokens: int) -> tuple[list[bytes], list[list[bytes]]]:
    """Train by counting every pair of every word again for each merge; return words as cut."""
    tokens = [bytes([byte]) for byte in BYTE_ORDER]
    words = [
        [bytes([byte]) for byte in word.encode()]
        for text in texts
        for word in regex.findall(PATTERN, text)
    ]
    while len(tokens) < n_tokens:
        pairs = Counter(pair for word in words for pair in zip(word, word[1:], strict=False))
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], tokens.index(p[0]), tokens.index(p[1])))
        if pairs[best] < 2:
            break
        tokens.append(best[0] + best[1])
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [tokens[-1]]
                i += 1
    return tokens, words


@settings(max_examples=400, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from("aab c\n1字é'"), max_size=60), max_size=4),
    n_more=st.integers(0, 25),
)
def test_incremental_counts_are_those_of_a_recount(texts, n_more):
    tokens, _ = recount(texts, 256 + n_more)
    assert [*learn(texts, 256 + n_more)] == tokens


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("ab "), max_size=80))
def test_encoding_cuts_as_training_did(text):
    """tiktoken merges what training merged: the last state of the corpus is its encoding."""
    tokens, words = recount([text], 280)
    bpe = BPE.train([text], vocab_size=280)
    ids = bpe.encode_ordinary(text)
    assert [bpe.token_bytes(i) for i in ids] == [token for word in words for token in word]
    assert len(set(tokens)) == len(tokens)


def test_merges_worked_by_hand():
    """`low` 3 times, `lower` once more: lo 4, then low 4, then the blank 3 before it."""
    made = [*learn(["low low low lower"], 260)][256:]
    assert made == [b"lo", b"low", b" low"]  # the pairs with e and r occur once


def test_runs_of_one_letter_merge_from_the_left():
    """aaaaa becomes aa aa a; of its two pairs (aa, a) has the lower ids; then aa aaa is left."""
    assert [*learn(["aaaaa aaaaa"], 300)][256:] == [b"aa", b"aaa", b"aaaaa"]


def test_a_long_run_is_no_trouble():
    start = time.process_time()
    ranks = learn(["a" * 1_000_000], 300)
    assert max(map(len, ranks)) == 2**19
    assert time.process_time() - start < 10


def test_no_text_gives_the_bytes():
    bpe = BPE.train([], vocab_size=1000, special=("<|end|>",))
    assert bpe.vocab_size == 257
    assert bpe.decode(bpe.encode_ordinary("Ж")) == "Ж"


def test_training_counts_texts_apart():
    assert learn(["ab", "ab"], 257) != learn(["a", "bab"], 257)
    assert learn(iter(["abab"]), 257) == learn(["ab", "ab"], 257)


def test_control_tokens_are_part_of_the_size():
    bpe = BPE.train(["low low low"], vocab_size=259, special=("<|end|>",))
    assert bpe.vocab_size == 259 and bpe.special == {"<|end|>": 258}
    assert bpe.token_bytes(257) == b"low" and bpe.token_bytes(258) == b""


def test_half_a_surrogate_pair_in_the_corpus():
    with pytest.raises(RequestError, match="offset 1"):
        BPE.train(["fine", "a\udc00"], vocab_size=300)


def test_the_same_merges_as_hugging_faces_trainer(data):
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    for name, n_tokens in (("the-verdict.txt", 1_000), ("hongloumeng.txt", 400)):
        text = (data / "text" / name).read_text(encoding="utf-8")[:50_000]
        theirs = Tokenizer(models.BPE())
        theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=n_tokens,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        theirs.train_from_iterator([text], trainer)
        vocab = {bytes(LETTERS[c] for c in token): i for token, i in theirs.get_vocab().items()}
        assert learn([text], n_tokens) == vocab
        bpe = BPE.train([text], vocab_size=n_tokens)
        assert bpe.encode_ordinary(text) == theirs.encode(text).ids


def test_tiny_shakespeare_in_seconds(data):
    text = (data / "text" / "tiny-shakespeare.txt").read_text(encoding="utf-8")
    start = time.process_time()
    bpe = BPE.train([text], vocab_size=4_096, special=("<|end|>",))
    assert time.process_time() - start < 20  # 0.6 s measured; a recount for each merge takes hours
    assert bpe.vocab_size == 4_096
    ids = bpe.encode_ordinary(text)
    assert bpe.decode(ids) == text
    assert 3 < len(text) / len(ids) < 4.5
