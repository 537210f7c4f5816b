"""The GPT against transformers, against itself with a cache, and against the NumPy reference."""

import numpy as np
import pytest
import torch

from gptkit.model.config import NAMED_SIZES, GPTConfig
from gptkit.model.forward import Span, slot_positions
from gptkit.model.gpt import GPT
from gptkit.model.reference import ReferenceGPT

SMALL = GPTConfig(vocab_size=97, block_size=24, n_layer=3, n_head=4, n_embd=32)
SHAPES = {
    "gpt2": SMALL,
    "untied": SMALL.model_copy(update={"tied": False}),
    "no biases": SMALL.model_copy(update={"bias": False}),
    "no qkv bias": SMALL.model_copy(update={"qkv_bias": False}),
    "no positions": SMALL.model_copy(update={"positions": "none"}),
    "narrow mlp": SMALL.model_copy(update={"n_inner": 40}),
    "bigram": GPTConfig(
        vocab_size=97,
        block_size=8,
        n_layer=0,
        n_embd=97,
        positions="none",
        final_norm=False,
        tied=False,
    ),
}


def build(config, seed=0):
    """Return a model with weights large enough for every part to matter."""
    model = GPT(config).init_weights(seed)
    noise = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=noise) * 0.1)
    return model.eval().requires_grad_(False)


def hugging_face(model):
    """Return transformers' GPT-2 with the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = model.config
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=c.vocab_size,
            n_positions=c.block_size,
            n_layer=c.n_layer,
            n_head=c.n_head,
            n_embd=c.n_embd,
            n_inner=c.n_inner,
            tie_word_embeddings=c.tied,
        )
    ).eval()
    state = {f"transformer.{name}": w for name, w in model.state_dict().items()}
    state["lm_head.weight"] = state.pop("transformer.lm_head.weight", model.wte.weight)
    theirs.load_state_dict(state, strict=True)
    return theirs


def random_ids(config, *shape, seed=5):
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["gpt2", "untied", "narrow mlp"])
def test_logits_equal_transformers(name):
    model = build(SHAPES[name])
    ids = random_ids(model.config, 2, 11)
    with torch.no_grad():
        want = hugging_face(model)(ids).logits
        torch.testing.assert_close(model(ids), want, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_logits_equal_transformers_at_full_size():
    model = GPT(NAMED_SIZES["gpt2"]).init_weights(0).eval()
    ids = random_ids(model.config, 1, 64)
    with torch.no_grad():
        want = hugging_face(model)(ids).logits
        torch.testing.assert_close(model(ids), want, rtol=0, atol=1e-4)


def stepped(forward, ids, cuts, slot=0, n_slots=1):
    """Return logits of `ids` computed in pieces through the cache."""
    cache = forward.new_cache(n_slots)
    out = []
    for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        got = forward.step(ids[a:b], [Span(slot, a, b - a)], cache, range(b - a))
        out.append(torch.as_tensor(got))
    return torch.cat(out)


@pytest.mark.parametrize("name", SHAPES)
def test_cached_equals_uncached(name):
    model = build(SHAPES[name])
    n = min(13, model.config.block_size)
    ids = random_ids(model.config, n)
    with torch.no_grad():
        want = model(ids[None])[0]
    for cuts in ([], [1, 2, 3], [5], list(range(1, n))):
        got = stepped(model, ids.tolist(), cuts, slot=2, n_slots=3)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_reference_agrees(name):
    model = build(SHAPES[name])
    weights = {key: w.numpy() for key, w in model.state_dict().items()}
    ids = random_ids(model.config, min(13, model.config.block_size))
    with torch.no_grad():
        want = model(ids[None])[0]
    for cuts in ([], [2, 5]):
        got = stepped(ReferenceGPT(model.config, weights), ids.tolist(), cuts)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3)


def test_sequences_of_one_step_do_not_touch_each_other():
    """Three sequences of other lengths, with padding between, equal each alone."""
    model = build(SMALL)
    texts = [random_ids(SMALL, n, seed=n).tolist() for n in (4, 9, 1)]
    cache = model.new_cache(4)
    for slot, ids in enumerate(texts):
        model.step(ids[:-1], [Span(slot, 0, len(ids) - 1)], cache, [])
    spans, last = [Span(None, 0, 1)] * 8, [0] * 8
    for slot, ids in enumerate(texts):
        spans[slot + 2], last[slot + 2] = Span(slot, len(ids) - 1, 1), ids[-1]
    got = model.step(last, spans, cache, range(8))
    for slot, ids in enumerate(texts):
        want = stepped(model, ids, [])[-1]
        torch.testing.assert_close(got[slot + 2], want, rtol=0, atol=1e-5)


def test_a_row_has_the_same_bits_in_any_row_and_any_slot():
    config = GPTConfig(vocab_size=301, block_size=32, n_layer=2, n_head=4, n_embd=64)
    model = build(config)
    texts = [random_ids(config, n, seed=n).tolist() for n in range(2, 10)]
    seen = []
    for trial in range(4):
        order = np.random.default_rng(trial).permutation(8).tolist()
        cache = model.new_cache(8)
        for slot, which in enumerate(order):
            ids = texts[which]
            model.step(ids[:-1], [Span(slot, 0, len(ids) - 1)], cache, [])
        spans = [Span(slot, len(texts[which]) - 1, 1) for slot, which in enumerate(order)]
        logits = model.step([texts[which][-1] for which in order], spans, cache, range(8))
        seen.append({which: logits[row] for row, which in enumerate(order)})
    for other in seen[1:]:
        assert all(torch.equal(seen[0][which], other[which]) for which in range(8))


def test_going_back_forgets_what_lies_beyond():
    model = build(SMALL)
    first, second = random_ids(SMALL, 9, seed=1).tolist(), random_ids(SMALL, 5, seed=2).tolist()
    cache = model.new_cache(1)
    model.step(first, [Span(0, 0, 9)], cache, [])
    got = model.step(second, [Span(0, 4, 5)], cache, [4])
    want = stepped(model, first[:4] + second, [])[-1]
    torch.testing.assert_close(got[0], want, rtol=0, atol=1e-5)


def test_gpt_nano_sort_matches_its_recorded_activations(data):
    from gptkit.checkpoints.checkpoint import open_checkpoint

    folder = data / "checkpoints" / "gpt-nano-sort"
    source = open_checkpoint(folder / "hf")
    model = GPT.from_tensors(source.config, source.load())
    from safetensors.torch import load_file

    recorded = load_file(folder / "partials.safetensors")
    ids = recorded["idx"].long()[:1]
    seen = {}
    hooks = {
        "block0": model.h[0],
        "block1": model.h[1],
        "block2": model.h[2],
        "ln_f": model.ln_f,
    }
    for name, module in hooks.items():
        module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    with torch.no_grad():
        seen["lm_head"] = model(ids)
    for name, got in seen.items():
        torch.testing.assert_close(got[0], recorded[name][0], rtol=0, atol=1e-5)


def test_gpt_nano_sort_sorts(data):
    from gptkit.checkpoints.checkpoint import open_checkpoint

    source = open_checkpoint(data / "checkpoints" / "gpt-nano-sort" / "hf")
    model = GPT.from_tensors(source.config, source.load())
    for seed in range(20):
        digits = torch.randint(3, (6,), generator=torch.Generator().manual_seed(seed)).tolist()
        ids = list(digits)
        while len(ids) < 12:
            logits = model(torch.tensor([ids[-11:]]))
            ids.append(int(logits[0, -1].argmax()))
        assert ids[6:] == sorted(digits)


def test_parameter_counts_of_the_124m_shape():
    gpt2 = NAMED_SIZES["gpt2"]
    assert gpt2.n_params() == 124_439_808
    book = gpt2.model_copy(update={"qkv_bias": False})
    assert book.n_params() == 124_412_160
    assert book.n_params(tied=False) == 163_009_536
    assert book.n_params(tied=False) * 4 / 2**20 == pytest.approx(621.83, abs=0.005)


@pytest.mark.parametrize("name", SHAPES)
def test_counted_parameters_are_the_models(name):
    model = GPT(SHAPES[name])
    assert sum(w.numel() for w in model.parameters()) == SHAPES[name].n_params()


def test_kv_bytes_are_the_caches():
    cache = build(SMALL).new_cache(3)
    per_token = SMALL.kv_bytes_per_token()
    assert cache.nbytes == 3 * slot_positions(SMALL.block_size) * per_token
    reference = ReferenceGPT(SMALL, {}).new_cache(3)
    assert reference.nbytes == 3 * SMALL.block_size * per_token


def test_fresh_weights_depend_on_the_seed_alone():
    a, b, c = (GPT(SMALL).init_weights(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["wte.weight"], c["wte.weight"])


def test_loading_copies_nothing_where_the_type_fits():
    tensors = build(SMALL).state_dict()
    model = GPT.from_tensors(SMALL, tensors)
    assert all(model.state_dict()[name].data_ptr() == w.data_ptr() for name, w in tensors.items())
