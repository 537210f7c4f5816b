"""Which examples a row gets: tables worked by hand, BM25 by brute force, prompts that fill up."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptkit.config import parse_yaml
from gptkit.errors import ContextOverflow
from gptkit.jobs.job import Cell
from gptkit.jobs.prompts import FIRST_TRY, prompt
from gptkit.jobs.rows import Row
from gptkit.jobs.selection import BM25, K1, B, Examples, choose, in_turn, shuffled, words
from gptkit.text.template import from_document
from tests.fakes import ByteTokenizer

TEMPLATE = from_document(
    parse_yaml('{instruction: "Do.", item: "<$text>=$label", output: label}', "t.yaml"), "t"
)
HEAD = len("Do.\n\n")


def pool(*pairs):
    return [{"text": text, "label": label} for text, label in pairs]


def texts(examples):
    return [example["text"] for example in examples]


def chosen(examples, select, k=None, seed=1):
    return choose(examples, select, k, inputs=["text"], output="label", seed=seed)


def made(examples, text="row", room=10_000, on_overflow="error"):
    cell = Cell({}, None, TEMPLATE, None, examples, {}, (), None, {}, room, 0)
    row = Row(0, 1, None, "1", {"text": text})
    return prompt(row, cell, ByteTokenizer(), on_overflow)


def shown(made):
    """Return the texts of the examples of a prompt, in the order in which they stand there."""
    *pieces, _ = ByteTokenizer().decode(made.ids)[HEAD:].split("\n\n")
    return [piece.partition(">")[0].removeprefix("<") for piece in pieces]


# First, random, balanced ----------------------------------------------------------------------

NINE = pool(*((str(i), "ABC"[i // 3]) for i in range(9)))


def test_the_first_k_are_the_first():
    assert texts(chosen(NINE, "first", 3).best({}, 3)) == ["0", "1", "2"]
    assert shown(made(chosen(NINE, "first", 3))) == ["0", "1", "2"]


def test_random_ones_are_drawn_by_the_seed_alone():
    orders = {seed: texts(shuffled(NINE, seed)) for seed in range(50)}
    assert all(sorted(order) == sorted(texts(NINE)) for order in orders.values())
    assert texts(shuffled(NINE, 3)) == orders[3]
    assert len({tuple(order) for order in orders.values()}) == 50
    assert shuffled([], 1) == []


def test_random_ones_stand_still_across_versions():
    assert texts(chosen(NINE, "random", 4, seed=7).best({}, 4)) == ["7", "5", "6", "1"]


def test_each_example_comes_first_about_as_often():
    first = [texts(shuffled(NINE, seed))[0] for seed in range(1800)]
    counts = [first.count(str(i)) for i in range(9)]
    chi_square = sum((count - 200) ** 2 / 200 for count in counts)
    assert chi_square < 26.1  # 8 degrees of freedom, p = 0.001


def test_random_ones_are_the_same_for_all_rows():
    examples = chosen(NINE, "random", 4)
    assert shown(made(examples, "x")) == shown(made(examples, "another row"))


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ("", []),
        ("AAA", [0, 1, 2]),
        ("AABB", [0, 2, 1, 3]),
        ("ABABAB", [0, 1, 2, 3, 4, 5]),
        ("BAACA", [0, 1, 3, 2, 4]),
        ("AAAAB", [0, 4, 1, 2, 3]),
        ("CBA", [0, 1, 2]),
    ],
)
def test_labels_come_in_turn(labels, order):
    examples = pool(*((str(i), label) for i, label in enumerate(labels)))
    assert texts(in_turn(examples, "label")) == [str(i) for i in order]


def test_a_balanced_choice_has_each_label_as_often_or_once_more():
    for k in range(10):
        found = [one["label"] for one in chosen(NINE, "balanced", k).best({}, k)]
        counts = [found.count(label) for label in "ABC"]
        assert max(counts) - min(counts) <= 1


# Nearest --------------------------------------------------------------------------------------


def brute_force(texts, query):
    """Return the BM25 scores of the texts, straight from the formula."""
    documents = [words([text]) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in set(words([query])):
            n = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            tf = document.count(word)
            score += idf * tf / (tf + K1 * (1 - B + B * len(document) / mean))
        scores.append(score)
    return scores


def test_a_score_worked_by_hand():
    # Two examples of 3 and 1 words, mean 2; "fox" is in one of the two, so idf = ln(1 + 1.5/1.5).
    # tf 2: 0.6931 * 2 / (2 + 1.2 * (0.25 + 0.75 * 1.5)) = 1.3863 / 3.65 = 0.3798
    assert brute_force(["fox fox hen", "owl"], "A fox!") == pytest.approx([0.3798, 0], abs=1e-4)
    assert BM25(pool(("fox fox hen", ""), ("owl", "")), ["text"]).ranked({"text": "A fox!"}) == [
        0,
        1,
    ]


small = st.text("abc d", max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(small, min_size=1, max_size=8), small)
def test_the_order_is_that_of_the_formula(documents, query):
    if not any(map(words, ([text] for text in documents))):
        return  # no mean length to speak of
    scores = brute_force(documents, query)
    ranked = BM25(pool(*((text, "") for text in documents)), ["text"]).ranked({"text": query})
    assert sorted(ranked) == [i for i, text in enumerate(documents) if text != query]
    for i, j in zip(ranked, ranked[1:], strict=False):
        assert scores[i] > scores[j] - 1e-12
        if documents[i] == documents[j]:
            assert i < j


def test_ties_go_to_the_first():
    index = BM25(pool(("x", ""), ("y", ""), ("x", ""), ("z", "")), ["text"])
    assert index.ranked({"text": "nothing of the kind"}) == [0, 1, 2, 3]
    assert index.ranked({"text": "x z"}) == [3, 0, 2, 1]


def test_an_example_that_is_the_row_itself_is_left_out():
    index = BM25(pool(("a fox", "1"), ("a hen", "2")), ["text"])
    assert index.ranked({"text": "a fox"}) == [1]
    assert index.ranked({"text": "A fox"}) == [0, 1]  # the same words, but another row


def test_several_inputs_count_together():
    examples = [{"q": "who", "c": "fox"}, {"q": "hen", "c": "owl"}]
    index = BM25(examples, ["q", "c"])
    assert index.ranked({"q": "owl", "c": ""}) == [1, 0]
    assert index.ranked({"q": "hen", "c": "owl"}) == [0]


def test_an_empty_pool_and_texts_without_words_are_no_trouble():
    assert BM25([], ["text"]).ranked({"text": "x"}) == []
    assert BM25(pool(("", ""), ("!", "")), ["text"]).ranked({"text": "x"}) == [0, 1]


def test_words_are_without_case_and_one_character_each_where_no_spaces_are_written():
    assert words(["The fox, the HEN; Straße"]) == ["the", "fox", "the", "hen", "strasse"]
    assert words(["犬が3匹 dogs"]) == ["犬", "が", "3", "匹", "dogs"]


def test_the_nearest_stands_next_to_the_item():
    examples = pool(("a red fox", "1"), ("blue", "2"), ("a fox", "3"), ("red hen", "4"))
    found = chosen(examples, "nearest", 3)
    assert texts(found.best({"text": "the red fox"}, 3)) == ["a red fox", "a fox", "red hen"]
    assert shown(made(found, "the red fox")) == ["red hen", "a fox", "a red fox"]


def test_where_the_nearest_do_not_fit_the_farthest_goes():
    examples = pool(("a red fox", "1"), ("blue", "2"), ("a fox", "3"), ("red hen", "4"))
    found = chosen(examples, "nearest", 3)
    whole = made(found, "the red fox")
    less = made(found, "the red fox", room=len(whole.ids) - 1)
    assert shown(less) == ["a fox", "a red fox"]
    assert (less.n_examples, less.n_dropped) == (2, 1)


def test_nearest_ones_share_the_head_alone():
    examples = chosen(pool(("a", "1"), ("b", "2")), "nearest", 1)
    one, other = made(examples, "a b"), made(examples, "b")
    n = min(one.n_shared, other.n_shared)
    assert n == HEAD - 1 and one.ids[:n] == other.ids[:n]


def test_the_order_does_not_depend_on_how_python_hashes_text():
    code = (
        "from gptkit.jobs.selection import BM25;"
        "texts = [' '.join(chr(97 + (i * j) % 26) for j in range(20)) for i in range(200)];"
        "index = BM25([{'t': text} for text in texts], ['t']);"
        "print([index.ranked({'t': text}) for text in texts[:20]])"
    )
    outs = set()
    for seed in "123":
        environ = {"PYTHONHASHSEED": seed, "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
        )
        outs.add(done.stdout)
    assert len(outs) == 1


# As many as fit -------------------------------------------------------------------------------

MANY = pool(*((f"{i:03}", "y") for i in range(100)))
SHOT = len("<000>=y\n\n")


@pytest.mark.parametrize("n", [0, 1, FIRST_TRY - 1, FIRST_TRY, FIRST_TRY + 1, 63, 64, 99, 100])
@pytest.mark.parametrize("select", ["first", "nearest"])
def test_auto_takes_as_many_as_fit(n, select):
    examples = chosen(MANY, select, "auto")
    item = len("<row>=")
    for spare in (0, SHOT - 1):
        found = made(examples, room=HEAD + item + n * SHOT + spare)
        assert (found.n_examples, found.n_dropped) == (n, 0)
        assert sorted(shown(found)) == texts(MANY[:n])
    if n:
        found = made(examples, room=HEAD + item + n * SHOT - 1)
        assert found.n_examples == n - 1


def test_auto_is_the_prompt_of_that_many():
    examples = chosen(MANY, "random", "auto", seed=5)
    found = made(examples, room=333)
    alone = made(replace(examples, k=found.n_examples), room=333)
    assert (found.ids, found.n_shared) == (alone.ids, alone.n_shared)


def test_auto_fills_what_a_longer_row_leaves():
    examples = chosen(MANY, "first", "auto")
    n = [made(examples, "x" * length, room=400).n_examples for length in (1, 100, 200, 300)]
    assert n == sorted(n, reverse=True) and len(set(n)) == 4


def test_what_does_not_fit_without_examples_is_told_or_counted_also_with_auto():
    examples = chosen(MANY, "first", "auto")
    with pytest.raises(ContextOverflow, match="even without examples"):
        made(examples, "x" * 50, room=40)
    cut = made(examples, "x" * 50, room=40, on_overflow="truncate_left")
    assert len(cut.ids) == 40 and cut.n_dropped == cut.n_cut > 0


def test_without_a_pool_auto_is_zero_shot():
    assert made(Examples(k="auto")).n_examples == 0
