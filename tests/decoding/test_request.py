"""Chains and stops as users write them: what they mean, and every complaint word for word."""

import json
import subprocess
import sys

import pytest

from gptkit.config import parse_yaml
from gptkit.decoding.request import (
    SamplingSettings,
    add_stop,
    parse_stage,
    resolve_chain,
    resolve_stops,
    typed,
)
from gptkit.errors import ConfigError, GptkitError, UnknownName
from gptkit.plugin_host import registry

REGISTRY = registry()


def chain(*texts, **more):
    return resolve_chain([parse_stage(text) for text in texts], REGISTRY, **more)


def shown(*texts, **more):
    return [str(stage) for stage in chain(*texts, **more)]


def test_the_order_is_the_users_and_a_picker_is_added():
    assert shown("top_p=.95", "temperature=0.8") == ["top_p=0.95", "temperature=0.8", "sample"]


def test_greedy_is_the_last_stage():
    assert shown("top_k=5", "greedy") == ["top_k=5", "greedy"]


def test_off_is_the_users_word_everywhere():
    assert shown("top_p=off", "top_k=0") == ["top_p=off", "top_k=off", "sample"]
    assert [stage.is_off for stage in chain("top_p=off", "top_k=3")] == [True, False, False]


def test_a_bare_name_stands_at_its_default():
    assert shown("top_p") == ["top_p=off", "sample"]


def test_whole_numbers_serve_as_numbers_but_not_the_other_way():
    assert chain("temperature=1")[0].values == {"t": 1.0}
    with pytest.raises(ConfigError, match=r"^top_k: 8.5 is not a whole number$"):
        chain("top_k=8.5")


def test_several_parameters_by_name():
    assert chain("temperature:t=0.5")[0].values == {"t": 0.5}


def test_a_second_one_needs_a_label():
    assert shown("temperature=0.5", "temperature:t=2,as=late")[:2] == [
        "temperature=0.5",
        "temperature:t=2.0,as=late",
    ]
    with pytest.raises(ConfigError, match="temperature is given twice") as error:
        chain("temperature=0.5", "temperature=2")
    assert error.value.hint == "write temperature:...,as=NAME for a second one"


def test_over_a_base_a_listed_stage_changes_in_its_place():
    base = chain("top_p=0.9", "temperature=0.7")
    assert shown("top_p=0.5", base=base) == ["top_p=0.5", "temperature=0.7", "sample"]


def test_over_a_base_another_joins_where_phase_and_rank_put_it():
    base = chain("temperature=0.7", "top_p=0.9")
    assert shown("top_k=5", base=base) == ["temperature=0.7", "top_k=5", "top_p=0.9", "sample"]


def test_over_a_base_a_picker_takes_the_place_of_the_other():
    base = chain("temperature=0.7")
    assert shown("greedy", base=base) == ["temperature=0.7", "greedy"]
    assert shown("sample", "top_k=3", base=chain("greedy")) == ["top_k=3", "sample"]


def test_shorthands_alone_make_a_chain_in_the_default_order():
    given = {"top_p": "0.9", "temperature": "0.7", "top_k": "40"}
    assert shown(shorthands=given) == ["temperature=0.7", "top_k=40", "top_p=0.9", "sample"]


def test_a_shorthand_changes_the_stage_of_an_explicit_chain():
    assert shown("top_p=0.5", "temperature=1", shorthands={"temperature": "2"}) == [
        "top_p=0.5",
        "temperature=2.0",
        "sample",
    ]


@pytest.mark.parametrize(
    "texts, message, hint",
    [
        (["temperature=nan"], "temperature: nan is not a number from 0 to 100", "at most 100"),
        (["temperature=inf"], "temperature: inf is not a number from 0 to 100", "at most 100"),
        (["temperature=-1"], "temperature: -1 is below 0", "off"),
        (["temperature=101"], "temperature: 101 is above 100", "off"),
        (["temperature=0,7"], "temperature: '0,7' is not a number", "use a dot: 0.7"),
        (["temperature=warm"], "temperature: 'warm' is not a number", None),
        (["top_k=-1"], "top_k: -1 is below 0", "off"),
        (["top_p=1.5"], "top_p: 1.5 is above 1", "off"),
        (["topp=0.5"], "unknown sampler 'topp'", "did you mean 'top_p'?"),
        (["top_p:mass=0.5"], "top_p has no parameter 'mass'", None),
        (["greedy=3"], "greedy takes no value, got '3'", "write greedy"),
        (["greedy", "top_p"], "greedy picks the token, so nothing can follow it", "put it last"),
        (["greedy", "sample"], "the chain has two pickers: greedy and sample", "keep one"),
    ],
)
def test_what_a_chain_refuses(texts, message, hint):
    with pytest.raises(GptkitError) as error:
        chain(*texts)
    assert error.value.exit_code == 2
    assert str(error.value).startswith(message)
    if hint:
        assert hint in error.value.hint


def test_all_errors_at_once():
    with pytest.raises(ConfigError) as error:
        chain("topk=1", "top_p=2", "temperature=x")
    for part in ("unknown sampler 'topk'", "top_p: 2 is above 1", "temperature: 'x'"):
        assert part in str(error.value)


def test_a_shorthand_that_an_explicit_chain_lacks():
    with pytest.raises(ConfigError, match="--top-p is given but the chain has no top_p") as error:
        chain("temperature=0.7", shorthands={"top_p": "0.9"})
    assert error.value.hint == "add -s top_p=0.9 where you want it"


def test_a_shorthand_is_named_by_its_option():
    with pytest.raises(ConfigError, match=r"^--temperature: nan is not a number from 0 to 100$"):
        chain(shorthands={"temperature": "nan"})


def test_yaml_and_command_line_say_the_same():
    text = "chain: [{temperature: 0.8}, {top_p: off}, {top_k: {k: 40}}, greedy]"
    settings = parse_yaml(text, "job.yaml").build(SamplingSettings)
    assert resolve_chain(settings.chain, REGISTRY) == chain(
        "temperature=0.8", "top_p=off", "top_k:k=40", "greedy"
    )


def test_text_in_yaml_is_no_number():
    settings = parse_yaml("chain: [{temperature: '0.7'}]", "job.yaml").build(SamplingSettings)
    with pytest.raises(ConfigError, match="temperature: text '0.7' is not a number"):
        resolve_chain(settings.chain, REGISTRY)


def test_a_chain_survives_being_written_and_read():
    first = chain("top_k=off", "temperature=0.3", "top_p=0.25", "temperature:t=2,as=late")
    items = [stage.as_item() for stage in first]
    assert resolve_chain(json.loads(json.dumps(items)), REGISTRY) == first
    assert chain(*map(str, first)) == first


def test_stops_by_name():
    stops = resolve_stops(
        {"max_new_tokens": 7, "strings": ["a", "b"], "tokens": [3], "max_time_s": 2}, REGISTRY
    )
    assert (stops.max_new_tokens, stops.max_time_s, stops.ignore_eos) == (7, 2.0, False)
    assert [(c.criterion.name, c.values) for c in stops.criteria] == [
        ("strings", {"strings": ("a", "b"), "include": False}),
        ("tokens", {"ids": (3,)}),
    ]


@pytest.mark.parametrize(
    "block, message",
    [
        ({"max_new_tokens": -3}, "max_new_tokens: -3 is below 0"),
        ({"max_new_tokens": typed("many")}, "max_new_tokens: 'many' is not a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens: True is not a whole number"),
        ({"max_time_s": float("nan")}, "max_time_s: nan is not a number from 0"),
        ({"strings": [""]}, "strings must not be empty"),
        ({"strings": [3]}, "strings: 3 is not text"),
        ({"string": ["x"]}, "unknown stopping criterion 'string'"),
        ({"max_new_token": 3}, "unknown stopping criterion 'max_new_token'"),
    ],
)
def test_what_stops_refuse(block, message):
    with pytest.raises(GptkitError) as error:
        resolve_stops(block, REGISTRY)
    assert str(error.value).startswith(message)


def test_the_nearest_key_is_suggested():
    with pytest.raises(UnknownName) as error:
        resolve_stops({"max_new_token": 3}, REGISTRY)
    assert error.value.hint == "did you mean 'max_new_tokens'?"


def test_stops_add_up():
    block = add_stop({"strings": ["\n"]}, "strings", ["\n", "END"])
    assert block == {"strings": ["\n", "END"]}
    mapped = add_stop({"strings": {"strings": ["a"], "include": True}}, "strings", ["b"])
    assert mapped == {"strings": {"strings": ["a", "b"], "include": True}}


def test_reading_chains_needs_no_torch():
    code = (
        "import sys, gptkit.plugin_host as h, gptkit.decoding.request as r;"
        "r.resolve_chain([{'top_k': 3}], h.registry()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# A chain with parameters that are texts, lists and mappings ------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "logit_bias=50256:-100,11:2.5",
        "logit_bias=a:b:0.123456789",
        "logit_bias=off",
        'logit_bias={",": 1, "}": 2}',
        "logit_bias={}",
        "logit_bias:bias=50256:-100,11:2.5,as=late",
        "bad_words=two words, one text",
        'bad_words=["a", "b,c=d"]',
        'bad_words=["off"]',
        "bad_words=[INST]",
        "penalties:repeat=1.1,scope=output,window=64,normalize=true",
        'dry:multiplier=0.8,breakers=["\\n", ":"],allowed=3',
        "dry:multiplier=0.8,breakers=[]",
        "min_new_tokens=5",
    ],
)
def test_what_is_typed_survives_yaml_and_comes_back(text):
    first = chain(text)
    items = [stage.as_item() for stage in first]
    settings = parse_yaml(json.dumps({"chain": items}), "job.yaml").build(SamplingSettings)
    again = resolve_chain(settings.chain, REGISTRY)
    assert again == first
    assert chain(*map(str, again)) == first


def test_a_mapping_is_the_value_of_a_parameter_that_takes_one():
    text = """chain:
    - logit_bias: {50256: -100, " the": 2}
    - logit_bias: {bias: {as: -3, bias: 1}, as: second}
    - logit_bias: {as: third}
    """
    settings = parse_yaml(text, "job.yaml").build(SamplingSettings)
    first, second, third, _ = resolve_chain(settings.chain, REGISTRY)
    assert first.values == {"bias": {"50256": -100.0, " the": 2.0}}
    assert (second.label, second.values) == ("second", {"bias": {"as": -3.0, "bias": 1.0}})
    assert (third.label, third.is_off) == ("third", True)
    alone = resolve_chain([{"logit_bias": {"bias": {"bias": 1}}}], REGISTRY)
    assert resolve_chain([alone[0].as_item()], REGISTRY) == alone


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (parse_stage("logit_bias=11:-101"), "logit_bias[11]: -101 is below -100"),
        (parse_stage("logit_bias=11"), "logit_bias: '11' is not KEY:NUMBER"),
        (parse_stage("logit_bias=11:1,11:2"), "logit_bias: '11' is given twice"),
        (parse_stage("logit_bias=11:"), "logit_bias[11]: text '' is not a number"),
        (parse_stage("logit_bias:bais=11:1"), "logit_bias has no parameter 'bais'"),
        ({"logit_bias": {11: "1"}}, "logit_bias[11]: text '1' is not a number"),
        ({"logit_bias": {11: float("inf")}}, "logit_bias[11]: inf is not a number"),
        ({"logit_bias": 3}, "logit_bias: 3 is not a mapping"),
        (parse_stage('bad_words=["a"'), "bad_words: '[\"a\"' is no JSON"),
        ({"bad_words": ["a", 3]}, "bad_words: 3 is not text"),
        (parse_stage("penalties=0"), "penalties: 0 is below 0.01"),
        (parse_stage("penalties:scope=prompt"), "penalties.scope: 'prompt' is none of all, output"),
        ({"top_k": {50: 1}}, "top_k has no parameter '50'"),
    ],
)
def test_what_lists_and_mappings_refuse(item, message):
    with pytest.raises(ConfigError) as error:
        resolve_chain([item], REGISTRY)
    assert str(error.value).startswith(message)
