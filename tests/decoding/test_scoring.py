"""Log-probabilities of given texts, against transformers, and against one token at a time."""

import random

import pytest
import torch

from gptkit.decoding.scoring import LOGITS_BYTES, Scorer, ScoreRequest, windows
from gptkit.errors import GptkitError, NonFiniteLogits
from gptkit.model.config import GPTConfig
from gptkit.model.forward import Span
from gptkit.model.gpt import GPT
from gptkit.model.reference import ReferenceGPT
from tests.fakes import FlatModel
from tests.model.test_gpt import build, hugging_face

CONFIG = GPTConfig(vocab_size=301, block_size=160, n_layer=2, n_head=6, n_embd=96)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain():
    return build(CONFIG)


@pytest.fixture(scope="module")
def packed(plain):
    return GPT.from_tensors(CONFIG, plain.state_dict())


def ids(seed, n):
    rng = random.Random(seed)
    return tuple(rng.randrange(CONFIG.vocab_size) for _ in range(n))


def scored(forward, requests, *, n_slots=4, vocab_size=None):
    """Return the scores of requests in their order."""
    scorer = Scorer(forward, vocab_size or forward.config.vocab_size, n_slots=n_slots)
    places = {scorer.add(request): i for i, request in enumerate(requests)}
    found = [None] * len(requests)
    while scorer.waiting or scorer.running:
        for id, score in scorer.step():
            assert found[places[id]] is None
            found[places[id]] = score
    return found


def test_windows_of_a_text_that_fits():
    assert [(w.start, w.first, w.end) for w in windows(8, 1, 8)] == [(0, 1, 8)]
    assert [(w.start, w.first, w.end) for w in windows(5, 3, 8)] == [(0, 3, 5)]


@pytest.mark.parametrize("size", [2, 3, 8, 9, 64])
@pytest.mark.parametrize("n", [2, 9, 10, 63, 64, 65, 200])
@pytest.mark.parametrize("first", [1, 5, 90])
def test_windows_score_each_token_once_with_half_a_context_behind_it(n, first, size):
    of = {}
    for window in windows(n, first, size):
        assert window.end - window.start <= size
        for token in range(window.first, window.end):
            assert token not in of
            of[token] = window
    assert sorted(of) == list(range(first, n))
    for token, window in of.items():
        assert token - window.start >= min(token, size // 2) > 0


@pytest.mark.parametrize("n", [2, 40, 160])
def test_it_is_the_cross_entropy_of_transformers(packed, plain, n):
    text = torch.tensor([ids(n, n)])
    with torch.no_grad():
        mean = hugging_face(plain)(text, labels=text).loss.item()
    (score,) = scored(packed, [ScoreRequest(ids(n, n)[:1], ids(n, n)[1:])])
    assert len(score.logprobs) == n - 1
    assert -sum(score.logprobs) / (n - 1) == pytest.approx(mean, abs=2e-5)


@pytest.mark.parametrize("n", [161, 240, 241, 500])
def test_long_texts_are_those_of_transformers_guide(packed, plain, n):
    """The loop of huggingface.co/docs/transformers/perplexity, with half a context as stride."""
    text, size, stride = torch.tensor([ids(n, n)]), CONFIG.block_size, CONFIG.block_size // 2
    theirs, total, last = hugging_face(plain), 0.0, 0
    for begin in range(0, n, stride):
        end = min(begin + size, n)
        target = text[:, begin:end].clone()
        target[:, : -(end - last)] = -100
        with torch.no_grad():
            loss = theirs(text[:, begin:end], labels=target).loss.item()
        total += loss * (target[:, 1:] != -100).sum().item()
        last = end
        if end == n:
            break
    (score,) = scored(packed, [ScoreRequest(ids(n, n)[:1], ids(n, n)[1:])])
    assert len(score.logprobs) == n - 1
    assert -sum(score.logprobs) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("first", [1, 70])
def test_it_is_what_one_token_at_a_time_gives(packed, plain, first):
    text = ids(3, 150)
    slow = ReferenceGPT(CONFIG, {k: v.numpy() for k, v in plain.state_dict().items()})
    cache = slow.new_cache(1)
    want = []
    for at in range(149):
        logits = torch.as_tensor(slow.step([text[at]], [Span(0, at, 1)], cache, [0])).double()
        want.append(logits.log_softmax(-1)[0, text[at + 1]].item())
    for forward in (packed, slow):
        (score,) = scored(forward, [ScoreRequest(text[:first], text[first:])], n_slots=1)
        assert score.logprobs == pytest.approx(want[first - 1 :], abs=1e-5)


def texts():
    """Requests of many lengths; some share a prefix of 100 or of 40 tokens, some are long."""
    made = [
        ScoreRequest(ids(i, 1), ids(i + 1, n)) for i, n in enumerate([1, 5, 63, 64, 65, 300, 159])
    ]
    for n_shared in (40, 100):
        shared = ids(99, n_shared)
        for i, n in enumerate([1, 20, 30]):
            made.append(ScoreRequest(shared + ids(i, 5 * i), ids(i + 50, n), n_shared))
    return made


def test_neighbours_order_and_slots_change_no_bit(packed, plain, threads):
    requests = texts()
    for forward in (packed, plain):
        want = [scored(forward, [one], n_slots=1)[0].logprobs for one in requests]
        rng = random.Random(0)
        for n_slots in (1, 2, 5, 16):
            order = rng.sample(range(len(requests)), len(requests))
            found = scored(forward, [requests[i] for i in order], n_slots=n_slots)
            assert [score.logprobs for score in found] == [want[i] for i in order]


def test_a_shared_prefix_is_computed_once():
    model = FlatModel(CONFIG)
    shared = ids(1, 100)
    requests = [ScoreRequest(shared, ids(i, 20), 100) for i in range(3)]
    found = scored(model, requests, n_slots=1)
    assert model.n_computed == 3 * 119 - 2 * 64
    assert [score.n_reused for score in found] == [0, 64, 64]


def test_slots_side_by_side_wait_for_a_shared_prefix(packed):
    shared = ids(1, 130)
    requests = [ScoreRequest(shared, ids(i, 20), 130) for i in range(6)]
    found = scored(packed, requests, n_slots=4)
    assert [score.n_reused for score in found] == [0] + [128] * 5


def test_steps_keep_to_the_memory_that_they_may_take():
    config = GPTConfig(vocab_size=50_257, block_size=1024, n_layer=0, n_embd=4)
    seen = []

    class Watched(FlatModel):
        def step(self, ids, spans, cache, wanted):
            seen.append((len(ids), len(wanted)))
            return torch.zeros(len(wanted), config.vocab_size)

    scored(Watched(config), [ScoreRequest((0,), (1,) * 900) for _ in range(4)])
    assert max(n for _, n in seen) * 4 * config.vocab_size <= LOGITS_BYTES
    assert max(n for n, _ in seen) == 192


def test_padded_ids_have_no_share_in_the_probability():
    model = FlatModel(CONFIG)
    (score,) = scored(model, [ScoreRequest((1,), (2, 3))], vocab_size=128)
    assert score.logprobs == pytest.approx([-4.852030263919617] * 2)  # ln 128


def test_numbers_that_are_not_finite_fail_one_text_and_no_other(plain):
    broken = build(CONFIG)
    broken.wte.weight[300] = float("nan")
    broken.lm_head = build(CONFIG.model_copy(update={"tied": False})).lm_head
    good = [ScoreRequest((i,), ids(i, 70)) for i in range(6) if 300 not in ids(i, 70)]
    bad = ScoreRequest((300,), ids(7, 70))
    want = scored(broken, good, n_slots=2)
    found = scored(broken, [bad, good[0], bad, *good[1:]], n_slots=2)
    assert isinstance(found[0].error, NonFiniteLogits) and isinstance(found[2].error, GptkitError)
    assert [found[1], *found[3:]] == want
    assert all(score.error is None for score in want)
