"""Workers of a cluster: what they give is what one process gives, whatever happens to them."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest

from gptkit.cli import main
from gptkit.errors import ConfigError, RequestError
from gptkit.jobs import ray_engine
from gptkit.jobs.batch import Result, Step
from gptkit.jobs.events import Finished
from gptkit.jobs.journal import record_of
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.ray_engine import Failure, RayEngine, in_order
from gptkit.jobs.rows import Row
from gptkit.jobs.run import run
from gptkit.jobs.runtime import How
from gptkit.plugin_host import registry
from tests.jobs.test_faults import finish, start, varied, wait_until

RAY = ("--engine", "ray", "--workers", "2")
LONG = {"stop": "{max_new_tokens: 90}", "on_overflow": "truncate_left", "batch_size": "4"}
MATRIX = "{sampler: {cold: [greedy], warm: [{temperature: 0.9}]}}"


def cluster(test):
    """Mark a test that starts one."""
    missing = importlib.util.find_spec("ray") is None
    why = "ray is not installed: pip install 'gptkit[ray]'"
    return pytest.mark.slow(pytest.mark.skipif(missing, reason=why)(test))


def rows_of(journal):
    """Return the index of each row and cell of a journal, in the order in which they came."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    records = [record for record in map(record_of, lines) if record is not None]
    return [(one["cell"], one["row"]["index"]) for one in records if "row" in one]


def processes(of):
    """Return the processes of Ray that a driver has started, by number: what each is called."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        parents[int(folder.name)], names[int(folder.name)] = int(stat[1]), name
    found, new = set(), {of}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return {pid: names[pid] for pid in found}


def workers(driver):
    """Return the numbers of the processes that have a model, of a driver."""
    found = processes(driver.pid)
    return sorted(pid for pid, name in found.items() if name.startswith("ray::MapWorker"))


def is_quiet(err):
    """Return whether all lines are our own."""
    return not any(word in err for word in ("ray", "Traceback", "INFO", "WARN", "ERROR", "\x1b"))


# The same as here


@cluster
def test_two_workers_give_what_one_process_gives(workshop):
    rows = [*varied(60), {"id": "no text", "title": "x"}, {"id": "long", "text": "x" * 500}]
    workshop.job(rows=rows, n="2", logprobs="2", matrix=MATRIX, sampling="{seed: 7}")
    code, err = finish(workshop.folder, "--output", "here.jsonl")
    assert code == 4, err
    code, err = finish(workshop.folder, *RAY)
    assert code == 4 and is_quiet(err.replace("array", "")), err
    assert "2 missing_field" in err and "2 context_overflow" in err
    there, here = (workshop.folder / name for name in ("out.jsonl", "here.jsonl"))
    assert there.read_bytes() == here.read_bytes()
    said = [json.loads(Path(f"{path}.manifest.json").read_text()) for path in (there, here)]
    assert said[0]["rows"] == said[1]["rows"] and said[0]["fingerprint"] == said[1]["fingerprint"]
    assert sorted(rows_of(workshop.folder / "out.jsonl.journal")) == [
        (cell, index) for cell in range(2) for index in range(len(rows))
    ]


@cluster
@pytest.mark.parametrize("task", ["score", "generate"])
def test_other_forms_and_tasks_and_plugins_of_a_file(workshop, task):
    (workshop.folder / "mine.py").write_text(SHOUT)
    workshop.folder.joinpath("in.csv").write_text(
        "id,text,answer\n" + "".join(f'{i},"a boat, {i}",late\n' for i in range(30))
    )
    chain = None if task == "score" else "{seed: 7, chain: [mine, temperature: 0.9]}"
    stop = None if task == "score" else "{max_new_tokens: 8}"
    workshop.job(
        inputs="in.csv", outputs="out.csv", task=task, sampling=chain, stop=stop, batch_size="4"
    )
    env = {"GPTKIT_PLUGINS": str(workshop.folder / "mine.py")}
    code, err = finish(workshop.folder, "--output", "here.csv", **env)
    assert code == 0, err
    code, err = finish(workshop.folder, *RAY, **env)
    assert code == 0, err
    there, here = ((workshop.folder / name).read_bytes() for name in ("out.csv", "here.csv"))
    assert there == here and b"\n29,29," in there


SHOUT = '''
import os
from gptkit.plugin_api import Sampler, hookimpl


class Mine(Sampler):
    """Prefer one token; end the process where a file says so."""

    name, phase = "mine", "bias"

    def init_state(self, request):
        if os.environ.get("POISON") and len(request.prompt) > 100:
            os._exit(1)

    def apply(self, logits, p, rows):
        logits = logits.clone()
        logits[:, 3] += 1.0
        return logits


@hookimpl
def gptkit_samplers():
    yield Mine
'''


@cluster
@pytest.mark.filterwarnings("ignore")  # Ray's, of which there are many
def test_object_storage_is_the_drivers(workshop):
    import fsspec

    memory = fsspec.filesystem("memory")
    rows = workshop.rows(varied(40)).read_bytes()
    memory.pipe_file("/jobs/in.jsonl", rows)
    workshop.job(inputs="memory://jobs/in.jsonl", outputs="memory://jobs/out.jsonl")
    found = registry()
    job = prepare(workshop.folder / "job.yaml", found, Given(batch_size=4))
    with RayEngine(job, How(), workers=2) as engine:
        assert isinstance(list(run(job, None, How(), engine))[-1], Finished)
    assert {path for path in memory.find("/jobs") if "journal" not in path} == {
        *("/jobs/in.jsonl", "/jobs/out.jsonl", "/jobs/out.jsonl.manifest.json")
    }
    workshop.job(outputs="here.jsonl")
    code, err = finish(workshop.folder)
    assert code == 0, err
    assert memory.cat("/jobs/out.jsonl") == (workshop.folder / "here.jsonl").read_bytes()
    memory.rm("/jobs", recursive=True)


# Whatever happens


@cluster
def test_workers_that_are_killed_cost_no_row(workshop):
    workshop.job(rows=varied(160), matrix=MATRIX, sampling="{seed: 7}", **LONG)
    code, err = finish(workshop.folder, "--output", "here.jsonl")
    assert code == 0, err
    journal = workshop.folder / "out.jsonl.journal"
    driver = start(workshop.folder, *RAY)
    wait_until(lambda: len(rows_of(journal)) > 20 and len(workers(driver)) == 2, driver)
    n = len(rows_of(journal))
    for worker in workers(driver):  # one of them may have been about to begin
        os.kill(worker, signal.SIGKILL)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0 and 20 < n < 300, err
    assert err.count("note: a worker was lost, pid") in (1, 2) and is_quiet(err), err
    expected = (workshop.folder / "here.jsonl").read_bytes()
    assert (workshop.folder / "out.jsonl").read_bytes() == expected
    assert len(rows_of(journal)) == 320  # each once


@cluster
@pytest.mark.parametrize("how", ["kill", "ctrl-c"])
def test_a_driver_that_ends_goes_on_where_it_was(workshop, how):
    workshop.job(rows=varied(160), **LONG)
    code, err = finish(workshop.folder, "--output", "here.jsonl")
    assert code == 0, err
    journal = workshop.folder / "out.jsonl.journal"
    driver = start(workshop.folder, *RAY)
    wait_until(lambda: len(rows_of(journal)) > 20, driver)
    began = processes(driver.pid)
    assert any("raylet" in name for name in began.values())
    driver.send_signal(signal.SIGKILL if how == "kill" else signal.SIGINT)
    at = time.monotonic()
    _, err = driver.communicate(timeout=300)
    if how == "ctrl-c":
        assert driver.returncode == 130 and time.monotonic() - at < 10
        assert "run the same command to continue" in err and is_quiet(err), err
    gone = time.monotonic() + 240  # Ray's own helpers take half a minute to see it
    while left := [pid for pid in began if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < gone, {pid: began[pid] for pid in left}
        time.sleep(0.1)
    n = len(rows_of(journal))
    assert 20 < n < 160
    code, err = finish(workshop.folder, *RAY)
    assert code == 0 and f"{160 - n} more rows" in err, err
    expected = (workshop.folder / "here.jsonl").read_bytes()
    assert (workshop.folder / "out.jsonl").read_bytes() == expected
    assert len(rows_of(journal)) == 160  # none twice


@cluster
def test_a_block_that_costs_its_workers_their_lives_ends_the_job(workshop):
    (workshop.folder / "mine.py").write_text(SHOUT)
    rows = [*varied(40), {"id": "poison", "text": "y" * 100}]
    workshop.job(rows=rows, sampling="{seed: 7, chain: [mine, greedy]}", batch_size="4")
    env = {"GPTKIT_PLUGINS": str(workshop.folder / "mine.py"), "POISON": "1"}
    code, err = finish(workshop.folder, *RAY, **env)
    assert code == 6 and "gptkit: error: a worker was lost 4 times" in err, err
    assert "  hint: run the same command to go on" in err
    done = rows_of(workshop.folder / "out.jsonl.journal")
    assert (0, 40) not in done and len(done) >= 20
    code, err = finish(workshop.folder, *RAY, **{**env, "POISON": ""})
    assert code == 0 and len(workshop.out()) == 41, err


@cluster
def test_an_error_of_a_worker_is_one_line_here(workshop):
    workshop.job(rows=[*varied(20), {"id": "long", "text": "x" * 500}], on_error="stop")
    code, err = finish(workshop.folder, *RAY)
    assert code == 2 and is_quiet(err), err
    assert "gptkit: error: row 20 (line 21): " in err and "  hint: `on_error: error_row`" in err
    code, err = finish(workshop.folder, "--engine", "ray", "--address", "127.0.0.1:1")
    assert code == 2 and "--address 127.0.0.1:1: there is no cluster" in err, err


# Without a cluster


@pytest.fixture
def job(workshop):
    return prepare(workshop.job(rows=varied(4)), registry(), Given())


def test_without_ray_one_line_says_what_to_install(workshop, job, monkeypatch, capsys):
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package ray") as caught:
        RayEngine(job, How())
    assert caught.value.hint == "pip install 'gptkit[ray]'"
    assert main(["run", "job.yaml", "--engine", "ray"]) == 2
    assert capsys.readouterr().err.startswith("gptkit: error: --engine ray needs the package ray\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--workers", "2"], "--workers is about many machines"),
        (["--address", "auto"], "--address is about many machines"),
        (["--engine", "rya"], "--engine: 'rya' is none of local, ray"),
        (["--engine", "ray", "--address", "ray://x:1"], "a client of a cluster can't run jobs"),
    ],
)
def test_options_that_make_no_sense(workshop, monkeypatch, capsys, args, said):
    workshop.job(rows=varied(4))
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: object())
    assert main(["run", "job.yaml", *args]) == 2
    assert said in capsys.readouterr().err


def test_a_block_gives_its_results_in_its_order_whenever_they_come():
    rows = [Row(i, i + 1, None, f"k{i}", {"text": "x"}, digest="0") for i in (3, 5, 6, 9, 12)]
    came = [Step((), 1), *(Step((Result(rows[i], {"i": i}),), 2) for i in (4, 1, 0, 3, 2))]
    groups = list(in_order(rows, came, 2))
    found = [([(one.row.index, one.output["i"]) for one in got], n) for got, n in groups]
    assert found == [([(3, 0), (5, 1)], 7), ([(6, 2), (9, 3)], 4), ([(12, 4)], 0)]
    assert not any(one.row.fields for got, _ in groups for one in got)
    assert list(in_order([], [Step((), 1)], 2)) == []


def test_errors_of_other_processes_keep_what_they_are():
    there = Failure.of(RequestError("too long", hint="ask for less"))
    error = there.error()
    assert (type(error), str(error), error.hint) == (RequestError, "too long", "ask for less")
    error = Failure.of(ZeroDivisionError("by\nzero")).error()
    assert str(error).endswith("failed: ZeroDivisionError: by zero") and error.exit_code == 1
    assert "ZeroDivisionError" in str(error.__cause__)
