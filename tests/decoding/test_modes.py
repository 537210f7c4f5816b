"""The mode matrix: a sampler gives the same tokens alone, batched, preempted and with any draft.

On torch, and on the CPU kernels.
"""

import functools
import importlib.util
import random
import sys

import pytest
import torch

from gptkit.decoding.engine import Engine, TokenizerVocab
from gptkit.decoding.prefix import CHUNK
from gptkit.decoding.request import Draft, Request, Stops, resolve_chain
from gptkit.decoding.speculation import DraftModel
from gptkit.model.config import GPTConfig
from gptkit.model.gpt import GPT
from gptkit.plugin_host import registry
from gptkit_plugins.drafters import PromptLookup
from tests.benchmarks.forwards import packed
from tests.fakes import ByteTokenizer

REGISTRY = registry()
TOKENIZER = ByteTokenizer(("<end>",))
END = TOKENIZER.special["<end>"]

VALUES = {
    "bad_words": [["e", "th"], ["a"]],
    "constraint": [{"regex": "[a-z ]{60}"}, {"choice": ["one two three four", "one two five"]}],
    "dry": [0.8, {"multiplier": 2.0, "base": 1.2, "allowed": 1}],
    "dynamic_temperature": [{"low": 0.5, "high": 1.5}],
    "epsilon": [3e-3, 3e-2],
    "eta": [3e-3, 3e-2],
    "greedy": [],
    "logit_bias": [{"101": 5.0, "32": -100.0}],
    "min_new_tokens": [5, 30],
    "min_p": [0.05, 0.3],
    "mirostat": [3.0, {"tau": 2.0, "eta": 0.3, "version": 1}],
    "no_repeat_ngram": [1, 3],
    "penalties": [1.3, {"repeat": 1.1, "frequency": 0.5, "presence": 0.3, "window": 20}],
    "sample": [],
    "smoothing": [0.3, {"factor": 1.0, "curve": 2.0}],
    "tail_free": [0.9, 0.5],
    "temperature": [0.0, 0.7, 1.6],
    "top_a": [0.1, 0.5],
    "top_k": [1, 8, 40],
    "top_n_sigma": [1.0, 2.0],
    "top_p": [0.5, 0.9],
    "typical": [0.9, 0.4],
    "xtc": [{"probability": 0.5, "threshold": 0.05}],
}


def test_every_bundled_sampler_is_in_the_matrix():
    ours = {o.name for o in REGISTRY.offers("sampler") if o.source.distribution == "gptkit"}
    assert ours == set(VALUES)


def build(seed, scale):
    config = GPTConfig(vocab_size=257, block_size=320, n_layer=2, n_head=4, n_embd=64)
    model = GPT(config).init_weights(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    return model


KIND = "torch"
"""What computes: torch, or the dtype of the CPU kernels."""
NUMBA = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="the kernels need the extra `fast`"
)


@pytest.fixture(
    params=["torch", *(pytest.param(dtype, marks=NUMBA) for dtype in ("float32", "int8"))]
)
def everywhere(request, monkeypatch):
    """Have a test run on each kind."""
    monkeypatch.setattr(sys.modules[__name__], "KIND", request.param)


@functools.cache
def forward(kind, noisy):
    """Return a model; a noisy one is the same with a little noise, so that it is often right."""
    model = build(3, 4.0)
    if noisy:
        with torch.no_grad():
            for weight, change in zip(model.parameters(), build(8, 0.4).parameters(), strict=True):
                weight.add_(change)
    if kind == "torch":
        return GPT.from_tensors(model.config, model.state_dict())
    return packed(model.config, model.state_dict(), kind)


def chains(name):
    """Return chains with a sampler at each of its values, alone and among others, and at off."""
    picker = name in ("greedy", "sample")
    stages = [name] if picker else [{name: value} for value in VALUES[name]]
    out = []
    for stage in stages:
        others = [[], [{"temperature": 1.4}, {"top_p": 0.95}]]
        out += [[*before, stage] for before in others if {"temperature": 1.4} != stage]
    if not picker:
        out += [["greedy"], [{"temperature": 1.2}]]
    good = [chain for chain in out if len({str(next(iter(s))) for s in chain}) == len(chain)]
    return [resolve_chain(chain, REGISTRY) for chain in good]


def requests(which, n, new, **options):
    """Return n requests; some prompts are longer than a chunk and begin alike."""
    rng = random.Random(5)
    shared = [rng.choice(b"the cat sat on a mat ") for _ in range(CHUNK + 36)]
    made = [chain for name in which for chain in chains(name)]
    out = []
    for i in range(n):
        own = [rng.randrange(97, 123) for _ in range(1 + 4 * (i % 12))]
        length = rng.choice([0, 70, len(shared)])
        n_shared = options.get("n_shared", 0) if length == len(shared) else 0
        out.append(
            Request(
                tuple(shared[:length] + own),
                made[i % len(made)],
                Stops(max_new_tokens=new),
                seed=1000 + i,
                draft=options.get("draft"),
                n_shared=n_shared,
            )
        )
    return out


def run(engine, wanted, rng=None, preempt=0.0):
    """Return the tokens of each request, admitted at random moments where there is an `rng`."""
    todo = list(enumerate(wanted))
    if rng:
        rng.shuffle(todo)
    ids, out = {}, [[] for _ in wanted]
    while todo or engine.busy:
        while todo and (rng is None or rng.random() < 0.5):
            i, request = todo.pop(0)
            ids[engine.add(request)] = i
        if engine.running and preempt and rng.random() < preempt:
            engine.preempt(rng.choice(engine.running).id)
        for id, event in engine.step():
            assert event.error is None, event.error
            if event.token_id is not None:
                out[ids[id]].append(event.token_id)
    return out


def engine(n_slots):
    return Engine(forward(KIND, noisy=False), TOKENIZER, frozenset({END}), n_slots=n_slots)


def alone(wanted):
    return [run(engine(1), [request])[0] for request in wanted]


def draft_model():
    drafter = DraftModel(forward(KIND, noisy=True), TokenizerVocab(TOKENIZER, frozenset({END})), 8)
    return Draft(lambda: drafter, 4, {})


MODES = {
    "batch of 16": lambda ask: run(engine(16), ask()),
    "random schedule": lambda ask: run(engine(5), ask(), random.Random(1)),
    "preempted and replayed": lambda ask: run(engine(6), ask(), random.Random(2), preempt=0.2),
    "prompt lookup": lambda ask: run(
        engine(6), ask(draft=Draft(PromptLookup, 6, {"k": 6, "max_ngram": 3, "min_ngram": 1}))
    ),
    "draft model": lambda ask: run(engine(6), ask(draft=draft_model()), random.Random(3)),
    "shared trunk": lambda ask: run(engine(6), ask(n_shared=CHUNK + 36), random.Random(4)),
}


def check(which, n, new, modes=MODES):
    want = alone(requests(which, n, new))
    for mode in modes:
        got = MODES[mode](lambda **options: requests(which, n, new, **options))
        differ = [i for i in range(n) if got[i] != want[i]]
        assert not differ, f"{mode}: requests {differ} differ"
    return want


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_few_requests_in_every_mode(name):
    check([name], n=6, new=10)


def test_all_samplers_in_one_batch():
    check(sorted(VALUES), n=60, new=12, modes=["batch of 16", "random schedule"])


def test_a_few_requests_in_every_mode_everywhere(everywhere):
    check(["temperature", "top_p", "dry", "mirostat"], n=12, new=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VALUES))
def test_the_whole_matrix(name):
    check([name], n=24, new=40)


@NUMBA
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VALUES))
def test_the_matrix_on_the_cpu_kernels(name, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "KIND", "int8")
    check([name], n=12, new=16)


def test_drafts_are_used_at_all():
    """A good drafter is often right, and each right guess saves a step."""
    wanted = requests(["temperature"], 6, 30, draft=draft_model())
    e = engine(6)
    for request in wanted:
        e.add(request)
    last, n_steps, n_tokens = {}, 0, 0
    while e.busy:
        events = e.step()
        n_steps += 1
        n_tokens += len(events)
        last.update(dict(events))
    assert sum(event.n_accepted for event in last.values()) > n_tokens / 3
    assert n_steps < 30
