"""Chains that reproduce what other engines do: their order, their values where nobody gives one.

A stage that an engine has in its order but leaves off stands at `off`, so that a value given over
the preset changes it in its place. The draws are ours: the same probabilities, other texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from gptkit.errors import UnknownName, did_you_mean

if TYPE_CHECKING:
    from gptkit.decoding.request import Item

PresetName = Literal["hf", "llama.cpp", "vllm", "openai", "nanogpt"]
PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)


@dataclass(frozen=True, slots=True)
class Preset:
    """One engine's chain, where it was read, and in what ours differs from that engine."""

    name: PresetName
    engine: str
    chain: tuple[Item, ...]
    source: str
    deviations: tuple[str, ...]


_TIES = "of equally likely tokens at an edge the lower id stays"

_PRESETS = (
    Preset(
        name="hf",
        engine="Hugging Face transformers 5.23, generate(do_sample=True)",
        chain=(
            {"logit_bias": "off"},
            {"penalties": {"repeat": "off", "scope": "all"}},
            {"no_repeat_ngram": "off"},
            {"bad_words": "off"},
            {"min_new_tokens": "off"},
            {"temperature": 1.0},
            {"top_k": 50},
            {"top_p": "off"},
            {"min_p": "off"},
            {"typical": "off"},
            {"epsilon": "off"},
            {"eta": "off"},
            "sample",
        ),
        source="generation/utils.py, _get_logits_processor; "
        "generation/configuration_utils.py, _get_default_generation_params",
        deviations=(
            f"{_TIES}: transformers keeps all of them in top_k and typical, and prefers the higher "
            "id in top_p",
            "transformers draws only with do_sample=True; its own default is -s greedy",
            "logit_bias knows single tokens, sequence_bias the last one of a run as well",
            "bad_words looks at the answer, in transformers at the prompt as well",
            "min_new_tokens holds back every token and text that ends the answer, there eos alone",
            "top_h, exponential_decay_length_penalty and watermarks are not here",
        ),
    ),
    Preset(
        name="llama.cpp",
        engine="llama.cpp 0c1e57098, common_params_sampling",
        chain=(
            {"logit_bias": "off"},
            {"penalties": {"repeat": "off", "scope": "all", "window": 64}},
            {"dry": {"multiplier": "off", "base": 1.75, "allowed": 2, "last_n": 64}},
            {"top_n_sigma": "off"},
            {"top_k": 40},
            {"typical": "off"},
            {"top_p": 0.95},
            {"min_p": 0.05},
            {"xtc": {"probability": "off", "threshold": 0.1, "protect": []}},
            {"temperature": 0.8},
            "sample",
        ),
        source="common/common.h, common_params_sampling; common/sampling.cpp, common_sampler_init",
        deviations=(
            f"{_TIES}: llama.cpp leaves it to its sort",
            "frequency and presence count in the answer, in llama.cpp in the last 64 tokens of "
            "prompt and answer",
            "xtc leaves a row alone where it would take what ends the answer",
            "a constraint comes before all truncation; llama.cpp checks the token that it drew, "
            "and draws again where it is not allowed",
            "mirostat there replaces all stages but temperature: write -s mirostat=... alone",
            "the entropy range of temperature (dynatemp) is a stage of its own: "
            "dynamic_temperature",
        ),
    ),
    Preset(
        name="vllm",
        engine="vLLM 0.33, SamplingParams, V1 sampler",
        chain=(
            {"bad_words": "off"},
            {"min_new_tokens": "off"},
            {"logit_bias": "off"},
            {"penalties": {"repeat": "off", "scope": "all"}},
            {"temperature": 1.0},
            {"min_p": "off"},
            {"top_k": "off"},
            {"top_p": "off"},
            "sample",
        ),
        source="vllm/sampling_params.py, SamplingParams; vllm/v1/sample/sampler.py, Sampler",
        deviations=(
            f"{_TIES}: in vLLM that depends on the kernel, and PyTorch's keeps all in top_k",
            "vLLM takes a temperature below 0.01 for 0.01, and one below 0.00001 for greedy",
            "vLLM's second model runner has bad_words after the penalties: the same probabilities",
            "vLLM takes other defaults from a model's generation_config.json; here that gives eos "
            "ids alone",
        ),
    ),
    Preset(
        name="openai",
        engine="OpenAI API, as documented",
        chain=(
            {"logit_bias": "off"},
            {"penalties": {"frequency": "off", "presence": "off"}},
            {"temperature": 1.0},
            {"top_p": "off"},
            "sample",
        ),
        source="platform.openai.com/docs/api-reference, chat: create; docs on frequency and "
        "presence penalties",
        deviations=(
            "the order is not published: bias and penalties change logits, as the documentation "
            "says, and temperature comes before top_p by our choice",
            f"{_TIES}; what OpenAI does is not known",
            "temperature goes to 100 here, to 2 there",
        ),
    ),
    Preset(
        name="nanogpt",
        engine="nanoGPT, sample.py",
        chain=({"temperature": 0.8}, {"top_k": 200}, "sample"),
        source="sample.py; model.py, GPT.generate",
        deviations=(f"{_TIES}: nanoGPT keeps all that tie with the 200th",),
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _PRESETS}


def find_preset(name: str) -> Preset:
    """Return a preset by name, or raise UnknownName."""
    if name not in PRESETS:
        near = did_you_mean(name, PRESETS)
        raise UnknownName(
            f"unknown preset '{name}'", hint=near or f"there are: {', '.join(PRESETS)}"
        )
    return PRESETS[name]
