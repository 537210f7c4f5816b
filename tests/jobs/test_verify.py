"""`--verify`: which rows are taken, which come out equal alone, and that what differs is found."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from gptkit import assembly
from gptkit.cli import main
from gptkit.errors import ConfigError, ResumeRefused
from gptkit.jobs.events import Note
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.run import run
from gptkit.jobs.runtime import How
from gptkit.jobs.verify import MISSING, chosen, verify
from gptkit.plugin_host import registry

ROWS = [{"id": f"r{i}", "text": "so it goes " * (i % 5 + 1)} for i in range(11)]


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture
def ran(workshop, plugins):
    """Return a function: a job that has been run, by a model that may be changed."""

    def make(rows=ROWS, change=None, given=None, **changes):
        job = prepare(workshop.job(rows=rows, **changes), plugins, given or Given())
        for _ in run(job, lambda source: loaded(source, plugins, change), How(device="cpu")):
            pass
        return job

    return make


def loaded(source, plugins, change=None):
    model = assembly.load_model(source, plugins, device="cpu")
    return change(model) if change else model


def verified(job, plugins, n=100):
    """Return the notes, and the lines that were compared."""
    found = list(verify(job, lambda source: loaded(source, plugins), How(device="cpu"), n))
    notes = [one.text for one in found if isinstance(one, Note)]
    return notes, [one for one in found if not isinstance(one, Note)]


def differing(job, plugins):
    return [
        (one.index, one.id, dict(one.cell), one.field, one.there, one.again)
        for compared in verified(job, plugins)[1]
        for one in compared.differences
    ]


def edit(workshop, change):
    """Change the lines of the output, a list of them."""
    rows = workshop.out()
    change(rows)
    (workshop.folder / "out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# Which rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 99, 100, 101, 5000])
@pytest.mark.parametrize("n_rows", [0, 1, 2, 7, 100, 1000])
def test_rows_are_spread_evenly_one_out_of_each_part(n_rows, n):
    taken = chosen(n_rows, n, seed=3)
    assert len(taken) == min(n, n_rows)
    for i, index in enumerate(taken):
        assert i * n_rows // len(taken) <= index < (i + 1) * n_rows // len(taken)


def test_the_seed_alone_decides_which_rows():
    assert chosen(1000, 5, 3) == chosen(1000, 5, 3) != chosen(1000, 5, 4)
    counts = [0] * 10
    for seed in range(2000):
        (index,) = chosen(10, 1, seed)
        counts[index] += 1
    assert all(150 < count < 250 for count in counts)  # 200 each; 13 is one standard deviation


# What comes out equal -------------------------------------------------------------------------

MATRIX = (
    '{seed: [1, 2], template: {a: {item: "Q: $text\\nA: $answer", output: answer}, '
    'b: {item: "$text: $answer", output: answer}}}'
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": "3"},
        {"examples": "[{text: a b c, answer: d}, {text: e f g, answer: h}]", "batch_size": "4"},
        {"n": "3", "logprobs": "2"},
        {"keep": "[text]"},
        {"sampling": "{seed: 7, chain: [greedy], speculate: prompt_lookup}"},
        {"sampling": "{seed: 7, strategy: beam}"},
        {"matrix": MATRIX, "template": None, "sampling": "{chain: [temperature: 0.9]}"},
        {"task": "score", "fields": "{answer: id}", "sampling": None, "stop": None},
    ],
    ids="plain small shots samples kept drafts beams matrix score".split(),
)
def test_rows_come_out_equal_alone(ran, plugins, changes):
    job = ran(**changes)
    notes, found = verified(job, plugins)
    assert notes == []
    assert len(found) == len(ROWS) * len(job.cells)
    assert not any(one.differences for one in found)


@pytest.mark.parametrize(
    "name", ["out.csv", "out.tsv", "out.jsonl.gz", "out.csv.gz", "out.parquet"]
)
@pytest.mark.parametrize("changes", [{}, {"n": "2", "logprobs": "1"}, {"matrix": "{seed: [1, 2]}"}])
def test_outputs_of_any_form_are_compared(ran, plugins, name, changes):
    if "matrix" in changes:
        changes = {**changes, "sampling": "{chain: [temperature: 0.9]}"}
    rows = [*ROWS[:3], {"id": "bad"}, {"id": "long", "text": "b" * 200}]
    job = ran(rows=rows, outputs=name, **changes)
    notes, found = verified(job, plugins)
    assert notes == [] and len(found) == 5 * len(job.cells)
    assert not any(one.differences for one in found)


def test_a_cell_of_a_table_that_was_changed_is_found(ran, plugins, workshop):
    job = ran(outputs="out.csv")
    path = workshop.folder / "out.csv"
    path.write_text(path.read_text().replace("\n2,r2,", "\n2,r3,"))
    assert differing(job, plugins) == [(2, "r2", {}, "id", "r3", "r2")]


def test_rows_with_errors_are_compared_too(ran, plugins, workshop):
    job = ran(rows=[{"text": "a"}, {"note": "no text"}, {"text": "b" * 200}])
    assert ["error" in row for row in workshop.out()] == [False, True, True]
    assert differing(job, plugins) == []
    edit(workshop, lambda rows: rows[1]["error"].update(type="other"))
    assert differing(job, plugins) == [(1, None, {}, "error.type", "other", "missing_field")]


# What does not --------------------------------------------------------------------------------


def test_each_field_that_was_changed_is_found(ran, plugins, workshop):
    job = ran(n="2", logprobs="1")
    before = workshop.out()[2]

    def change(rows):
        rows[2]["samples"][1]["text"] = "x"
        rows[2]["samples"][0]["logprobs"][0]["logprob"] -= 1e-9
        rows[2]["prompt_tokens"] += 1
        del rows[2]["id"]

    edit(workshop, change)
    notes, _ = verified(job, plugins)
    assert notes == ["out.jsonl was changed after it was written"]
    one, other = before["samples"]
    logprob = one["logprobs"][0]["logprob"]
    assert differing(job, plugins) == [
        (2, "r2", {}, "prompt_tokens", before["prompt_tokens"] + 1, before["prompt_tokens"]),
        (2, "r2", {}, "samples[0].logprobs[0].logprob", logprob - 1e-9, logprob),
        (2, "r2", {}, "samples[1].text", "x", other["text"]),
        (2, "r2", {}, "id", MISSING, "r2"),
    ]


def test_in_a_matrix_the_cell_is_named(ran, plugins, workshop):
    job = ran(matrix="{seed: [1, 2]}", sampling="{chain: [temperature: 0.9]}")
    edit(workshop, lambda rows: rows[5].update(finish_reason="eos"))
    assert differing(job, plugins) == [(2, "r2", {"seed": "2"}, "finish_reason", "eos", "length")]


def test_a_line_that_is_not_there_is_found(ran, plugins, workshop):
    job = ran()
    edit(workshop, lambda rows: rows.pop())
    ((index, row_id, _, field, there, again),) = differing(job, plugins)
    assert (index, row_id, field, there) == (10, "r10", "line", MISSING)
    assert again["id"] == "r10"


def test_a_computation_that_feels_its_neighbours_is_found(ran, plugins):
    """What it is for: the model adds something to each row that depends on how many there are."""

    class Felt:
        def __init__(self, forward):
            self.forward, self.config = forward, forward.config
            self.shares_prefixes = self.ranks = False
            self.new_cache = forward.new_cache

        def step(self, ids, spans, cache, wanted):
            logits = self.forward.step(ids, spans, cache, wanted).clone()
            logits[:, len(spans) % logits.shape[1]] += 9.0
            return logits

    job = ran(change=lambda model: replace(model, forward=Felt(model.forward)), batch_size="6")
    found = {index for index, *_ in differing(job, plugins)}
    assert found == set(range(11))


def test_an_answer_that_the_clock_ended_is_not_compared(ran, plugins, workshop):
    job = ran()

    def change(rows):
        rows[3].update(finish_reason="time", text="cut")
        rows[4].update(text="changed")

    edit(workshop, change)
    _, found = verified(job, plugins)
    assert [one.index for one in found if one.by_clock] == [3]
    assert [one.index for one in found if one.differences] == [4]


# What can't be verified -----------------------------------------------------------------------


def test_there_must_be_a_finished_output(ran, plugins, workshop):
    job = prepare(workshop.job(rows=ROWS), plugins)
    with pytest.raises(ConfigError, match="no finished output at out.jsonl"):
        verified(job, plugins)
    job = ran()
    (workshop.folder / "out.jsonl.manifest.json").unlink()
    with pytest.raises(ConfigError, match="no finished output at out.jsonl"):
        verified(job, plugins)


def test_it_must_be_of_this_job_and_of_this_input(ran, plugins, workshop):
    job = ran()
    with pytest.raises(ResumeRefused, match="different job: seed 7 -> 8"):
        verified(prepare(job.path, plugins, Given(seed=8)), plugins)
    workshop.rows([{**ROWS[0], "text": "other"}, *ROWS[1:]])
    with pytest.raises(ResumeRefused, match="the input of out.jsonl was changed"):
        verified(prepare(job.path, plugins), plugins)


def test_without_rows_there_is_nothing_to_compare(ran, plugins):
    assert verified(ran(rows=[]), plugins) == ([], [])


def test_threads_are_those_of_the_run(ran, plugins, monkeypatch):
    import torch

    job = ran()
    before = torch.get_num_threads()
    seen = []
    try:
        torch.set_num_threads(before + 1)
        seen = verified(job, plugins)[0]
    finally:
        torch.set_num_threads(before)
    assert seen == [f"computing with {before} thread, as this job began; here it would be 2"]


# The command ----------------------------------------------------------------------------------


def test_the_command_says_equal_or_what_differs(ran, workshop, capsys):
    ran()
    assert main(["run", "job.yaml", "--verify", "5"]) == 0
    assert capsys.readouterr().out == "5 rows recomputed alone: all equal\n"

    edit(workshop, lambda rows: [row.update(text=f"\x1b[31m{row['text']}" * 9) for row in rows])
    assert main(["run", "job.yaml", "--verify", "2"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "2 rows recomputed alone: 2 different"
    assert len(lines) == 2
    for line in lines:
        assert re.match(r'row \d+ \(id r\d+\): text: ".*[.]{3} -> ".*"$', line)
        assert "\x1b" not in line

    assert main(["run", "job.yaml", "--verify", "2", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["lines"] == 2 and [one["field"] for one in found["differences"]] == ["text"] * 2
    assert [one["index"] for one in found["differences"]] == found["rows"]


def test_the_command_counts_cells(ran, capsys):
    ran(matrix="{seed: [1, 2]}", sampling="{chain: [temperature: 0.9]}")
    assert main(["run", "job.yaml", "--verify", "1"]) == 0
    assert capsys.readouterr().out == "1 row recomputed alone in 2 cells: all equal\n"


@pytest.mark.parametrize("option", ["--restart", "--retry-errors", "--no-resume", "--dry-run"])
def test_the_command_does_nothing_else(ran, capsys, option):
    ran()
    assert main(["run", "job.yaml", "--verify", "1", option]) == 2
    assert "--verify compares a finished output and nothing else" in capsys.readouterr().err


def test_the_command_lists_bundled_jobs(capsys):
    assert main(["run", "--list"]) == 0
    table = capsys.readouterr().out
    assert re.search("^summarize +Summarise texts in one sentence each *$", table, re.M)
    assert main(["run", "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "about", "path"} == set(found[0]) and len(found) == 8
