"""A row's logits are the same bits whoever its neighbours are, with two threads as well."""

import random

import pytest
import torch

from gptkit.model.config import GPTConfig
from gptkit.model.forward import Span
from gptkit.model.gpt import GPT

CONFIG = GPTConfig(vocab_size=301, block_size=300, n_layer=2, n_head=6, n_embd=96)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["packed", "plain"])
def model(request):
    weights = GPT(CONFIG).init_weights(1)
    with torch.no_grad():
        for weight in weights.parameters():
            weight.mul_(4.0)
    packed = GPT.from_tensors(CONFIG, weights.state_dict())
    if request.param == "packed":
        assert packed.packed_head is not None
        return packed
    return weights.eval().requires_grad_(False)


def ids(seed, n):
    rng = random.Random(seed)
    return [rng.randrange(CONFIG.vocab_size) for _ in range(n)]


TEXTS = [ids(i, n) for i, n in enumerate([1, 5, 33, 63, 64, 65, 100, 127, 128, 129, 200, 31])]


def prefill(model, cache, tokens, slot, *, start=0, trunk=None):
    """Fill a slot in chunks that begin at multiples of 64, as the engine does."""
    shared = start if trunk is not None else 0
    while start < len(tokens):
        part = tokens[start : start // 64 * 64 + 64]
        spare = -len(part) % 4
        spans = [Span(slot, start, len(part), trunk, shared)] + [Span(None, 0, 1)] * spare
        logits = model.step([*part, *[0] * spare], spans, cache, [len(part) - 1])
        start += len(part)
    return logits[0]


def decode(model, order, n_slots, trunk=None, shared=()):
    """Return the logits after each text, all texts in one step, in this order of slots."""
    cache = model.new_cache(n_slots + 1)
    if trunk is not None:
        prefill(model, cache, list(shared), n_slots)
    for slot, which in enumerate(order):
        tokens = [*shared, *TEXTS[which]]
        if len(tokens) - 1 > len(shared):
            where = n_slots if trunk is not None else None
            prefill(model, cache, tokens[:-1], slot, start=len(shared) if where else 0, trunk=where)
    spans, last = [], []
    for slot, which in enumerate(order):
        at = len(shared) + len(TEXTS[which]) - 1
        where = n_slots if trunk is not None else None
        spans.append(Span(slot, at, 1, where, len(shared) if where else 0))
        last.append(TEXTS[which][-1])
    while len(spans) % 4:
        spans.append(Span(None, 0, 1))
        last.append(0)
    logits = model.step(last, spans, cache, range(len(spans)))
    return {which: logits[row] for row, which in enumerate(order)}


def orders():
    rng = random.Random(0)
    everyone = list(range(len(TEXTS)))
    yield everyone
    for n in (12, 12, 7, 3, 2, 1, 1):
        yield rng.sample(everyone, n)


def differing(seen):
    first = seen[0]
    return {which for one in seen[1:] for which in one if not torch.equal(one[which], first[which])}


def test_decoding(model, threads):
    assert not differing([decode(model, order, 12) for order in orders()])


@pytest.mark.parametrize("n_shared", [40, 64, 100])
def test_decoding_with_a_trunk(model, threads, n_shared):
    shared = ids(99, n_shared)
    together = [decode(model, order, 12, True, shared) for order in orders()]
    assert not differing(together)
    apart = decode(model, [6], 12, None, shared)
    torch.testing.assert_close(together[0][6], apart[6], rtol=0, atol=1e-4)


def test_drafted_rows(model, threads):
    """Several new positions of one sequence in one step, as if they came one by one."""
    tokens, new = ids(7, 90), ids(8, 6)
    one, many = model.new_cache(2), model.new_cache(2)
    for cache in (one, many):
        prefill(model, cache, tokens, 1)
    pad = [Span(None, 0, 1)]
    want = [
        model.step([token, 0, 0, 0], [Span(1, 90 + i, 1), *pad * 3], one, [0])[0]
        for i, token in enumerate(new)
    ]
    spans = [Span(1, 90 + i, 1) for i in range(6)] + pad * 2
    got = model.step([*new, 0, 0], spans, many, range(6))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_prompt_beside_others(model, threads):
    """A chunk of a prompt in one step with other chunks and single rows, and alone."""
    tokens = ids(3, 100)
    alone = model.new_cache(4)
    want = prefill(model, alone, tokens, 0)
    cache = model.new_cache(4)
    for slot in (0, 1):
        prefill(model, cache, ids(slot, 50), slot)
    spans = [Span(0, 50, 1), Span(1, 50, 1), Span(2, 0, 64), Span(3, 0, 30), Span(2, 64, 36)]
    new = [5, 6, *tokens[:64], *ids(4, 30), *tokens[64:]]
    wanted = [0, 1, 95, len(new) - 1]
    got = model.step(new, spans, cache, wanted)
    assert len(new) % 4 == 0
    assert torch.equal(got[3], want)
