"""What a comparison measures, against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from gptkit.decoding import comparison
from gptkit.decoding.chain_source import ChainSource
from gptkit.decoding.comparison import Figures, Progress, distinct, repetition
from gptkit.decoding.engine import Engine
from gptkit.decoding.noise import derive
from gptkit.decoding.request import Request, Stage, Stops, parse_stage, resolve_chain
from gptkit.errors import ConfigError, GptkitError, RequestError
from gptkit.plugin_api import Sampler
from gptkit.plugin_host import registry
from tests.fakes import ByteTokenizer, FlatModel, byte_config

REGISTRY = registry()
PROMPTS = [[1, 2], [3], [4, 5, 6]]
N = 12


def test_distinct_n_counts_different_ones_among_all_texts():
    """a b a b, a c: 3 of 6 unigrams; ab ba ab, ac are 3 of 4 bigrams; aba bab 2 of 2 trigrams."""
    texts = [[1, 2, 1, 2], [1, 3]]
    assert distinct(texts, 1) == 3 / 6
    assert distinct(texts, 2) == 3 / 4
    assert distinct(texts, 3) == 2 / 2
    assert distinct(texts, 5) == 1.0  # there is none
    assert distinct([[7] * 10], 2) == 1 / 9


def test_repetition_is_the_share_said_before():
    """1 2 3 4 1 2 3 4 has the 4-grams 1234 2341 3412 4123 1234: 4 of 5 are different."""
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition(list(range(20))) == 0
    assert repetition([7] * 10) == pytest.approx(1 - 1 / 7)
    assert repetition([1, 2, 3]) == 0


def test_figures_average_repetition_over_texts_but_count_grams_over_all():
    figures = Figures("x", (), [], [], [], 0, 0, [[7] * 10, list(range(10))], {})
    assert figures.repetition() == pytest.approx((1 - 1 / 7) / 2)
    assert figures.distinct(1) == 10 / 20


# Recording and comparing --------------------------------------------------------------------------


class Letters(FlatModel):
    """Prefers the letter after the last one, and the others the less the further they are."""

    def logits(self, tokens):
        ids = torch.arange(self.config.vocab_size)
        return -0.5 * ((ids - tokens[-1] - 1) % self.config.vocab_size).float()


@pytest.fixture
def engine():
    tokenizer = ByteTokenizer()
    return Engine(Letters(byte_config(tokenizer)), tokenizer, frozenset({256}), n_slots=2)


def last(steps):
    """Return the result of a generator that yields progress before it, and the progress."""
    *progress, result = steps
    assert all(isinstance(step, Progress) for step in progress)
    return result, progress


def record(engine, n=N, seed=5):
    (picker,) = resolve_chain((), REGISTRY)
    return last(comparison.record(engine, PROMPTS, n, picker, seed))


def compare(engine, walks, *stages, chain=None):
    chain = chain or resolve_chain([parse_stage(text) for text in stages], REGISTRY)
    return last(comparison.compare(engine, walks, ChainSource("it", chain), N))[0]


def test_a_recording_has_the_model_s_own_logits(engine):
    walks, progress = record(engine)
    assert [walk.prompt_ids for walk in walks] == [tuple(ids) for ids in PROMPTS]
    assert [walk.seed for walk in walks] == [derive(5, i) for i in range(3)]
    for walk in walks:
        assert len(walk.said) == len(walk.rows) == N
        tokens = [*walk.prompt_ids, *walk.said]
        for i, row in enumerate(walk.rows):
            wanted = engine.forward.logits(tokens[: len(walk.prompt_ids) + i])
            assert torch.equal(row, wanted)
    assert (progress[-1].n_done, progress[-1].n_all) == (3 * N, 3 * N)


def test_a_recording_is_what_plain_sampling_says(engine):
    walks, _ = record(engine)
    chain = resolve_chain((), REGISTRY)
    for walk in walks:
        asked = Request(walk.prompt_ids, chain, Stops(N, ignore_eos=True), walk.seed)
        assert [event.token_id for event in engine.stream(asked)] == walk.said


def test_what_a_chain_leaves_of_the_rows(engine):
    """Logits fall by 1/2 from token to token: three are left with shares 1, r, r^2."""
    walks, _ = record(engine)
    found = compare(engine, walks, "top_k=3")
    assert found.survivors == [3] * (3 * N)
    r = math.exp(-0.5)
    shares = [r**i / (1 + r + r**2) for i in range(3)]
    entropy = -sum(p * math.log(p) for p in shares)
    assert found.entropy == pytest.approx([entropy] * (3 * N), abs=1e-5)
    assert found.removed == pytest.approx([r**3] * (3 * N), abs=1e-5)
    assert (found.agreement, found.n_failed) == (1.0, 0)
    assert set(found.cost_ms) == {1, 16} and min(found.cost_ms.values()) > 0
    assert [len(text) for text in found.texts] == [N] * 3


def test_texts_of_a_chain_are_its_own_generations(engine):
    walks, _ = record(engine)
    found = compare(engine, walks, "greedy")
    first = [prompt[-1] + 1 for prompt in PROMPTS]
    assert found.texts == [list(range(start, start + N)) for start in first]
    assert found.distinct(1) == len({t for text in found.texts for t in text}) / (3 * N)
    assert compare(engine, walks).texts == [walk.said for walk in walks]


def test_the_history_of_a_row_is_the_recorded_one(engine):
    """No token of the recorded text survives this ban; so the best one may be another."""
    walks, _ = record(engine)
    found = compare(engine, walks, "no_repeat_ngram=1")
    size, wanted, agreed = engine.vocab.size, [], 0
    for i in range(N):
        for walk in walks:
            history = {*walk.prompt_ids, *walk.said[:i]}
            wanted.append(size - len(history))
            agreed += int(walk.rows[i].argmax()) not in history
    assert found.survivors == wanted
    assert found.agreement == agreed / len(wanted)


class Counting(Sampler):
    """Allow nothing but the token that the state counts to; three picks, and it is done."""

    name = "counting"
    phase = "constraint"
    state_from = "token"

    def init_state(self, request):
        return 0

    def apply(self, logits, p, rows):
        out = torch.full_like(logits, float("-inf"))
        for r, state in enumerate(rows.state):
            out[r, 60 + state] = logits[r, 60 + state]
        return out

    def advance(self, state, p, observed):
        assert observed.token == 60 + state  # its own pick, not what was recorded
        return state + 1

    def is_done(self, state):
        return state == 3


def test_a_stage_with_memory_follows_its_own_picks_and_starts_anew(engine):
    walks, _ = record(engine)
    chain = (Stage("counting", Counting, {}), *resolve_chain((), REGISTRY))
    found = compare(engine, walks, chain=chain)
    assert found.survivors == [1] * (3 * N)
    assert found.texts == [[60, 61, 62]] * 3
    assert found.agreement < 1


class Choosy(Sampler):
    """Refuse each row whose text has an odd length."""

    name = "choosy"
    phase = "constraint"

    def apply(self, logits, p, rows):
        if bool((rows.position % 2).any()):
            raise RequestError("odd")
        return logits


def test_rows_that_a_chain_refuses_are_counted(engine):
    walks, _ = record(engine)
    chain = (Stage("choosy", Choosy, {}), *resolve_chain((), REGISTRY))
    left = comparison._Left()
    assert list(comparison._run(walks, chain, engine.vocab, left))[-1] == 3 * N
    assert (len(left.survivors), left.n_failed) == (3 * N // 2, 3 * N // 2)
    with pytest.raises(GptkitError, match="odd"):  # by itself it can't speak at all
        compare(engine, walks, chain=chain)


def test_the_size_of_a_recording_has_a_bound():
    comparison.check_size(8, 64, 50_257)
    with pytest.raises(ConfigError, match="1,000 prompts x 64 tokens take 12.0 GiB") as caught:
        comparison.check_size(1000, 64, 50_257)
    assert caught.value.hint == "--tokens 5"
