"""The jobs that ship: each renders, runs with the bundled model, and gives what its head says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from gptkit import assembly
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.prompts import prompt
from gptkit.jobs.rows import Row
from gptkit.jobs.score import batch_of
from gptkit.jobs.spec import bundled_jobs
from gptkit.plugin_host import registry
from tests.fakes import ByteTokenizer

ANSWERS = {
    "qa": (
        "Lisbon.|Cold.|A cow says moo.|Tuesday.|Bees.|No.|Hugo.|Rosa.|Jupiter.|"
        "A small piece of text.|Byte pair encoding.|gptkit chat"
    ),
    "summarize": (
        "Silver Lake opened a new library.|"
        "Oscar Reed found a silver coin in Milltown.|"
        "A snowstorm hit Harwick and stopped all trains.|"
        "Foxton won against Melrose in handball.|"
        "Walter Hunt found the pony that ran away in Clifton.|"
        "Fiona Bell opened a cheese shop in Oakdale.|"
        "Children in Upton collected 600 blankets.|"
        "Bluebird will build a factory for lamps in Riverton.|"
        "The zoo in Brookfield has five new penguins.|"
        "There will be no kite festival in Sandford because of strong wind.|"
        "Emma worked to buy a violin.|"
        "Lucas Webb wrote a book about old trains."
    ),
}
COLOURS = "Red Red Red Blue Blue Green Green Yellow Yellow Yellow White White Black Black".split()


@pytest.fixture
def job(workshop, name):
    return prepare(bundled_jobs()[name], registry(), Given(model=str(workshop.model)))


@pytest.fixture(scope="module")
def mini():
    return assembly.load_model(assembly.open_model("mini"), registry(), device="cpu")


@pytest.fixture
def ran(tmp_path, monkeypatch, mini, name):
    """Run a bundled job with mini; return its lines of output."""
    monkeypatch.chdir(tmp_path)
    job = prepare(bundled_jobs()[name], registry())
    (cell,) = job.cells
    steps = batch_of(job, cell, mini).run(job.inputs)
    found = {result.row.index: result.output for step in steps for result in step.results}
    assert not any("error" in output for output in found.values())
    return [found[i] for i in range(job.scan.n_rows)]


def test_there_is_a_job_for_each_task():
    assert " ".join(bundled_jobs()) == (
        "classify extract qa rewrite score story summarize translate"
    )


@pytest.mark.parametrize("name", bundled_jobs())
def test_a_bundled_job_renders_each_of_its_rows(job, name):
    assert 10 <= job.scan.n_rows <= 20
    assert job.cells[0].source.path.name != "mini"  # what it says can be replaced
    for row in job.inputs:
        assert row.fault is None
        assert row.id is not None
        cell = replace(job.cells[0], room=100_000)
        if name != "story":  # its control tokens are mini's own
            made = prompt(row, cell, ByteTokenizer(), "error")
            assert made.n_examples == cell.examples.most


@pytest.mark.parametrize("name", bundled_jobs())
def test_its_head_says_what_it_does_and_what_mini_makes_of_it(name):
    head, *rest = bundled_jobs()[name].read_text().split("\nmodel: mini\n")[0].split("\n")
    assert re.fullmatch(r"# [A-Z].{20,80}\.", head)
    assert rest[0] == "#" and "mini" in "".join(rest)
    assert f"outputs: {name}.out.jsonl" in bundled_jobs()[name].read_text()


@pytest.mark.parametrize("name", ["summarize"])
def test_summarize_asks_for_one_line(job):
    pool = job.cells[0].examples.pool[:1]
    cell = replace(job.cells[0], examples=replace(job.cells[0].examples, pool=pool), room=10_000)
    made = prompt(Row(0, 1, "a", "a", {"text": "It rained."}), cell, ByteTokenizer(), "error")
    assert ByteTokenizer().decode(made.ids) == (
        "Summarise each text in one sentence.\n\n"
        "Text: The old mill in Ashford burned down on Friday evening. Nobody was hurt. "
        "Firefighters worked for five hours. Anna Moss, who lives next to it, saw the smoke "
        "first.\nSummary: The old mill in Ashford burned down.\n\n"
        "Text: It rained.\nSummary:"
    )
    assert cell.stop["strings"] == ["\n"]


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_right(ran, name):
    assert [row["text"] for row in ran] == ANSWERS[name].split("|")


@pytest.mark.parametrize("name", ["classify"])
def test_every_answer_is_a_label_and_as_many_are_right_as_it_says(ran):
    said = [row["text"] for row in ran]
    assert set(said) <= {f"{colour}." for colour in COLOURS}
    assert sum(a == f"{b}." for a, b in zip(said, COLOURS, strict=True)) == 9


@pytest.mark.parametrize("name", ["extract"])
def test_every_answer_is_json_of_the_schema(ran):
    for row in ran:
        assert row["finish_reason"] == "constraint_done"
        found = json.loads(row["text"])
        assert list(found) == ["person", "what", "colour", "thing", "city", "day"]
        assert found["what"] in ("lost", "found") and found["day"].endswith("day")
        assert row["text"] == json.dumps(found)  # written as the examples are


@pytest.mark.parametrize("name", ["rewrite"])
def test_every_answer_has_the_form_of_a_polite_request(ran):
    for row in ran:
        assert re.fullmatch("(Could|Would) you [a-z ]{4,60}, please[?]", row["text"])


@pytest.mark.parametrize("name", ["translate", "story"])
def test_answers_are_a_line_each(ran, name):
    assert all("\n" not in row["text"] and row["text"] for row in ran)
    if name == "story":
        assert {row["finish_reason"] for row in ran} == {"stop_token"}


@pytest.mark.parametrize("name", ["score"])
def test_what_mini_knows_is_likelier_than_the_same_jumbled_or_wrong(ran):
    found = {row["id"]: row["bits_per_byte"] for row in ran}
    for good in ("news", "sport", "story"):
        assert found[good] < found[f"{good}-jumbled"]
    assert found["fact"] < found["fact-wrong"]
    assert max(found[name] for name in ("news", "sport", "story")) < found["far"] < found["french"]
