"""The corpus: every document is there as often as it should be, and on one side only."""

from __future__ import annotations

import pytest

from gptkit.errors import ConfigError
from gptkit.plugin_api import Segment
from gptkit.training import corpus
from tests.training.fakes import registry

CHAR = registry().find("tokenizer", "char").value
END = "<|endoftext|>"
TOKENIZER = CHAR.train(["abcdefghij-é"], special=[END])


def of(documents, **kwargs):
    return corpus.of_documents(
        [((Segment(text),), times) for text, times in documents],
        TOKENIZER,
        kwargs.pop("validation", 0.25),
        TOKENIZER.special[END],
        block_size=kwargs.pop("block_size", 4),
        seed=kwargs.pop("seed", 0),
    )


def texts(ids):
    pieces = [[]]
    for i in ids.tolist():
        if i == TOKENIZER.special[END]:
            pieces.append([])
        else:
            pieces[-1].append(i)
    return [TOKENIZER.decode(piece) for piece in pieces[:-1]]


def test_text_is_split_once_and_no_token_is_lost():
    made = corpus.of_text("abcdefghij", TOKENIZER, 0.3, None)
    assert TOKENIZER.decode(made.train) == "abcdefg"
    assert TOKENIZER.decode(made.validation) == "hij"


def test_validation_bytes_are_those_of_the_text_alone():
    made = corpus.of_text("abcde-é", TOKENIZER, 0.3, TOKENIZER.special[END])
    assert texts(made.validation) == ["e-é"]
    assert made.validation_bytes == 4


def test_documents_are_there_as_often_as_told_and_on_one_side():
    made = of([("ab", 1), ("cd", 3), ("ef", 1), ("gh", 1), ("ab", 1)])
    train, held = texts(made.train), texts(made.validation)
    assert len(held) == 1 and not set(held) & set(train)
    counts = {"ab": 2, "cd": 3, "ef": 1, "gh": 1}
    assert sorted(train) == sorted(t for t, n in counts.items() for _ in range(n) if t not in held)
    assert made.n_documents == 7


def test_the_order_is_one_of_chance_that_the_seed_gives():
    documents = [(a + b, 1) for a in "abcdefgh" for b in "abcdefgh"]
    first = of(documents)
    assert first.sha256 == of(documents).sha256 != of(documents, seed=1).sha256
    assert texts(first.train) != sorted(texts(first.train))


def test_blocks_may_begin_where_documents_do_and_inside_long_ones():
    made = of([("abcdefghij", 1), ("a", 1), ("b", 1), ("c", 1)], validation=0.2)
    tokens = made.train.tolist()
    begins = [0] + [i + 1 for i, t in enumerate(tokens[:-1]) if t == TOKENIZER.special[END]]
    assert set(begins) <= set(made.starts.tolist())
    inside = sorted(set(made.starts.tolist()) - set(begins))
    if inside:  # the long one is in training
        assert [tokens[i] for i in inside] == [5, 9]  # e and i: every fourth


def test_too_few_documents_are_refused():
    with pytest.raises(ConfigError, match="1 different documents are too few"):
        of([("ab", 5)])


def test_what_looks_like_a_separator_stays_text():
    tokenizer = CHAR.train(["<|endoftx>"], special=[END])
    made = corpus.of_text("<|endoftext|>" * 2, tokenizer, 0.5, None)
    assert tokenizer.special[END] not in made.train.tolist()
