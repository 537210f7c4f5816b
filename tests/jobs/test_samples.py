"""Several answers to a row, log-probabilities, cells, and rows that may not fail."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gptkit import assembly
from gptkit.decoding.noise import row_seed
from gptkit.errors import ConfigError, ContextOverflow, NonFiniteLogits, RequestError
from gptkit.jobs.batch import Batch
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.prompts import SHARE_FROM
from gptkit.plugin_host import registry
from tests.jobs.test_run import Poisoned, varied


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture
def compute(workshop, plugins):
    """Return a function: the lines that each of a job's cells writes, by index."""

    def run(rows, change=None, batch_size=4, **changes):
        job = prepare(workshop.job(rows=rows, **changes), plugins, Given(batch_size=batch_size))
        model = assembly.load_model(job.cells[0].source, plugins, device="cpu")
        model = change(model) if change else model
        found = []
        for cell in job.cells:
            steps = Batch(job, cell, model).run(job.inputs)
            found.append({r.row.index: r.output for step in steps for r in step.results})
        return found if len(found) > 1 else found[0]

    return run


@pytest.mark.parametrize("n", [2, SHARE_FROM, 7])
def test_a_row_has_as_many_answers_as_asked_for_in_one_line(compute, n):
    rows = varied(6)
    out = compute(rows, n=n)
    assert sorted(out) == list(range(6))
    for i, row in out.items():
        assert list(row) == ["index", "id", "prompt_tokens", "samples"]
        assert [list(one) for one in row["samples"]] == [
            ["text", "finish_reason", "new_tokens", "seed"]
        ] * n
        assert [one["seed"] for one in row["samples"]] == [
            row_seed(7, rows[i]["id"], sample) for sample in range(n)
        ]
        assert len({one["text"] for one in row["samples"]}) == n


def test_the_first_answer_of_several_is_the_only_one_of_one(compute):
    rows = varied(6)
    one, three = compute(rows), compute(rows, n=3)
    for i, row in one.items():
        assert three[i]["prompt_tokens"] == row["prompt_tokens"]
        first = three[i]["samples"][0]
        assert first == {key: row[key] for key in first}


@pytest.mark.parametrize("n", [3, 5])
def test_answers_do_not_depend_on_the_batch(compute, n):
    rows = varied(9)
    expected = compute(rows, n=n, batch_size=1)
    assert compute(rows, n=n, batch_size=16) == expected
    assert compute(rows, n=n, batch_size=3) == expected


def test_an_answer_that_fails_fails_its_row_and_no_other(compute):
    rows = varied(24)
    expected = compute(rows, n=3)

    def poison(model):
        """Fail where a dollar is read, which some answers write in the middle of their text."""
        (token,) = model.tokenizer.encode_ordinary("$")
        return replace(model, forward=Poisoned(model.forward, token))

    out = compute(rows, poison, n=3)
    fails = [any("$" in one["text"][:-1] for one in row["samples"]) for row in expected.values()]
    assert {True, False} == set(fails)
    for (i, row), failed in zip(expected.items(), fails, strict=True):
        assert out[i] == row or failed
        assert out[i].get("error", {}).get("type") == ("non_finite_logits" if failed else None)


# Log-probabilities ----------------------------------------------------------------------------


def test_log_probabilities_are_recorded_for_each_token(compute):
    rows = varied(3)
    plain, out = compute(rows), compute(rows, logprobs=3)
    for i, row in out.items():
        tokens = row.pop("logprobs")
        assert row == plain[i]
        assert len(tokens) == row["new_tokens"]
        assert "".join(one["token"] for one in tokens).strip() == row["text"].strip()
        for one in tokens:
            tops = [other["logprob"] for other in one["top"]]
            assert len(tops) == 3 and tops == sorted(tops, reverse=True)
            assert one["logprob"] <= tops[0] <= 0
            same = [other["logprob"] for other in one["top"] if other["token"] == one["token"]]
            assert same in ([], [one["logprob"]])


def test_log_probabilities_are_those_of_the_model(workshop, plugins, compute):
    (row,) = compute([{"id": "a", "text": "one"}], logprobs=0).values()
    job = prepare(workshop.job(rows=[{"id": "a", "text": "one"}]), plugins)
    model = assembly.load_model(job.cells[0].source, plugins, device="cpu", backend="torch")
    text = "".join(one["token"] for one in row["logprobs"])
    prompt = model.tokenizer.encode_ordinary("Q: one\nA:")
    ids = prompt + model.tokenizer.encode_ordinary(text)
    with torch.no_grad():
        logits = model.forward(torch.tensor([ids]))[0]
    logprobs = logits.log_softmax(-1)
    for place, one in enumerate(row["logprobs"], start=len(prompt)):
        assert one["top"] == []
        assert one["logprob"] == pytest.approx(float(logprobs[place - 1, ids[place]]), abs=1e-4)


def test_several_answers_have_log_probabilities_of_their_own(compute):
    (row,) = compute(varied(1), n=2, logprobs=0).values()
    for one in row["samples"]:
        assert len(one["logprobs"]) == one["new_tokens"]
        assert all(math.isfinite(token["logprob"]) for token in one["logprobs"])


# Cells ----------------------------------------------------------------------------------------


def test_each_line_has_its_cell(compute):
    rows = [*varied(3), {"id": "bad"}]
    chains = "{cold: [greedy], warm: [temperature: 0.9]}"
    cells = compute(rows, sampling=None, matrix=f"{{sampler: {chains}, seed: [7, 8]}}")
    labels = [{"sampler": chain, "seed": seed} for chain in ("cold", "warm") for seed in "78"]
    for label, out in zip(labels, cells, strict=True):
        assert all(row["cell"] == label for row in out.values())
        assert [*out[0]][:3] == ["index", "id", "cell"]
        assert list(out[3]) == ["index", "id", "cell", "error"]


def test_a_cell_answers_as_a_job_of_its_own_does(compute):
    rows = varied(4)
    chains = "{cold: [greedy], warm: [temperature: 0.9]}"
    cold, warm = compute(rows, sampling="{seed: 7}", matrix=f"{{sampler: {chains}}}")
    for out, chain in ((cold, "greedy"), (warm, "temperature: 0.9")):
        alone = compute(rows, sampling=f"{{seed: 7, chain: [{chain}]}}")
        for row in out.values():
            row.pop("cell")
        assert out == alone
    assert [row["seed"] for row in cold.values()] == [row["seed"] for row in warm.values()]


def test_a_score_has_its_cell_too(compute):
    template = "{item: $text, output: text}"
    rows = [{"id": "a", "text": "one two"}]
    changes = {"task": "score", "sampling": None, "stop": None, "template": None}
    matrix = f"{{template: {{whole: {template}}}}}"
    assert list(compute(rows, **changes, matrix=matrix)[0])[:3] == ["index", "id", "cell"]


# Rows that may not fail -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "kind", "said"),
    [
        ({"id": "x"}, RequestError, r"row 2 \(line 3\): no field 'text'; there are: id"),
        ({"text": "x" * 200}, ContextOverflow, r"row 2 \(line 3\): prompt has 206 tokens"),
    ],
)
def test_a_row_that_fails_may_stop_the_job(compute, bad, kind, said):
    rows = varied(6)
    rows[2] = bad
    with pytest.raises(kind, match=said) as caught:
        compute(rows, on_error="stop")
    assert "on_error: error_row" in caught.value.hint


def test_rows_that_ended_before_the_one_that_stops_the_job_are_told(workshop, plugins):
    rows = varied(6)
    rows[5]["text"] = "\u2603"
    job = prepare(workshop.job(rows=rows, on_error="stop"), plugins, Given(batch_size=1))
    model = assembly.load_model(job.cells[0].source, plugins, device="cpu")
    (token,) = model.tokenizer.encode_ordinary("$")
    found = []
    with pytest.raises(RequestError, match="row 5"):
        for step in Batch(job, job.cells[0], model).run(job.inputs):
            found += step.results
    assert all("error" not in one.output for one in found)
    rows[5]["text"], rows[3]["text"] = "fine", "$"  # the shortest comes last
    job = prepare(workshop.job(rows=rows, on_error="stop"), plugins, Given(batch_size=1))
    model = replace(model, forward=Poisoned(model.forward, token))
    with pytest.raises(NonFiniteLogits, match=r"row 3 \(line 4\): logits are not finite"):
        for step in Batch(job, job.cells[0], model).run(job.inputs):
            found += step.results
    assert sorted(one.row.index for one in found) == [0, 1, 2, 4, 5]


def test_a_chain_that_no_row_can_start_with_is_refused_at_once(compute):
    chain = "[constraint: {regex: '('}, greedy]"
    with pytest.raises(ConfigError, match="constraint.regex: "):
        compute(varied(3), sampling=f"{{chain: {chain}}}")
