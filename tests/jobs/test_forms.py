"""Whole jobs over files of every form: several inputs, pipes, and what is left of a stopped one."""

from __future__ import annotations

import io
import json
import sys

import pytest

from gptkit import assembly
from gptkit.cli import main
from gptkit.jobs.events import Progress, Resumed
from gptkit.jobs.forms import compression_of, form_of
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.readers import read_rows
from gptkit.jobs.run import run
from gptkit.plugin_host import registry
from tests.jobs.tables import write
from tests.jobs.workshop import Workshop


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture
def job(workshop):
    """Return a function that runs a small job over a file and gives its exit code."""

    def run(name, data, **changes):
        write(workshop.folder, data, name)
        path = workshop.job(**{"inputs": f'"{name}"', "stop": "{max_new_tokens: 2}", **changes})
        return main(["run", str(path), "--device", "cpu"])

    return run


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("a.JSONL", "jsonl", None),
        ("b.ndjson.gz", "jsonl", "gzip"),
        ("c.csv.ZST", "csv", "zstd"),
        ("d.tsv", "tsv", None),
        ("e.parquet", "parquet", None),
        ("f.txt.gz", "text", "gzip"),
    ],
)
def test_a_name_says_its_form(name, kind, compression):
    form = form_of(name)
    assert (form.kind, form.compression) == (kind, compression)


@pytest.mark.parametrize("name", ["a", "a.gz", "a.json", "jsonl", "a.parquet.gz", "a.csv.bz2"])
def test_or_says_none(name):
    assert form_of(name) is None
    assert compression_of("a.csv.bz2") == ("a.csv.bz2", None)


@pytest.mark.parametrize("form", ["csv", "tsv.gz", "parquet", "jsonl.zst"])
def test_a_job_gives_the_same_rows_in_every_form(workshop, job, form):

    data = b'{"id": 1, "text": "one"}\n{"id": 2}\n{"id": 3, "text": "t, \\"x\\"\\nz"}\n'
    changes = {"keep": "[text]", "n": "2", "logprobs": "1", "fields": "{text: text}"}
    assert job("in.jsonl", data, **changes) == 4
    plain = workshop.out()
    assert job("in.jsonl", data, outputs=f"out.{form}", **changes) == 4
    found = [row.fields for row in read_rows(workshop.folder / f"out.{form}")]
    if "jsonl" in form:
        assert found == plain
        return
    for row, line in zip(found, plain, strict=True):
        assert [int(row["index"]), int(row["id"])] == [line["index"], line["id"]]
        assert (row["fields_text"] or None) == line["fields"]["text"]
        samples = row["samples"] or None
        if isinstance(samples, str):
            samples = json.loads(samples)
        assert samples == line.get("samples")
        assert (row["error_type"] or None) == line.get("error", {}).get("type")


def test_a_job_of_a_pipe_needs_no_journal(workshop, capsys, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"text\none\ntwo\n")

    path = workshop.job(inputs='"-.csv"')
    assert main(["run", str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "gptkit: error: inputs: standard input is no file",
        "  hint: rows are read more than once: write them to a file, or use --no-resume",
    ]
    monkeypatch.setattr(sys, "stdin", Stdin)
    write(workshop.folder, "of another run", "out.jsonl.journal")
    assert main(["run", str(path), "--no-resume"]) == 0
    assert [row["finish_reason"] for row in workshop.out()] == ["length", "length"]
    names = sorted(path.name for path in workshop.folder.glob("out.*"))
    assert names == ["out.jsonl", "out.jsonl.journal.1", "out.jsonl.manifest.json"]
    manifest = json.loads((workshop.folder / "out.jsonl.manifest.json").read_bytes())
    assert manifest["inputs"] == {"files": ["stdin"], "rows": 2}
    for option in ("--restart", "--retry-errors"):
        assert main(["run", str(path), "--no-resume", option]) == 2


def test_inputs_of_the_command_line_are_from_the_working_directory(workshop, capsys, monkeypatch):
    path = workshop.job(rows=[{"text": "of the job"}], keep="[text]")
    here = workshop.folder / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write(here, "text\na\n", "a.csv")
    write(here, "b\n", "b.txt")
    assert main(["run", str(path), "--input", "a.csv", "--input", "*.txt"]) == 0
    out = Workshop(here, None).out()
    assert [row["fields"] for row in out] == [{"text": "a"}, {"text": "b"}]


# A job that was stopped -----------------------------------------------------------------------


def load(plugins):
    return lambda source: assembly.load_model(source, plugins, device="cpu")


@pytest.mark.parametrize("form", ["csv", "tsv.gz", "parquet", "jsonl.zst"])
def test_a_stopped_job_ends_with_the_same_bytes(workshop, plugins, form):
    rows = [{"id": f"r{i}", "text": "x" * (i % 7 + 1)} for i in range(20)]
    path = workshop.job(rows=rows, keep="[text]", logprobs="1")
    whole, halted = workshop.folder / f"whole.{form}", workshop.folder / f"halted.{form}"
    list(run(prepare(path, plugins, Given(outputs=whole)), load(plugins)))
    for stop_at in (3, 11):
        events = run(prepare(path, plugins, Given(outputs=halted)), load(plugins))
        for event in events:
            if isinstance(event, Progress) and event.n_done >= stop_at:
                break
        events.close()
        assert not halted.exists()
    first, *_ = run(prepare(path, plugins, Given(outputs=halted, batch_size=3)), load(plugins))
    assert isinstance(first, Resumed) and 11 <= first.n_done < 20
    assert halted.read_bytes() == whole.read_bytes()


def test_a_file_more_of_a_pattern_is_computed_alone(workshop, plugins):
    write(workshop.folder, '{"text": "a"}\n{"text": "b"}\n', "in1.jsonl")
    path = workshop.job(inputs='"in*.*"')
    list(run(prepare(path, plugins), load(plugins)))
    before = workshop.out()
    write(workshop.folder, "text\nc\n", "in0.csv")
    events = list(run(prepare(path, plugins), load(plugins)))
    assert events[0].n_done == 2
    after = workshop.out()
    assert [row["index"] for row in after] == [0, 1, 2]
    assert [(row["text"], row["seed"]) for row in after[1:]] == [
        (row["text"], row["seed"]) for row in before
    ]


def test_the_form_of_an_input_changes_no_row_that_has_an_id(workshop, plugins):
    write(workshop.folder, '{"id": "a", "text": "x"}\n', "in.jsonl")
    write(workshop.folder, "text,id\nx,a\n", "in.csv")
    path = workshop.job()
    outs = []
    for name in ("in.jsonl", "in.csv"):
        given = Given(inputs=(name,), outputs=workshop.folder / f"{name}.jsonl")
        list(run(prepare(path, plugins, given), load(plugins)))
        outs.append((workshop.folder / f"{name}.jsonl").read_bytes())
    assert outs[0] == outs[1]
