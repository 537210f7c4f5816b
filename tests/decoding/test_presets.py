"""Presets: each engine's own order and values, and transformers' own probabilities."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from gptkit.cli import sampler_view
from gptkit.config import parse_yaml
from gptkit.decoding.chain import ChainRunner
from gptkit.decoding.comparison import Place
from gptkit.decoding.engine import TokenizerVocab
from gptkit.decoding.presets import PRESETS, PresetName, find_preset
from gptkit.decoding.request import Request, Stops, parse_stage, resolve_chain
from gptkit.decoding.sequence import first_states
from gptkit.errors import UnknownName
from gptkit.plugin_host import registry
from tests.fakes import ByteTokenizer

REGISTRY = registry()

ORDERS = {  # decoding order as read in each engine's source; our names for their stages
    "hf": "logit_bias penalties no_repeat_ngram bad_words min_new_tokens "
    "temperature top_k top_p min_p typical epsilon eta sample",
    "llama.cpp": "logit_bias penalties dry top_n_sigma top_k typical top_p min_p xtc "
    "temperature sample",
    "vllm": "bad_words min_new_tokens logit_bias penalties temperature min_p top_k top_p sample",
    "openai": "logit_bias penalties temperature top_p sample",
    "nanogpt": "temperature top_k sample",
}
ON = {  # what changes a row where nobody gives a value
    "hf": ["top_k=50"],
    "llama.cpp": ["top_k=40", "top_p=0.95", "min_p=0.05", "temperature=0.8"],
    "vllm": [],
    "openai": [],
    "nanogpt": ["temperature=0.8", "top_k=200"],
}


def resolve(name, *over):
    chain = resolve_chain(PRESETS[name].chain, REGISTRY)
    return resolve_chain([parse_stage(text) for text in over], REGISTRY, base=chain)


@pytest.mark.parametrize("name", PRESETS)
def test_each_has_its_engine_s_order_and_values(name):
    chain = resolve(name)
    assert [stage.label for stage in chain] == ORDERS[name].split()
    assert [stage.brief for stage in chain if not stage.is_off] == [*ON[name], "sample"]


def test_the_names_are_those_that_settings_know():
    assert tuple(PRESETS) == get_args(PresetName)
    assert all(preset.name == name for name, preset in PRESETS.items())
    assert all(preset.source and preset.deviations for preset in PRESETS.values())


def test_the_windows_of_llama_cpp():
    stages = {stage.label: stage.values for stage in resolve("llama.cpp")}
    assert stages["penalties"]["window"] == stages["dry"]["last_n"] == 64
    assert (stages["dry"]["base"], stages["dry"]["allowed"]) == (1.75, 2)
    assert stages["dry"]["breakers"] == ("\n", ":", '"', "*")
    assert stages["xtc"]["threshold"] == 0.1


def test_a_value_given_over_a_preset_keeps_the_stage_s_place():
    changed = resolve("llama.cpp", "min_p=0.1", "penalties:repeat=1.2", "greedy")
    assert [stage.label for stage in changed][:-1] == ORDERS["llama.cpp"].split()[:-1]
    assert changed[-1].label == "greedy"
    values = {stage.label: stage.values for stage in changed}
    assert values["min_p"] == {"m": 0.1} or 0.1 in values["min_p"].values()
    assert (values["penalties"]["repeat"], values["penalties"]["window"]) == (1.2, 64)


def test_what_the_listing_prints_is_the_chain_again():
    for preset in PRESETS.values():
        text = "\n".join(f"- {sampler_view._yaml(item)}" for item in preset.chain)
        assert parse_yaml(text, "x.yaml").data == list(preset.chain)


def test_an_unknown_name_is_an_error_with_a_hint():
    with pytest.raises(UnknownName, match="unknown preset 'lama.cpp'") as caught:
        find_preset("lama.cpp")
    assert caught.value.hint == "did you mean 'llama.cpp'?"


# Against transformers -----------------------------------------------------------------------------

N_ROWS, VOCAB = 40, 261
EOS = 256


def probabilities(chain, logits, prompts, outputs):
    """Return what a chain leaves of each row, as probabilities."""
    vocab = TokenizerVocab(ByteTokenizer(), frozenset({EOS}))
    places = []
    for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        request = Request(tuple(prompt), chain, Stops(), i)
        places.append(Place(request, [*prompt, *output], first_states(request, vocab)))
    picked = ChainRunner(chain).run(logits, places, vocab)
    assert not any(one.error for one in picked)
    return torch.stack([one.final for one in picked]).softmax(-1)


def processed(logits, prompts, outputs, **given):
    """Return the same by the list of processors that transformers' generate builds."""
    transformers = pytest.importorskip("transformers")
    from transformers.generation.utils import GenerationMixin

    defaults = transformers.GenerationConfig._get_default_generation_params()
    asked = {**defaults, "do_sample": True, "eos_token_id": EOS, **given}
    config = transformers.GenerationConfig(**asked)
    config._eos_token_tensor = torch.tensor([EOS])
    model = GenerationMixin()
    model.config = SimpleNamespace(is_encoder_decoder=False)
    rows = []
    for row, prompt, output in zip(logits, prompts, outputs, strict=True):
        processors = model._get_logits_processor(config, input_ids_seq_length=len(prompt))
        history = torch.tensor([[*prompt, *output]])
        rows.append(processors(history, row[None].clone())[0])
    return torch.stack(rows).softmax(-1)


CASES = [
    ([], {}),
    (["temperature=0.7", "top_p=0.9"], {"temperature": 0.7, "top_p": 0.9}),
    (
        ["temperature=1.5", "top_k=off", "min_p=0.05"],
        {"temperature": 1.5, "top_k": 0, "min_p": 0.05},
    ),
    (["typical=0.6"], {"typical_p": 0.6}),
    (["epsilon=0.01", "top_k=off"], {"epsilon_cutoff": 0.01, "top_k": 0}),
    (["eta=0.02", "top_k=off"], {"eta_cutoff": 0.02, "top_k": 0}),
    (["penalties=1.3"], {"repetition_penalty": 1.3}),
    (["no_repeat_ngram=2"], {"no_repeat_ngram_size": 2}),
    (["min_new_tokens=9"], {"min_new_tokens": 9}),
    (["logit_bias=7:2.5,9:-3"], {"sequence_bias": {(7,): 2.5, (9,): -3.0}}),
    (
        [
            *("penalties=1.2", "no_repeat_ngram=3", "min_new_tokens=4", "temperature=0.9"),
            *("top_k=60", "top_p=0.95", "min_p=0.01", "typical=0.97", "epsilon=0.001", "eta=0.002"),
        ],
        {
            **{"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 4},
            **{"temperature": 0.9, "top_k": 60, "top_p": 0.95, "min_p": 0.01},
            **{"typical_p": 0.97, "epsilon_cutoff": 0.001, "eta_cutoff": 0.002},
        },
    ),
]


@pytest.mark.parametrize(("over", "given"), CASES, ids=lambda case: " ".join(case) or "default")
def test_hf_leaves_the_probabilities_of_transformers(over, given):
    """Rows without ties, for there the two differ, as the preset says."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.rand(N_ROWS, 1, generator=generator) * 4
    logits = torch.randn(N_ROWS, VOCAB, generator=generator) * scale
    draw = torch.randint(0, 12, (N_ROWS, 20), generator=generator).tolist()
    prompts = [row[:12] for row in draw]
    outputs = [row[12 : 12 + i % 8] for i, row in enumerate(draw)]
    ours = probabilities(resolve("hf", *over), logits, prompts, outputs)
    theirs = processed(logits, prompts, outputs, **given)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)
    assert torch.equal(ours > 0, theirs > 0)
