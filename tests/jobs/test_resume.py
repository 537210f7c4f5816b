"""Going on: what is done is kept and the output is the same, or it is refused with the reason."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptkit import assembly
from gptkit.errors import ConfigError, ResourceError, ResumeRefused
from gptkit.jobs import engine, fingerprint, runtime
from gptkit.jobs.events import Finished, Note, Progress, Resumed, Started
from gptkit.jobs.journal import Journal
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.run import run
from gptkit.jobs.runtime import How
from gptkit.plugin_host import registry
from tests.jobs.test_batch import Cramped
from tests.jobs.workshop import save_tiny

N = 24
WORDS = "a small boat came home late and nobody on the quay had seen the storm.".split()


@pytest.fixture(scope="module")
def plugins():
    return registry()


def varied(n=N, ids=True):
    draw = random.Random(3)
    rows = [{"id": f"r{i}", "text": " ".join(draw.choices(WORDS, k=8))} for i in range(n)]
    return rows if ids else [{"text": row["text"]} for row in rows]


class Runs:
    """Runs a job again and again, as a user would who repeats a command."""

    def __init__(self, workshop, plugins):
        self.workshop, self.plugins = workshop, plugins
        self.folder = workshop.folder
        self.output = workshop.folder / "out.jsonl"
        self.journal = workshop.folder / "out.jsonl.journal"
        self.manifest = workshop.folder / "out.jsonl.manifest.json"

    def source(self):
        return assembly.open_model(str(self.workshop.model))

    def start(self, how=None, change=None, **given):
        job = prepare(self.folder / "job.yaml", self.plugins, Given(**{"batch_size": 4, **given}))

        def load(source):
            model = assembly.load_model(source, self.plugins, device="cpu")
            return change(model) if change else model

        return run(job, load, how)

    def stop(self, n, **given):
        """Run until n rows are done, at least; return how many are."""
        events = self.start(**given)
        for event in events:
            if isinstance(event, Progress) and event.n_done >= n:
                break
        events.close()
        return event.n_done

    def finish(self, how=None, change=None, **given):
        """Run to the end; return the last progress, and the events by kind."""
        events = list(self.start(how, change, **given))
        by_kind = {type(event): event for event in events}
        assert isinstance(events[-1], Finished)
        return by_kind[Progress], by_kind

    def restart(self, **given):
        return self.finish(How(restart=True), restart=True, **given)


@pytest.fixture
def job(workshop, plugins):
    workshop.job(rows=varied())
    return Runs(workshop, plugins)


def refused(job, match, how=None, **given):
    before = job.journal.read_bytes() if job.journal.exists() else None
    with pytest.raises(ResumeRefused, match=match) as caught:
        list(job.start(how, **given))
    assert caught.value.exit_code == 5 and caught.value.hint
    assert (job.journal.read_bytes() if job.journal.exists() else None) == before
    return caught.value


# The same output


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("chain", ["greedy", "temperature: 0.9"])
def test_a_job_that_was_stopped_gives_the_same_bytes(workshop, plugins, batch_size, chain):
    workshop.job(rows=varied(), sampling=f"{{seed: 7, chain: [{chain}]}}")
    job = Runs(workshop, plugins)
    job.finish(batch_size=3)
    expected = job.output.read_bytes()
    for path in (job.output, job.journal, job.manifest):
        path.unlink()
    n = 0
    while n < N - 8:
        done = job.stop(n + 3, batch_size=batch_size)
        assert n < done and not job.output.exists()
        n = done
    progress, events = job.finish(batch_size=batch_size)
    assert (events[Resumed].n_done, events[Started].n_rows) == (n, N - n)
    assert (progress.n_resumed, progress.n_ok) == (n, N)
    assert job.output.read_bytes() == expected


def test_a_journal_with_all_rows_needs_no_model(job):
    job.finish()
    expected = job.output.read_bytes()
    job.output.unlink()
    progress, events = job.finish()
    assert Started not in events and events[Resumed].n_done == N
    assert job.output.read_bytes() == expected


def test_a_finished_job_is_left_alone(job):
    done, _ = job.finish()
    before = [path.stat().st_mtime_ns for path in (job.output, job.journal, job.manifest)]
    progress, events = job.finish()
    assert events[Finished].was_there and set(events) == {Progress, Finished}
    assert (progress.n_ok, progress.n_rows, progress.n_resumed) == (N, N, N)
    assert [p.stat().st_mtime_ns for p in (job.output, job.journal, job.manifest)] == before
    job.journal.unlink()  # which is allowed once the output is there
    assert job.finish()[1][Finished].was_there


def test_a_seed_that_was_drawn_is_drawn_once(workshop, plugins):
    workshop.job(rows=varied(), sampling="{chain: [temperature: 0.9]}")
    job = Runs(workshop, plugins)
    job.stop(5)
    job.finish()
    said = json.loads(job.manifest.read_text())
    assert said["fingerprint"]["cells"][0]["seed"] == said["drawn_seed"]
    assert job.finish()[1][Finished].was_there
    job.restart()
    assert json.loads(job.manifest.read_text())["drawn_seed"] != said["drawn_seed"]


# Another job


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"sampling": "{seed: 7, chain: [temperature: 0.8]}"}, "temperature 0.9 -> 0.8"),
        ({"sampling": "{seed: 8, chain: [temperature: 0.9]}"}, "seed 7 -> 8"),
        ({"sampling": "{seed: 7, chain: [greedy]}"}, "chain temperature sample -> greedy"),
        ({"stop": "{max_new_tokens: 13}"}, "max_new_tokens 12 -> 13"),
        ({"stop": '{strings: ["!"], max_new_tokens: 12}'}, r"strings unset -> .*\[\"!\"\]"),
        (
            {"template": '{item: "Question: $text\\nA: $answer", output: answer}'},
            r"template .*Q: .* -> .*Question",
        ),
        ({"examples": "[{text: x, answer: y}]"}, "examples.number 0 -> 1, examples.sha256 "),
        ({"fields": "{text: body}"}, "fields.text unset -> body"),
        ({"on_overflow": "truncate_left"}, "on_overflow error -> truncate_left"),
        ({"n": "2"}, "n 1 -> 2"),
        ({"logprobs": "3"}, "logprobs none -> 3"),
        ({"sampling": None, "matrix": "{seed: [1, 2]}"}, "cells one -> seed=1; seed=2"),
    ],
)
def test_another_job_is_refused_with_the_difference(workshop, plugins, changes, difference):
    rows = [{**row, "body": row["text"]} for row in varied()]
    workshop.job(rows=rows)
    job = Runs(workshop, plugins)
    job.stop(3)
    workshop.job(**changes)
    refused(job, f"^out.jsonl.journal belongs to a different job: {difference}")
    workshop.job()
    job.finish()
    job.journal.unlink()
    workshop.job(**changes)
    refused(job, f"^out.jsonl belongs to a different job: {difference}")


def test_what_changes_no_answer_is_no_difference(job, workshop):
    job.stop(3)
    text = (workshop.folder / "in.jsonl").read_text()
    (workshop.folder / "moved.jsonl").write_text(text)
    workshop.job(inputs="moved.jsonl", batch_size="7", on_bad_row="error_row")
    assert job.finish()[1][Resumed].n_done >= 3


def test_a_job_that_has_computed_nothing_binds_nobody(job, workshop):
    events = job.start()
    assert isinstance(next(events), Started)
    events.close()
    assert job.journal.read_bytes().count(b"\n") == 1
    workshop.job(stop="{max_new_tokens: 5}")
    progress, events = job.finish()
    assert progress.n_ok == N and Resumed not in events


def test_another_model_in_its_place_is_refused(workshop, plugins, tmp_path):
    model = save_tiny(tmp_path / "model")
    workshop.job(rows=varied(), model=str(model))
    job = Runs(workshop, plugins)
    job.stop(3)
    model.rename(tmp_path / "renamed")
    workshop.job(model=str(tmp_path / "renamed"))
    job.stop(8)  # it is the same by another name
    shutil.rmtree(tmp_path / "renamed")
    save_tiny(tmp_path / "renamed", seed=2)
    refused(job, r"different job: model model \(\w{8}\) -> renamed \(\w{8}\)$")


def test_another_tokenizer_is_refused(workshop, plugins, tmp_path):
    model = save_tiny(tmp_path / "model")
    workshop.job(rows=varied(), model=str(model))
    job = Runs(workshop, plugins)
    job.stop(3)
    (file,) = [path for path in (model / "tokenizer").iterdir() if path.is_file()]
    file.write_bytes(file.read_bytes() + b"\n")
    manifest = model / "manifest.json"
    manifest.unlink()  # whose sizes would be wrong
    refused(job, "different job: tokenizer.sha256 ")


def test_another_version_is_refused(job, monkeypatch):
    job.stop(3)
    monkeypatch.setattr(fingerprint, "__version__", "0.1.9")
    job.stop(8)
    monkeypatch.setattr(fingerprint, "__version__", "0.2.0")
    refused(job, "different job: gptkit 0.1 -> 0.2")


def test_a_local_plugin_that_was_changed_is_refused(workshop, tmp_path):
    file = tmp_path / "colder.py"
    code = """
from gptkit.plugin_api import Sampler, hookimpl
class Colder(Sampler):
    "Twice as sure."
    name, phase = "colder", "scale"
    def apply(self, logits, p, rows):
        return logits * 2
@hookimpl
def gptkit_samplers():
    yield Colder
"""
    from gptkit import plugin_host

    def found():
        return plugin_host.index(plugin_host.load(plugin_host.discover(files=[str(file)])))

    file.write_text(code)
    workshop.job(rows=varied(), sampling="{seed: 7, chain: [colder]}")
    Runs(workshop, found()).stop(3)
    Runs(workshop, found()).stop(8)
    file.write_text(code.replace("* 2", "* 3"))
    refused(Runs(workshop, found()), "different job: plugins.colder.py sha256 .* -> ")


def test_another_dtype_or_device_is_refused(job, monkeypatch):
    job.stop(3)
    assert (
        "--dtype float32 goes on"
        in refused(job, "dtype float32 -> bfloat16", How(dtype="bfloat16")).hint
    )
    refused(job, "device cpu -> cuda", How(device="cuda"))
    refused(job, "backend .* -> numpy", How(backend="numpy"))
    backend, *_ = assembly.place(job.source(), "auto", "auto", "auto")
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "place", lambda *_: (backend, "cuda:0", "bfloat16"))
        refused(job, "device cpu -> cuda")
    assert job.finish(How(dtype="float32", device="cpu", backend=backend))


def test_threads_are_those_of_the_first_run(job, monkeypatch):
    job.stop(3)
    torch.set_num_threads(2)
    try:
        seen = []

        def count(model):
            seen.append(torch.get_num_threads())
            return model

        monkeypatch.setattr(engine, "batch_of", lambda *a, f=engine.batch_of: (count(0), f(*a))[1])
        _, events = job.finish()
        assert seen == [1] and torch.get_num_threads() == 2
        assert events[Note].text == "computing with 1 thread, as this job began; here it would be 2"
    finally:
        torch.set_num_threads(1)


def test_other_versions_are_told(job, monkeypatch):
    job.stop(3)
    monkeypatch.setattr(torch, "__version__", "9.9.0")
    if assembly.place(job.source(), "auto", "auto", "auto")[0] == "cpu":
        monkeypatch.setattr(runtime, "version", lambda name: "7.7")
    notes = [event.text for event in job.start() if isinstance(event, Note)]
    assert "this is 9.9.0: where two tokens are nearly equal" in notes[0]
    assert all("began with numba" in note and "this is 7.7" in note for note in notes[1:])


# Another input


def test_added_rows_are_computed_alone(job, workshop):
    job.finish()
    expected = workshop.out()
    rows = varied(N + 6)
    workshop.rows(rows[:3] + rows[N:] + rows[3:N])
    progress, events = job.finish()
    assert (events[Started].n_rows, events[Resumed].n_done, progress.n_ok) == (6, N, N + 6)
    out = workshop.out()
    assert [row["index"] for row in out] == list(range(N + 6))
    assert [row["id"] for row in out] == [row["id"] for row in rows[:3] + rows[N:] + rows[3:N]]
    kept = [{**row, "index": 0} for row in out[:3] + out[9:]]
    assert kept == [{**row, "index": 0} for row in expected]
    got = job.output.read_bytes()
    job.restart()
    assert job.output.read_bytes() == got


def test_rows_without_ids_may_be_added_at_the_end(job, workshop):
    workshop.rows(varied(ids=False))
    job.stop(7)
    workshop.rows(varied(N + 2, ids=False))
    job.finish()
    got = job.output.read_bytes()
    job.restart()
    assert job.output.read_bytes() == got


def test_rows_may_be_sorted_where_they_have_ids(job, workshop):
    job.stop(9)
    workshop.rows(varied()[::-1])
    _, events = job.finish()
    assert events[Resumed].n_done >= 9 and events[Resumed].n_gone == 0
    assert [row["id"] for row in workshop.out()] == [f"r{i}" for i in reversed(range(N))]
    got = job.output.read_bytes()
    job.restart()
    assert job.output.read_bytes() == got


@pytest.mark.parametrize("ids", [True, False])
def test_deleted_rows_are_left_out(job, workshop, ids):
    workshop.rows(varied(ids=ids))
    job.finish()
    workshop.rows(varied(ids=ids)[: N - 4])
    progress, events = job.finish()
    assert events[Resumed].n_gone == 4 and Started not in events
    assert progress.n_rows == len(workshop.out()) == N - 4
    workshop.rows(varied(ids=ids))
    _, events = job.finish()
    assert events[Resumed].n_gone == 0 and Started not in events


def test_a_changed_row_is_refused_by_its_id(job, workshop):
    job.stop(6)
    with Journal.open(job.journal) as journal:
        done = {record["row"]["index"] for _, record in journal.rows()}
    for i in (min(done), min(set(range(N)) - done)):
        rows = varied()
        rows[i] = {"id": f"r{i}", "text": "other"}
        workshop.rows(rows)
        if i in done:
            said = f"^.*in.jsonl:{i + 1}: row 'r{i}' was changed since it was computed"
            assert "--restart" in refused(job, said).hint
    assert job.finish()[0].n_ok == N  # of the second one nothing was known yet


@pytest.mark.parametrize("change", ["other", "deleted", "duplicated", "swapped"])
def test_a_changed_row_without_id_is_refused_by_its_line(job, workshop, change):
    rows = varied(ids=False)
    workshop.rows(rows)
    job.finish()
    changed = {
        "other": [rows[0], {"text": "other"}, *rows[2:]],
        "deleted": [rows[0], *rows[2:]],
        "duplicated": [rows[0], rows[0], *rows[1:]],
        "swapped": [rows[0], rows[2], rows[1], *rows[3:]],
    }[change]
    workshop.rows(changed)
    refused(job, "in.jsonl:2: this line was changed since it was computed")


def test_a_duplicated_id_is_refused_before_that(job, workshop):
    job.stop(8)
    workshop.rows([*varied(), varied()[3]])
    with pytest.raises(ConfigError, match="r3"):
        list(job.start())


# Errors again


def test_errors_of_computing_are_computed_again_when_asked_to(job, workshop):
    rows = varied()
    rows[1] = {"id": "r1"}
    rows[2]["text"] = "long " * 18
    rows[3]["text"] = "\u2603"
    workshop.rows(rows)

    def cramp(model):
        short = lambda spans: all(s.start + s.n < 90 for s in spans)  # noqa: E731
        return replace(model, forward=Cramped(model.forward, short, MemoryError()))

    failed, _ = job.finish(change=cramp)
    expected = {"missing_field": 1, "request_error": 1}
    assert failed.failures == {**expected, "resource_error": 1}
    again, events = job.finish()
    assert events[Finished].was_there and again.failures == failed.failures
    progress, events = job.finish(How(retry_errors=True))
    assert events[Started].n_rows == 1 and progress.failures == expected
    assert (progress.n_ok, progress.n_resumed) == (N - 2, N - 1)
    got = job.output.read_bytes()
    assert job.finish(How(retry_errors=True))[1][Finished].was_there
    job.restart()
    assert job.output.read_bytes() == got


def test_a_row_that_had_an_error_may_be_put_right(job, workshop):
    rows = varied()
    rows[1] = {"id": "r1"}
    workshop.rows(rows)
    assert job.finish()[0].n_failed == 1
    rows[1] = varied()[1]
    workshop.rows(rows)
    refused(job, "row 'r1' was changed")
    progress, events = job.finish(How(retry_errors=True))
    assert (progress.n_ok, events[Started].n_rows) == (N, 1)
    assert job.finish()[1][Finished].was_there


# Files that are in the way


def test_an_output_of_somebody_else_is_refused(job):
    job.output.write_text("precious")
    refused(job, "^out.jsonl is there already, and this job did not write it")
    assert job.output.read_text() == "precious"
    progress, _ = job.restart()
    assert progress.n_ok == N and len(job.output.read_bytes().splitlines()) == N


@pytest.mark.parametrize("name", ["out.jsonl.journal", "out.jsonl.manifest.json"])
def test_a_file_of_somebody_else_is_not_touched(job, name):
    (job.folder / name).write_text('{"mine": 1}\n')
    refused(job, f"^{name} is in the way: it was not written by gptkit")
    assert (job.folder / name).read_text() == '{"mine": 1}\n'
    job.restart()
    assert (job.folder / f"{name}.1").read_text() == '{"mine": 1}\n'


@pytest.mark.parametrize("name", ["out.jsonl.journal", "out.jsonl.lock", "out.jsonl.manifest.json"])
def test_an_input_is_never_written_over(job, workshop, name):
    rows = (workshop.folder / "in.jsonl").read_bytes()
    (workshop.folder / "in.jsonl").rename(workshop.folder / f"{name}.jsonl")
    (workshop.folder / name).hardlink_to(workshop.folder / f"{name}.jsonl")
    workshop.job(inputs=f"{name}.jsonl")
    with pytest.raises(ConfigError, match=f"the job would write {name}, which it reads"):
        list(job.start(How(restart=True)))
    assert (workshop.folder / name).read_bytes() == rows


def test_what_a_killed_run_had_begun_to_write_is_removed(job):
    for name in (".out.jsonl.77.tmp", ".out.jsonl.manifest.json.77.tmp"):
        (job.folder / name).write_text("half")
    (job.folder / ".other.jsonl.77.tmp").write_text("half")
    job.finish()
    assert [name for name in os.listdir(job.folder) if name.endswith(".tmp")] == [
        ".other.jsonl.77.tmp"
    ]


def test_an_output_that_was_changed_is_refused(job):
    job.finish()
    expected = job.output.read_bytes()
    job.output.write_bytes(expected + b"mine\n")
    refused(job, "^out.jsonl was changed after it was written")
    job.output.rename(job.folder / "mine.jsonl")
    job.finish()
    assert job.output.read_bytes() == expected
    os.utime(job.output)  # as a copy would have it
    assert job.finish()[1][Finished].was_there


def test_rows_can_t_be_added_without_the_journal(job, workshop):
    job.finish()
    job.journal.unlink()
    workshop.rows(varied(N + 1))
    refused(job, "^out.jsonl.journal is gone, so no row can be added to out.jsonl")


def test_restart_keeps_what_was_there_under_another_name(job, workshop):
    job.stop(5)
    begun = job.journal.read_bytes()
    job.restart()
    assert (job.folder / "out.jsonl.journal.1").read_bytes() == begun
    done = job.journal.read_bytes()
    workshop.job(stop="{max_new_tokens: 3}")
    _, events = job.restart()
    assert events[Note].text == "what was there is out.jsonl.journal.2 now"
    assert (job.folder / "out.jsonl.journal.1").read_bytes() == begun
    assert (job.folder / "out.jsonl.journal.2").read_bytes() == done
    assert (job.folder / "out.jsonl.manifest.json.2").exists()


def test_a_journal_that_lost_its_header_is_refused(job):
    job.stop(5)
    journal = bytearray(job.journal.read_bytes())
    journal[50] ^= 1
    job.journal.write_bytes(journal)
    refused(job, "first line is damaged, so nobody can tell which job it is of")


def test_a_link_stays_a_link_and_has_one_journal(job, tmp_path):
    real = tmp_path / "elsewhere"
    real.mkdir()
    job.output.symlink_to(real / "result.jsonl")
    job.finish()
    assert job.output.is_symlink()
    assert sorted(os.listdir(real)) == [
        "result.jsonl",
        "result.jsonl.journal",
        "result.jsonl.manifest.json",
    ]
    assert job.finish(outputs=Path("elsewhere/result.jsonl"))[1][Finished].was_there


def test_two_runs_at_once_are_refused(job):
    events = job.start()
    next(events)
    refused(job, f"out.jsonl.lock is locked by pid {os.getpid()} since")
    events.close()
    job.finish()


def test_a_disk_without_room_is_told_before_the_model_loads(job, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 5000))
    with pytest.raises(ResourceError, match=r"has 0.0 GB free, this job needs about 0.0"):
        list(job.start(change=lambda model: pytest.fail("the model was loaded")))


# The manifest


def test_the_manifest_tells_what_an_output_was_made_with(job, workshop):
    job.stop(5)
    job.finish()
    said = json.loads(job.manifest.read_text())
    (cell,) = said["fingerprint"]["cells"]
    assert cell["model"]["name"] == "tiny" and len(cell["model"]["sha256"]) == 64
    assert len(cell["tokenizer"]["sha256"]) == 64
    assert cell["chain"][0] == {
        "label": "temperature",
        "sampler": "temperature",
        "values": {"t": 0.9},
    }
    assert "Q: $text" in cell["template"]
    assert said["gptkit"] == fingerprint.__version__
    assert said["rows"] == {
        "n": N,
        "ok": N,
        "failures": {},
        "shortened": 0,
        "retryable": 0,
    }
    assert said["runtime"]["threads"] == 1 and said["runtime"]["torch"] == torch.__version__
    run_ = said["last_run"]
    assert 0 < run_["rows_computed"] < N and run_["new_tokens"] > 0 and run_["compute_s"] > 0
    assert said["job"]["settings"]["stop"] == {"max_new_tokens": 12}
    assert runtime.runtime(prepare(job.folder / "job.yaml", job.plugins), How())["device"] == "cpu"
