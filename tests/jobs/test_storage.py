"""Object storage: what is read from there and written to there is what files would have."""

from __future__ import annotations

import copy
import json
import socket
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gptkit import assembly
from gptkit.cli import main
from gptkit.errors import ConfigError, ResourceError, ResumeRefused
from gptkit.jobs import storage
from gptkit.jobs.events import Finished, Note, Progress, Resumed
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.run import run
from gptkit.jobs.runtime import How
from gptkit.plugin_host import registry
from tests.jobs.test_faults import varied

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'gptkit[ray]'")
N = 24


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture
def bucket(workshop, monkeypatch, tmp_path):
    """Give an empty store, from which a job reads and to which it writes."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    workshop.job(rows=varied(N), inputs="memory://b/in.jsonl", outputs="memory://b/out/out.jsonl")
    memory.pipe_file("/b/in.jsonl", (workshop.folder / "in.jsonl").read_bytes())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    yield memory
    memory.store.clear()


class Machine:
    """Runs the job as a machine would that has nothing of it yet."""

    def __init__(self, plugins):
        self.plugins = plugins

    def start(self, how=None, **given):
        job = prepare(Path("job.yaml"), self.plugins, Given(batch_size=4, **given))
        return run(job, lambda source: assembly.load_model(source, self.plugins), how)

    def finish(self, how=None, **given):
        events = list(self.start(how, **given))
        assert isinstance(events[-1], Finished)
        return {type(event): event for event in events}

    def stop(self, n, then=lambda: None):
        events = self.start()
        for event in events:
            if isinstance(event, Progress) and event.n_done >= n:
                break
        then()
        events.close()
        return event.n_done


@pytest.fixture
def machine(plugins):
    return Machine(plugins)


@pytest.fixture
def expected(workshop, bucket, machine):
    """The bytes of an undisturbed run over files."""
    machine.finish(inputs=("in.jsonl",), outputs=Path("here.jsonl"))
    return (workshop.folder / "here.jsonl").read_bytes()


def names(bucket):
    return sorted(name.removeprefix("/b/out/") for name in bucket.find("/b/out"))


def parts(bucket, journal="out.jsonl.journal"):
    return [name for name in names(bucket) if name.startswith(journal + "/")]


def test_a_job_reads_from_there_and_writes_to_there(bucket, machine, expected, tmp_path):
    events = machine.finish()
    assert bucket.cat("/b/out/out.jsonl") == expected
    (part,) = parts(bucket)
    assert names(bucket) == ["out.jsonl", part, "out.jsonl.manifest.json"]
    manifest = json.loads(bucket.cat("/b/out/out.jsonl.manifest.json"))
    assert manifest["inputs"]["files"] == ["memory://b/in.jsonl"]
    before = {name: bucket.modified(f"/b/out/{name}") for name in names(bucket)}
    events = machine.finish()
    assert events[Finished].was_there and events[Progress].n_ok == N
    assert {name: bucket.modified(f"/b/out/{name}") for name in names(bucket)} == before
    del events
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_next_run_goes_on_where_the_last_one_was(bucket, machine, expected):
    n = machine.stop(5)
    assert names(bucket) == parts(bucket) and len(names(bucket)) == 1
    n = machine.stop(n + 5)
    assert len(parts(bucket)) == 2
    events = machine.finish()
    assert events[Resumed].n_done == n < N
    assert bucket.cat("/b/out/out.jsonl") == expected


def test_a_machine_that_is_gone_costs_what_it_had_not_sent(bucket, machine, expected, monkeypatch):
    monkeypatch.setattr(storage, "PART_S", 0.0)
    there = {}
    n = machine.stop(8, lambda: there.update(copy.deepcopy(bucket.store)))
    bucket.store.clear()
    bucket.store.update(there)  # as if it had said no more
    assert parts(bucket)
    with pytest.raises(ResumeRefused, match=r"out\.jsonl\.lock is held by pid \d+ since"):
        machine.finish()
    owner = json.loads(bucket.cat("/b/out/out.jsonl.lock"))
    bucket.pipe("/b/out/out.jsonl.lock", json.dumps({**owner, "pid": 2**22 + 1}).encode())
    events = machine.finish()
    assert "taken over from pid" in events[Note].text
    assert 0 < events[Resumed].n_done <= n
    assert bucket.cat("/b/out/out.jsonl") == expected
    assert "out.jsonl.lock" not in names(bucket)


def test_a_lock_of_another_host_is_given_up_after_a_while(bucket, machine):
    owner = {"pid": 1, "host": f"not-{socket.gethostname()}", "since": "2026-01-01T00:00:00"}
    bucket.pipe_file("/b/out/out.jsonl.lock", json.dumps(owner).encode())
    with pytest.raises(ResumeRefused, match=f"on host not-{socket.gethostname()}") as caught:
        machine.finish()
    assert "10 minutes after its end" in caught.value.hint
    bucket.store["/b/out/out.jsonl.lock"].modified = datetime.now(UTC) - timedelta(minutes=11)
    assert "taken over" in machine.finish()[Note].text


def test_two_runs_can_not_both_have_it(bucket, machine):
    events = machine.start()
    next(events)
    with pytest.raises(ResumeRefused, match="is held by pid"):
        next(machine.start())
    events.close()
    late = machine.start()  # which has looked at what is there, and no more
    machine.stop(5)
    with pytest.raises(ResumeRefused, match="was changed while this run began"):
        next(late)


def test_a_run_whose_lock_was_taken_ends(bucket, machine, monkeypatch):
    monkeypatch.setattr(storage, "BEAT_S", 0.01)
    events = machine.start()
    owner = {"pid": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00"}
    with pytest.raises(ResumeRefused, match="was taken by another run"):
        for event in events:
            if isinstance(event, Progress):
                bucket.pipe_file("/b/out/out.jsonl.lock", json.dumps(owner).encode())
                time.sleep(0.05)
    assert json.loads(bucket.cat("/b/out/out.jsonl.lock")) == owner and parts(bucket) == []


def test_a_part_that_is_gone_is_computed_again(bucket, machine, expected, monkeypatch):
    monkeypatch.setattr(storage, "PART_S", 0.0)
    machine.stop(12)
    there = parts(bucket)
    assert len(there) >= 3
    bucket.rm_file(f"/b/out/{there[2]}")
    events = machine.finish()
    assert 0 < events[Resumed].n_done < 12
    assert bucket.cat("/b/out/out.jsonl") == expected
    machine.finish(How(retry_errors=True))  # the parts are a journal again
    stops = [name.rpartition("/")[2].split("-") for name in parts(bucket)]
    assert [stop for _, stop in stops[:-1]] == [start for start, _ in stops[1:]]


def test_a_part_that_is_damaged_is_set_aside(bucket, machine, expected):
    machine.stop(12)
    (part,) = parts(bucket)
    bucket.pipe_file(f"/b/out/{part}", bucket.cat(f"/b/out/{part}")[:-100] + b"x" * 100)
    events = machine.finish()
    assert events[Resumed].n_cut_bytes >= 100
    assert bucket.cat("/b/out/out.jsonl") == expected
    assert parts(bucket, "out.jsonl.journal.1") and len(parts(bucket)) == 1
    bucket.rm_file("/b/out/out.jsonl")
    events = machine.finish()
    assert events[Resumed].n_done == N and bucket.cat("/b/out/out.jsonl") == expected


def test_restart_sets_aside_and_no_resume_keeps_nothing(bucket, machine, expected):
    machine.stop(12)
    events = machine.finish(How(restart=True), restart=True)
    assert Resumed not in events and bucket.cat("/b/out/out.jsonl") == expected
    assert parts(bucket, "out.jsonl.journal.1")
    events = machine.finish(How(no_resume=True), no_resume=True)
    assert names(bucket) == sorted(
        ["out.jsonl", "out.jsonl.manifest.json", "out.jsonl.manifest.json.2"]
        + parts(bucket, "out.jsonl.journal.1")
        + parts(bucket, "out.jsonl.journal.2")
    )
    assert bucket.cat("/b/out/out.jsonl") == expected


def test_what_others_wrote_there_is_left_alone(bucket, machine):
    bucket.pipe_file("/b/out/out.jsonl", b"mine\n")
    with pytest.raises(ResumeRefused, match=r"memory://b/out/out\.jsonl is there already"):
        machine.finish()
    assert bucket.cat("/b/out/out.jsonl") == b"mine\n"


def test_a_store_that_fails_for_a_while_costs_nothing(bucket, machine, expected, monkeypatch):
    monkeypatch.setattr(storage, "PART_S", 0.0)
    put, calls = type(bucket).pipe_file, []

    def fail(self, path, value, **rest):
        if ".journal/" in path:
            calls.append(path)
            if len(calls) in (2, 3):
                if len(calls) == 3:
                    put(self, path, value, **rest)  # it got there, but nobody knows
                raise OSError("throttled")
        put(self, path, value, **rest)

    monkeypatch.setattr(type(bucket), "pipe_file", fail)
    said = [event.text for event in machine.start() if isinstance(event, Note)]
    assert len(said) == 2 and "throttled; it is tried again in" in said[0]
    assert calls[1] == calls[2] == calls[3]
    assert bucket.cat("/b/out/out.jsonl") == expected
    bucket.rm_file("/b/out/out.jsonl")
    assert machine.finish()[Resumed].n_done == N


def test_a_store_that_fails_for_good_is_said(bucket, machine, monkeypatch):
    def fail(self, *_, **__):
        raise OSError(5, "gone")

    monkeypatch.setattr(type(bucket), "put_file", fail)
    with pytest.raises(ResourceError, match=r"can't write memory://b/out/out\.jsonl: gone"):
        machine.finish()
    monkeypatch.undo()
    assert parts(bucket)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": "memory://b/none.jsonl"}, "can't read memory://b/none.jsonl: "),
        ({"inputs": "memory://b/no*.jsonl"}, "no file matches memory://b/no*.jsonl"),
        ({"inputs": "memory://b/in.pdf"}, "in.pdf is of no form that we read"),
        ({"outputs": "memory://b/in.jsonl"}, "memory://b/in.jsonl is what the job reads"),
        ({"outputs": "nobody://b/out.jsonl"}, "nobody://b/out.jsonl: Protocol not known"),
        ({"outputs": "memory://b/out.pdf"}, "out.pdf is of no form that we write"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_loads(bucket, workshop, capsys, changes, said):
    workshop.job(**{"inputs": "memory://b/in.jsonl", "outputs": "memory://b/o.jsonl", **changes})
    assert main(["run", "job.yaml"]) == 2
    assert said in capsys.readouterr().err


def test_a_pattern_and_a_file_url(bucket, machine, workshop):
    rows = (workshop.folder / "in.jsonl").read_text().splitlines(keepends=True)
    for i in range(3):
        bucket.pipe_file(f"/b/rows-{i}.jsonl", "".join(rows[i * 8 : i * 8 + 8]).encode())
    machine.finish(
        inputs=("memory://b/rows-*.jsonl",), outputs=f"file://{workshop.folder}/three.jsonl"
    )
    machine.finish(inputs=(f"file://{workshop.folder}/in.jsonl",), outputs=Path("one.jsonl"))
    assert (workshop.folder / "three.jsonl").read_bytes() == (
        workshop.folder / "one.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("command", [["--dry-run"], ["--verify", "2"]])
def test_other_uses_of_a_job(bucket, machine, capsys, command):
    machine.finish()
    assert main(["run", "job.yaml", *command]) == 0
    found = capsys.readouterr()
    assert command[0] != "--dry-run" or "memory://b/out/out.jsonl" in found.out + found.err


def test_the_command_says_where_the_output_is(bucket, capsys):
    assert main(["run", "job.yaml", "--output", "memory://b/other.jsonl", "--json"]) == 0
    found = capsys.readouterr()
    assert "written to memory://b/other.jsonl\n" in found.err
    assert json.loads(found.out)["outputs"] == "memory://b/other.jsonl"
    assert bucket.exists("/b/other.jsonl")


def test_without_fsspec_one_line_says_what_to_install(bucket, workshop, monkeypatch, capsys):
    workshop.job(outputs="memory://b/out.jsonl")
    real = storage.importlib.import_module

    def import_module(name):
        if name == "fsspec":
            raise ModuleNotFoundError("No module named 'fsspec'", name="fsspec")
        return real(name)

    monkeypatch.setattr(storage.importlib, "import_module", import_module)
    assert main(["run", "job.yaml"]) == 2
    assert "hint: pip install 'gptkit[ray]'" in capsys.readouterr().err


def test_what_is_a_url():
    assert storage.url_of("s3://b/k.jsonl") == "s3://b/k.jsonl"
    assert storage.url_of(Path("s3://b/k.jsonl")) == "s3://b/k.jsonl"
    for path in ("a.jsonl", "/a/b", "a:b.jsonl", "C:/x.jsonl", "file:///a/b.jsonl", "-"):
        assert storage.url_of(path) is None
    assert storage.path_of("file:///a/b") == Path("/a/b") == storage.path_of(Path("file:///a/b"))
    with pytest.raises(ConfigError, match="http"):
        storage.Remote("httpx://x/y")
