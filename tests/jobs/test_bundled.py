"""The jobs that ship: each is complete, and renders."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.prompts import prompt
from gptkit.jobs.rows import Row, read_rows
from gptkit.jobs.spec import bundled_jobs
from gptkit.plugin_host import registry
from tests.fakes import ByteTokenizer


@pytest.fixture
def job(workshop, tiny, name):
    return prepare(bundled_jobs()[name], registry(), Given(model=str(tiny)))


@pytest.mark.parametrize("name", bundled_jobs())
def test_a_bundled_job_renders_each_of_its_rows(job, name):
    assert job.scan.n_rows > 0
    assert bundled_jobs()[name].read_text().startswith("# ")
    for row in read_rows(job.inputs):
        assert row.fault is None
        assert row.id is not None
        cell = replace(job.cells[0], room=100_000)
        made = prompt(row, cell, ByteTokenizer(), "error")
        assert made.n_examples == len(cell.examples.pool)


@pytest.mark.parametrize("name", ["summarize"])
def test_summarize_asks_for_one_line(job):
    (cell,) = job.cells
    cell = replace(cell, examples=replace(cell.examples, k=1), room=10_000)
    made = prompt(Row(0, 1, "a", "a", {"text": "It rained."}), cell, ByteTokenizer(), "error")
    assert ByteTokenizer().decode(made.ids) == (
        "Summarise each text in one sentence.\n\n"
        "Text: The old mill in Ashford burned down on Friday evening. Nobody was hurt. "
        "Firefighters worked for five hours. Anna Moss, who lives next to it, saw the smoke "
        "first.\nSummary: The old mill in Ashford burned down.\n\n"
        "Text: It rained.\nSummary:"
    )
    assert cell.stop["strings"] == ["\n"]
