"""Beam search, contrastive search and guidance against transformers, brute force and hand work."""

import itertools
import math

import pytest
import torch

from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Choice, Request, Stops, resolve_chain
from gptkit.errors import PluginError, RequestError
from gptkit.model.config import GPTConfig
from gptkit.model.forward import Span
from gptkit.model.gpt import GPT
from gptkit.plugin_api import Strategy, param
from gptkit.plugin_host import registry
from gptkit_plugins.strategies import Beam, ClassifierFreeGuidance, Contrastive
from tests.fakes import ByteTokenizer
from tests.model.test_gpt import hugging_face

REGISTRY = registry()
PLAIN = resolve_chain([], REGISTRY)
GREEDY = resolve_chain(["greedy"], REGISTRY)


class SmallTokenizer(ByteTokenizer):
    """Twenty ids, of which 0 ends a text."""

    vocab_size = 20

    def token_bytes(self, token_id):
        return bytes([97 + token_id]) if token_id else b""


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(vocab_size=20, block_size=160, n_layer=2, n_head=2, n_embd=16)
    model = GPT(config).init_weights(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ln_" not in name:
                weight.mul_(8.0)
    return model.eval().requires_grad_(False)


def plan(strategy, **values):
    given = {key: declared.default for key, declared in strategy.params.items()} | values
    return Choice(strategy, given)


def answer(model, prompt, how, *, new=12, chain=PLAIN, n_slots=8, seed=0, eos=frozenset({0})):
    engine = Engine(model, SmallTokenizer(), eos, n_slots=n_slots)
    request = Request(tuple(prompt), chain, Stops(new), seed, strategy=how)
    events = list(engine.stream(request))
    assert events[-1].error is None, events[-1].error
    assert engine.slots.n_free == n_slots
    return [e.token_id for e in events if e.token_id is not None], events[-1].finish_reason


PROMPTS = [[3, 5, 7], [1], [2, 9, 4, 4, 8], list(range(1, 20)) * 3]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("beams, penalty", [(2, 1.0), (3, 0.0), (4, 2.0), (5, -1.0)])
def test_beam_equals_transformers(model, prompt, beams, penalty):
    with torch.no_grad():
        theirs = (
            hugging_face(model)
            .generate(
                torch.tensor([prompt]),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=12,
                early_stopping="never",
                length_penalty=penalty,
                eos_token_id=0,
                pad_token_id=0,
            )[0, len(prompt) :]
            .tolist()
        )
    ours, reason = answer(model, prompt, plan(Beam, beams=beams, length_penalty=penalty))
    if 0 in theirs:
        theirs = theirs[: theirs.index(0) + 1]
    assert ours == theirs
    assert reason == ("eos" if ours[-1] == 0 else "length")


class TwoSteps:
    """p(a) = .6, p(b) = .4; then p(.|a) = .5 .5 and p(.|b) = .9 .1: greedy is not the best."""

    shares_prefixes = True
    ranks = False
    config = GPTConfig(vocab_size=3, block_size=8, n_layer=0, n_embd=1)

    class Cache(dict):
        nbytes = 0

        def copy(self, source, target, start=0, end=0):
            self[target] = list(self[source])

    def new_cache(self, n_slots):
        return self.Cache()

    def step(self, ids, spans, cache, wanted):
        rows, at = {}, 0
        for span in spans:
            if span.slot is not None:
                cache[span.slot] = cache.get(span.slot, [])[: span.start] + ids[at : at + span.n]
                rows[at + span.n - 1] = tuple(cache[span.slot])
            at += span.n
        table = {(2,): [0.6, 0.4, 0], (2, 0): [0.5, 0.5, 0], (2, 1): [0.9, 0.1, 0]}
        return torch.tensor([table[rows[i]] for i in wanted]).log()


def test_beam_returns_the_better_whole():
    def run(beams):
        return answer(TwoSteps(), [2], plan(Beam, beams=beams), new=2, eos=frozenset())[0]

    assert run(1) == [0, 0]
    assert run(2) == [1, 0]


def total(model, prompt, tokens):
    """Return the sum of log-probabilities of `tokens`, without a cache."""
    logprobs = model(torch.tensor([[*prompt, *tokens]]))[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    return sum(float(logprobs[at, token]) for at, token in zip(places, tokens, strict=True))


def test_a_wide_beam_finds_the_best_of_all(model):
    best = max(itertools.product(range(1, 20), repeat=2), key=lambda two: total(model, [3, 5], two))
    banned = resolve_chain([{"logit_bias": {"0": -100}}], REGISTRY)
    wide = plan(Beam, beams=20, length_penalty=0.0)
    got, _ = answer(model, [3, 5], wide, new=2, chain=banned, n_slots=20)
    assert got == list(best)


def test_groups_do_not_choose_the_same(model):
    """With two groups of one beam, the second's first token is never the first's."""
    alike = answer(model, [3, 5, 7], plan(Beam, beams=2, groups=2))
    assert alike == answer(model, [3, 5, 7], plan(Beam, beams=1))
    logprobs = model(torch.tensor([[3, 5, 7]]))[0, -1].double().log_softmax(-1)
    first, second = logprobs.topk(2).indices.tolist()
    chosen = _first_tokens(model, [3, 5, 7], plan(Beam, beams=2, groups=2, diversity=50.0))
    assert chosen == [first, second]


def _first_tokens(model, prompt, how):
    """Return the first token of each beam after one step."""
    engine = Engine(model, SmallTokenizer(), n_slots=4)
    engine.add(Request(tuple(prompt), PLAIN, Stops(4), 0, strategy=how))
    engine.step()
    return [twig.tokens[-1] for twig in engine.groups[0].wanted]


def test_what_all_beams_agree_on_is_streamed(model):
    engine = Engine(model, SmallTokenizer(), frozenset({0}), n_slots=4)
    engine.add(Request((2, 9, 4, 4, 8), PLAIN, Stops(40), 0, strategy=plan(Beam, beams=3)))
    steps = []
    while engine.busy:
        steps.append(len(engine.step()))
    assert sum(n > 0 for n in steps) > 2


def contrastive_by_hand(model, prompt, k, alpha, new):
    """The definition, everything computed from the start for each candidate."""

    def states(tokens):
        spans = [Span(0, 0, len(tokens))]
        return model.hidden(tokens, spans, model.new_cache(1))

    tokens = list(prompt)
    for _ in range(new):
        probs = model(torch.tensor([tokens]))[0, -1].softmax(-1)
        best = probs.topk(k)
        before = torch.nn.functional.normalize(states(tokens), dim=-1)
        worth = []
        for p, token in zip(best.values, best.indices.tolist(), strict=True):
            last = torch.nn.functional.normalize(states([*tokens, token])[-1], dim=0)
            worth.append(float((1 - alpha) * p - alpha * (before @ last).max()))
        tokens.append(int(best.indices[worth.index(max(worth))]))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_contrastive_search_equals_its_definition(model, prompt):
    got, _ = answer(model, prompt, plan(Contrastive, k=4, alpha=0.6), eos=frozenset())
    assert got == contrastive_by_hand(model, prompt, 4, 0.6, 12)
    greedy, _ = answer(model, prompt, plan(Contrastive, k=4, alpha=0.0), eos=frozenset())
    assert greedy == answer(model, prompt, None, chain=GREEDY, eos=frozenset())[0]


def guided(model, prompt, negative, scale, new):
    given, other = list(prompt), list(negative)
    for _ in range(new):
        c, u = (model(torch.tensor([ids]))[0, -1].log_softmax(-1) for ids in (given, other))
        token = int((u + scale * (c - u)).argmax())
        given.append(token)
        other.append(token)
    return given[len(prompt) :]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_guidance_equals_its_definition(model, prompt):
    how = plan(ClassifierFreeGuidance, scale=2.5)
    got, _ = answer(model, prompt, how, chain=GREEDY, eos=frozenset())
    assert got == guided(model, prompt, prompt[-1:], 2.5, 12)
    plain = plan(ClassifierFreeGuidance, scale=1.0)
    assert answer(model, prompt, plain, chain=GREEDY, eos=frozenset()) == answer(
        model, prompt, None, chain=GREEDY, eos=frozenset()
    )


def test_guidance_by_the_table():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    c, u = p.log(), p.flip(0).log()
    want = torch.tensor([0.036213, 0.118271, 0.26611, 0.579407])
    torch.testing.assert_close((u + 1.5 * (c - u)).softmax(-1), want, rtol=0, atol=1e-5)


def test_guidance_draws_with_the_seed_and_any_chain(model):
    chain = resolve_chain([{"temperature": 1.3}, {"mirostat": 3.0}], REGISTRY)
    how = plan(ClassifierFreeGuidance, scale=1.5)
    texts = [answer(model, [3, 5], how, chain=chain, seed=seed)[0] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_beams_and_mirostat_do_not_go_together(model):
    chain = resolve_chain([{"mirostat": 3.0}], REGISTRY)
    engine = Engine(model, SmallTokenizer(), n_slots=4)
    request = Request((3, 5), chain, Stops(5), 0, strategy=plan(Beam, beams=2))
    last = list(engine.stream(request))[-1]
    assert isinstance(last.error, RequestError) and "draws no tokens" in str(last.error)
    assert not engine.busy and engine.slots.n_free == 4


def test_a_strategy_that_needs_more_room_is_refused(model):
    engine = Engine(model, SmallTokenizer(), n_slots=2)
    with pytest.raises(RequestError, match="'beam' needs 4 sequences at once"):
        engine.add(Request((3,), PLAIN, Stops(5), 0, strategy=plan(Beam)))


class Stray(Strategy):
    """Goes on with a token that is none, by each of the three ways."""

    name = "stray"
    help = "goes astray"
    way = param("fork", help="by what")
    token = param(20, help="which")

    def width(self, p):
        return 1

    def run(self, loop, p):
        if p.way == "fork":
            yield [loop.fork(loop.root, p.token)]
        elif p.way == "branch":
            yield [loop.branch([1, p.token])]
        else:
            loop.commit(p.token)
            yield [loop.root]


@pytest.mark.parametrize("way", ["fork", "branch", "commit"])
@pytest.mark.parametrize("token", [20, -1, 10**6, 3.0])
def test_a_strategy_that_goes_on_with_no_token_fails_alone(model, way, token):
    engine = Engine(model, SmallTokenizer(), n_slots=4)
    bad = Request((3, 5), PLAIN, Stops(5), 0, strategy=plan(Stray, way=way, token=token))
    good = Request((3, 5), GREEDY, Stops(5), 0)
    ids = engine.add(bad), engine.add(good)
    ends = {}
    while engine.busy:
        ends |= {id: event for id, event in engine.step() if event.finish_reason}
    assert isinstance(ends[ids[0]].error, PluginError)
    if token != 3.0:  # whose error is Python's
        said = f"strategy 'stray' went on with {token}, no token of 20"
        assert str(ends[ids[0]].error) == said
    assert ends[ids[1]].error is None
    assert engine.slots.n_free == 4


def test_strategies_and_plain_requests_share_a_step(model):
    """Beside others, and in any order, each gives what it gives alone."""
    how = [plan(Beam, beams=3), None, plan(Contrastive), plan(ClassifierFreeGuidance), None]
    prompts = [[3, 5, 7], [2, 2], [4, 9], [8, 1, 1], list(range(1, 20)) * 2]
    requests = [
        Request(tuple(prompt), GREEDY, Stops(10), 0, strategy=one)
        for prompt, one in zip(prompts, how, strict=True)
    ]
    alone = [
        answer(model, r.prompt_ids, r.strategy, new=10, chain=GREEDY, n_slots=16)[0]
        for r in requests
    ]
    engine = Engine(model, SmallTokenizer(), frozenset({0}), n_slots=16)
    ids = {engine.add(r): i for i, r in enumerate(requests)}
    out = [[] for _ in requests]
    while engine.busy:
        for id, event in engine.step():
            assert event.error is None
            out[ids[id]].append(event.token_id)
    assert out == alone


def test_cancelling_a_strategy_frees_its_slots(model):
    engine = Engine(model, SmallTokenizer(), n_slots=4)
    id = engine.add(Request((3, 5, 7), PLAIN, Stops(40), 0, strategy=plan(Beam)))
    for _ in range(5):
        engine.step()
    assert engine.cancel(id).finish_reason == "cancelled"
    assert not engine.busy and engine.slots.n_free == 4
    assert math.isclose(sum(t.n_users for t in engine.slots.trunks.values()), 0)
