"""Drafters: tables by hand, brute force, and time."""

import random
import time
from types import SimpleNamespace

import pytest

from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Draft, Request, Stops, resolve_chain
from gptkit.errors import ConfigError
from gptkit.plugin_api import Params
from gptkit.plugin_host import registry
from gptkit_plugins.drafters.prompt_lookup import PromptLookup
from tests.fakes import ByteTokenizer, FlatModel, byte_config
from tests.plugins import history_oracle as oracle


def propose(tokens, k=10, **values):
    defaults = {key: declared.default for key, declared in PromptLookup.params.items()}
    view = SimpleNamespace(id=1, tokens=tokens, prompt_len=len(tokens))
    return list(PromptLookup().propose(view, k, Params({**defaults, **values})))


@pytest.mark.parametrize(
    ("tokens", "values", "want"),
    [
        ([1, 2, 3, 9, 1, 2, 3], {}, [9, 1, 2, 3]),
        ([1, 2, 3, 9, 1, 2, 3], {"k": 2}, [9, 1]),
        ([5, 7, 5, 8, 5], {"max_ngram": 1}, [8, 5]),  # the most recent, not the first
        ([1, 2, 3, 8, 2, 3, 9, 1, 2, 3], {}, [8, 2, 3, 9, 1, 2, 3]),  # the longest before that
        ([1, 2, 3, 8, 2, 3, 9, 1, 2, 3], {"max_ngram": 2}, [9, 1, 2, 3]),
        ([1, 2, 3, 9, 3], {"min_ngram": 2}, []),
        ([4, 4, 4, 4, 4], {}, [4]),
        ([1, 2, 3], {}, []),
        ([1], {}, []),
        ([], {}, []),
        ([1, 1], {"k": 0}, []),
    ],
)
def test_prompt_lookup_by_hand(tokens, values, want):
    assert propose(tokens, **values) == want


def test_prompt_lookup_equals_the_definition():
    rng = random.Random(0)
    for _ in range(5000):
        letters = rng.randint(1, 6)
        tokens = [rng.randrange(letters) for _ in range(rng.randrange(30))]
        k, longest = rng.randrange(9), rng.randint(1, 5)
        shortest = rng.randint(1, longest)
        want = oracle.prompt_lookup(tokens, k, longest, shortest)
        assert propose(tokens, k, max_ngram=longest, min_ngram=shortest) == want


def test_prompt_lookup_is_linear_also_in_a_loop():
    start = time.process_time()
    propose([1, 2] * 50_000 + [3], max_ngram=100)
    assert propose([1] * 100_000, max_ngram=100) == [1]
    propose(([7] * 99 + [8]) * 1000 + [7] * 99 + [9] + [7] * 98, max_ngram=100)
    assert time.process_time() - start < 2


def test_prompt_lookup_says_which_lengths_make_no_sense():
    with pytest.raises(ConfigError, match="min_ngram 4 is above max_ngram 3"):
        propose([1, 1], min_ngram=4)


@pytest.mark.parametrize(
    ("items", "accepts"),
    [
        ([{"logit_bias": {"a": 20}}], True),
        (
            [
                {"logit_bias": {"a": 3, "b": 3, "c": 3}},
                {"penalties": {"repeat": 1.1, "frequency": 0.2}},
                {"dry": 0.8},
                {"no_repeat_ngram": 6},
                {"bad_words": ["abc", "x"]},
                {"min_new_tokens": 9},
            ],
            False,
        ),
    ],
)
def test_a_draft_changes_no_token(items, accepts):
    tokenizer, chain = ByteTokenizer(), resolve_chain(items, registry())
    for seed in range(10):
        texts = []
        for draft in (None, Draft(PromptLookup, 5, {"max_ngram": 3, "min_ngram": 1})):
            engine = Engine(FlatModel(byte_config(tokenizer)), tokenizer, frozenset({256}))
            request = Request(tuple(b"abcabcab"), chain, Stops(40), seed, draft=draft)
            events = list(engine.stream(request))
            texts.append([event.token_id for event in events])
        assert texts[0] == texts[1]
        assert events[-1].n_drafted and (events[-1].n_accepted > 0 or not accepts)


def test_the_bundled_drafters_are_found():
    assert registry().names("drafter") == ["prompt_lookup"]
