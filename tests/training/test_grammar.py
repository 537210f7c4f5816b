"""The grammar: every expansion is one that could be written out by hand, and chance is given."""

from __future__ import annotations

import random

import pytest

from gptkit.errors import ConfigError
from gptkit.training.grammar import expand

LISTS = {"pet": ["cat", "dog"], "sound": ["{loud|soft} purr of a $pet"], "loop": ["x $loop1"]}


def all_of(text, lists=LISTS, n=300):
    rng = random.Random(0)
    return {expand([text], lists, rng)[0] for _ in range(n)}


@pytest.mark.parametrize(
    ("text", "expansions"),
    [
        ("plain | text", {"plain | text"}),
        ("{a|b}", {"a", "b"}),
        ("x{|y}", {"x", "xy"}),
        ("{a{1|2}|b}!", {"a1!", "a2!", "b!"}),
        ("$pet.", {"cat.", "dog."}),
        ("${pet}s", {"cats", "dogs"}),
        ("$pet $pet", {"cat cat", "dog dog"}),
        ("$pet $pet2", {"cat dog", "dog cat"}),
        ("$$5", {"$5"}),
        (
            "a $sound",
            {f"a {how} purr of a {pet}" for how in ("loud", "soft") for pet in LISTS["pet"]},
        ),
        ("", {""}),
    ],
)
def test_expansions_are_those_worked_out_by_hand(text, expansions):
    assert all_of(text) == expansions


def test_a_name_is_the_same_in_all_texts_that_belong_together():
    for seed in range(20):
        first, second = expand(["I am $pet", "Hi $pet"], LISTS, random.Random(seed))
        assert first.split()[-1] == second.split()[-1]


def test_chance_is_given():
    texts = ["{a|b|c}{1|2|3} $pet"]
    assert [expand(texts, LISTS, random.Random(i)) for i in range(9)] == [
        expand(texts, LISTS, random.Random(i)) for i in range(9)
    ]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("{a|b", "a '{' is never closed in '{a|b'", None),
        ("a}", "a '}' closes nothing in 'a}'", None),
        ("costs $ 5", "a lone '$' in 'costs $ 5'", "write $$ for a dollar, $name for a list"),
        ("$pett", "no list 'pett' for '$pett'", "did you mean 'pet'?"),
        (
            "$pet $pet2 $pet3",
            "list 'pet' has too few entries for $pet3 in '$pet $pet2 $pet3'",
            None,
        ),
    ],
)
def test_mistakes_name_the_text(text, message, hint):
    with pytest.raises(ConfigError) as caught:
        expand([text], LISTS, random.Random(0))
    assert str(caught.value) == message
    assert caught.value.hint == hint


def test_a_list_that_refers_to_itself_ends():
    lists = {"a": ["$b"], "b": ["$a"]}
    with pytest.raises(ConfigError, match="refers to itself"):
        expand(["$a"], lists, random.Random(0))
