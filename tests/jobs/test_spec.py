"""Job files: what they may say, and where they are found."""

from __future__ import annotations

import pytest

from gptkit.config import parse_yaml
from gptkit.errors import ConfigError
from gptkit.jobs.spec import JobSettings, bundled_jobs, find_job

LEAST = "template: qa\ninputs: a.jsonl\noutputs: b.jsonl\n"


def build(text):
    return parse_yaml(text, "job.yaml").build(JobSettings)


def test_the_least_job_has_plain_defaults():
    job = build(LEAST)
    assert (job.k, job.examples, job.on_overflow, job.batch_size) == (None, (), "error", 16)
    assert job.sampling.seed is None and job.sampling.chain is None


def test_examples_stand_in_the_job_or_in_a_file():
    assert build(LEAST + "examples: [{a: x}]").examples == ({"a": "x"},)
    assert build(LEAST + "examples: some.jsonl").examples == "some.jsonl"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("temprature: 1", "job.yaml:4: unknown key 'temprature'"),
        ("batch_size: 0", "job.yaml:4: batch_size: 0 is below 1"),
        ("batch_size: true", "expected a whole number"),
        ("k: -1", "job.yaml:4: k: -1 is below 0"),
        ("examples: [3]", r"examples\[0\]: expected a mapping, got 3"),
        ("on_overflow: trunc", "expected error, truncate_left or truncate_right"),
        ("sampling: {sed: 3}", "unknown key 'sed'"),
    ],
)
def test_a_mistake_is_told_with_its_line(line, said):
    with pytest.raises(ConfigError, match=said):
        build(LEAST + line)


def test_a_job_is_found_by_path_or_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "summarize.yaml").write_text("")
    assert str(find_job("summarize.yaml")) == "summarize.yaml"
    assert find_job("summarize") == bundled_jobs()["summarize"]


def test_a_job_that_is_not_there_gets_a_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such job: sumarize") as caught:
        find_job("sumarize")
    assert caught.value.hint == "did you mean 'summarize'?"
    with pytest.raises(ConfigError, match="no such job: x/y.yaml") as caught:
        find_job("x/y.yaml")
    assert "summarize" in caught.value.hint
    with pytest.raises(ConfigError, match="is a directory"):
        find_job(".")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("k: autp", 'job.yaml:4: k: expected a whole number or auto, got text "autp"'),
        ("select: nerest", "select: expected first, random, balanced or nearest"),
        ("n: 0", "job.yaml:4: n: 0 is below 1"),
        ("logprobs: 21", "job.yaml:4: logprobs: 21 is above 20"),
        ("encoding: utf9", "job.yaml:4: encoding: there is no encoding 'utf9'"),
        ("encoding: rot13", "job.yaml:4: encoding: there is no encoding 'rot13'"),
        ("on_error: raise", "on_error: expected error_row or stop"),
        ("task: scor", "task: expected generate or score"),
        ("ids: any", "ids: expected unique or allow_duplicates"),
        ("matrix: {model: a}", 'matrix.model: expected a list or a mapping, got text "a"'),
        ("matrix: {seed: [1, x]}", r"matrix.seed\[1\]: expected a whole number, got text \"x\""),
        ("matrix: {seed: [-1]}", r"job.yaml:4: matrix.seed\[0\]: -1 is below 0"),
        ("matrix: {sampler: {cold: 3}}", "matrix.sampler.cold: expected text or a list, got 3"),
    ],
)
def test_a_mistake_in_a_newer_key_is_told_with_its_line(line, said):
    with pytest.raises(ConfigError, match=said):
        build(LEAST + line)


def test_inputs_are_one_or_several():
    least = "template: qa\noutputs: b.jsonl\n"
    assert build(least + "inputs: [a.jsonl, b.jsonl]").inputs == ("a.jsonl", "b.jsonl")
    for none in ("''", "[]"):
        with pytest.raises(ConfigError, match="job.yaml:3: inputs: must not be empty"):
            build(least + f"inputs: {none}")
