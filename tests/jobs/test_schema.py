"""The JSON Schema of job files: what a job may say passes, and a mistake does not."""

from __future__ import annotations

import json

import pytest

from gptkit.cli import main
from gptkit.config import parse_yaml, read_yaml
from gptkit.jobs.schema import DIALECT, schema
from gptkit.jobs.spec import JobSettings, bundled_jobs
from gptkit.plugin_host import registry

jsonschema = pytest.importorskip("jsonschema")

LEAST = "template: qa\ninputs: a.jsonl\noutputs: b.jsonl\n"


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture(scope="module")
def checker(plugins):
    made = schema(plugins)
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def errors(checker, text):
    return [error.message for error in checker.iter_errors(parse_yaml(text, "job.yaml").data)]


def test_it_names_its_draft_and_describes_every_key(plugins):
    made = schema(plugins)
    assert made["$schema"] == DIALECT
    assert made["properties"].keys() == JobSettings.model_fields.keys()
    assert all(key["description"] for key in made["properties"].values())


@pytest.mark.parametrize("name", bundled_jobs())
def test_a_bundled_job_passes(checker, name):
    checker.validate(read_yaml(bundled_jobs()[name]).data)


@pytest.mark.parametrize(
    "line",
    [
        "k: auto",
        "inputs: [a.jsonl, b.jsonl]",
        'template: {item: "$a $b", output: b}',
        "template: {user: $text, assistant: [$text, {control: end}]}",
        "sampling: {seed: 3, chain: [greedy]}",
        "sampling: {chain: [{temperature: off}, {top_k: 40}, {my/stage: 3}, sample]}",
        "sampling: {chain: [{dry: {multiplier: 0.8, as: d}}, temperature: ]}",
        "sampling: {preset: hf, speculate: {model: {model: small}}}",
        "stop: {strings: [a, b], max_new_tokens: 3, ignore_eos: true, of_a_plugin: [1]}",
        "matrix: {model: [a], sampler: {x: [greedy], y: hf}, template: {p: qa}, seed: [1, 2]}",
        "matrix: {model: {a: b}, sampler: [hf], template: [qa]}",
    ],
)
def test_what_a_job_may_say_passes(checker, line):
    key = line.partition(":")[0]
    least = "".join(one for one in LEAST.splitlines(True) if not one.startswith(f"{key}:"))
    parse_yaml(least + line, "job.yaml").build(JobSettings)
    assert errors(checker, least + line) == []


@pytest.mark.parametrize(
    "line",
    [
        "temprature: 1",
        "k: many",
        "n: 0",
        "logprobs: 21",
        "select: nerest",
        "matrix: {modle: [a]}",
        "matrix: {seed: []}",
        "matrix: {sampler: {x: 3}}",
        "sampling: {preset: hff}",
        "sampling: {chain: [{temperature: -1}]}",
        "sampling: {chain: [{temperature: warm}]}",
        "sampling: {chain: [{a: 1, b: 2}]}",
        "stop: {max_new_tokens: -1}",
    ],
)
def test_a_mistake_does_not_pass(checker, line):
    assert errors(checker, LEAST + line)


def test_every_plugin_s_own_values_pass(checker, plugins):
    for offer in plugins.offers("sampler"):
        for values in ({key: p.default for key, p in offer.value.params.items()}, "off"):
            if values == "off":
                values = {k: "off" for k, p in offer.value.params.items() if p.off is not None}
            job = {"inputs": "a", "outputs": "b", "sampling": {"chain": [{offer.name: values}]}}
            checker.validate(json.loads(json.dumps(job)))


def test_the_command_prints_it(capsys):
    assert main(["run", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"] == DIALECT


def test_without_schema_a_job_is_needed(capsys):
    assert main(["run"]) == 2
    assert "no job is given" in capsys.readouterr().err
