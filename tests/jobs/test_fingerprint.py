"""What decides an answer is in the fingerprint, what does not is not, and differences are words."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gptkit import plugin_host
from gptkit.jobs import fingerprint as module
from gptkit.jobs.fingerprint import differences, fingerprint, major_version
from gptkit.jobs.preflight import Given, prepare
from gptkit.plugin_host import registry

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROWS = [{"id": 1, "text": "x", "answer": "y"}]


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture
def of(workshop, plugins):
    """Return a function: the fingerprint of a job that is changed so."""

    def make(tokenizer=None, found=plugins, **changes):
        return fingerprint(prepare(workshop.job(rows=ROWS, **changes), found, Given()), tokenizer)

    return make


def test_a_fingerprint_goes_through_a_file_unchanged(of):
    made = of(stop='{strings: ["a"], max_new_tokens: 3}', examples="[{text: x, answer: y}]")
    assert json.loads(json.dumps(made)) == made
    assert differences(made, of(stop='{strings: ["a"], max_new_tokens: 3}')) == [
        "examples.number 1 -> 0",
        made
        and f"examples.sha256 {made['cells'][0]['examples']['sha256'][:32]}... -> "
        f"{of()['cells'][0]['examples']['sha256'][:32]}...",
    ]


def test_the_same_job_has_no_differences(of):
    assert differences(of(), of(batch_size="3", on_error="stop", csv_safe="true")) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling": "{seed: 7, chain: [temperature: 0.7]}"}, "temperature 0.9 -> 0.7"),
        (
            {"sampling": "{seed: 7, chain: [{temperature: 0.9}, {top_k: 3}]}"},
            "chain temperature sample -> temperature top_k sample",
        ),
        ({"stop": "{max_new_tokens: 12, max_time_s: 3}"}, "max_time_s 0.0 -> 3.0"),
        ({"sampling": "{seed: 7, chain: [temperature: 0.9], strategy: beam}"}, "method.strategy"),
        ({"k": "0"}, "examples.k none -> 0"),
        ({"task": "score", "sampling": None, "stop": None}, "task generate -> score"),
        ({"template": "dialogue", "system": "Be kind."}, "system none -> Be kind."),
    ],
)
def test_what_decides_an_answer_is_in_it(of, changes, said):
    assert any(one.startswith(said) for one in differences(of(), of(**changes)))


def test_a_second_parameter_is_named_with_its_stage(of):
    chains = (f"{{seed: 7, chain: [{{mirostat: {{tau: 5, eta: {eta}}}}}]}}" for eta in (0.1, 0.2))
    a, b = (of(sampling=chain) for chain in chains)
    assert differences(a, b) == ["mirostat.eta 0.1 -> 0.2"]


def test_a_difference_of_one_cell_says_which(of):
    both = "{seed: [1, 2], sampler: {cold: [greedy], warm: [{temperature: 0.9}]}}"
    a = of(sampling=None, matrix=both)
    b = of(sampling=None, matrix=both.replace("0.9", "0.8"))
    assert differences(a, b) == [
        "temperature 0.9 -> 0.8 (sampler=warm, seed=1)",
        "temperature 0.9 -> 0.8 (sampler=warm, seed=2)",
    ]
    c = of(sampling=None, matrix=both, stop="{max_new_tokens: 5}")
    assert differences(a, c) == ["max_new_tokens 12 -> 5"]
    assert differences(a, of()) == [
        "cells sampler=cold, seed=1; sampler=cold, seed=2; sampler=warm, seed=1; "
        "sampler=warm, seed=2 -> one"
    ]


def test_long_values_are_cut_to_where_they_differ():
    a = {"system": "Be as kind as you can be to everybody, and brief."}
    b = {"system": "Be as kind as you can be to everybody, and never brief."}
    (said,) = differences(a, b)
    assert said == "system ...dy, and brief. -> ...dy, and never brief."


def test_a_file_that_a_stage_names_stands_for_what_is_in_it(of, workshop):
    pytest.importorskip("llguidance")
    schema = workshop.folder / "schema.json"
    schema.write_text('{"type": "array"}')
    chain = f'{{seed: 7, chain: [{{constraint: {{json_schema: "{schema}"}}}}]}}'
    before = of(sampling=chain)
    schema.write_text('{"type": "object"}')
    (said,) = differences(before, of(sampling=chain))
    assert said.startswith("constraint.json_schema ...")


def test_another_plugin_version_is_a_difference(of, monkeypatch):
    monkeypatch.syspath_prepend(str(FIXTURES / "acme_sampler"))
    chain = "{seed: 7, chain: [square: 0.3]}"
    found = registry()
    before = of(found=found, sampling=chain)
    assert list(before["plugins"].values()) != []
    ((name, version),) = before["plugins"].items()
    newer = [
        replace(one, version="9.9") if one.distribution == name else one
        for one in plugin_host.discover()
    ]
    after = of(found=plugin_host.index(plugin_host.load(newer)), sampling=chain)
    assert differences(before, after) == [f"plugins.{name} {version} -> 9.9"]
    assert of()["plugins"] == {}
    for module_name in [m for m in sys.modules if m.startswith("acme")]:
        del sys.modules[module_name]


def test_a_tokenizer_that_is_given_stands_in_the_place_of_the_model_s(of, tiny):
    own = of()["cells"][0]["tokenizer"]
    assert own["name"] == "char" and len(own["sha256"]) == 64
    assert of(f"char:{tiny / 'tokenizer'}")["cells"][0]["tokenizer"] == own
    (said,) = differences(of(), of("whitespace"))[:1]
    assert said == "tokenizer.name char -> whitespace"


def test_what_else_lies_in_a_folder_of_hugging_face_is_no_tokenizer(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    before = module._tokenizer_digest(tmp_path)
    (tmp_path / "out.jsonl").write_text("rows")
    assert module._tokenizer_digest(tmp_path) == before
    (tmp_path / "merges.txt").write_text("a b")
    assert module._tokenizer_digest(tmp_path) != before


@pytest.mark.parametrize(
    ("version", "major"), [("0.1.0", "0.1"), ("0.2.0.dev1", "0.2"), ("1.4.2", "1"), ("2.0", "2")]
)
def test_before_1_0_the_second_number_counts(version, major):
    assert major_version(version) == major
