"""The jobs that ship: each is complete, and renders."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gptkit.jobs.fields import texts
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.rows import read_rows
from gptkit.jobs.spec import bundled_jobs
from gptkit.plugin_host import registry
from gptkit.text.prompting import few_shot
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
        fields = texts(row.fields, job.wanted, job.columns)
        made = few_shot(job.template, job.examples, fields, ByteTokenizer(), room=100_000)
        assert made.n_examples == len(job.examples)


@pytest.mark.parametrize("name", ["summarize"])
def test_summarize_asks_for_one_line(job):
    job = replace(job, examples=job.examples[:1])
    made = few_shot(job.template, job.examples, {"text": "It rained."}, ByteTokenizer(), 10_000)
    assert ByteTokenizer().decode(made.ids) == (
        "Summarise each text in one sentence.\n\n"
        "Text: The old mill in Ashford burned down on Friday evening. Nobody was hurt. "
        "Firefighters worked for five hours. Anna Moss, who lives next to it, saw the smoke "
        "first.\nSummary: The old mill in Ashford burned down.\n\n"
        "Text: It rained.\nSummary:"
    )
    assert job.stop["strings"] == ["\n"]
