"""`gptkit run`: exit codes, what is shown, and real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gptkit.cli import main
from tests.jobs.test_faults import size, wait_until
from tests.jobs.workshop import Workshop, save_tiny

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROWS = [{"id": i, "text": f"row {i}"} for i in range(5)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def workshop(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Workshop(tmp_path, tiny)


def gptkit(*args, cwd, **environ):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gptkit", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_job_says_what_it_does_and_where_the_rows_are(workshop, capsys):
    assert main(["run", str(workshop.job(rows=ROWS)), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "5 rows, model tiny (cpu, float32), sampling temperature=0.9 sample, seed 7" in err
    assert "5 ok" in err and "written to out.jsonl" in err
    assert len(workshop.out()) == 5


def test_options_win_over_the_file(workshop, capsys):
    workshop.rows(ROWS[:2], "other.jsonl")
    args = ["--input", "other.jsonl", "--output", "else.jsonl", "-s", "greedy", "--seed", "3"]
    args += ["--max-new-tokens", "4", "--batch-size", "2", "--set", "on_overflow=truncate_left"]
    args += ["--stop", "q", "--json"]
    assert main(["run", str(workshop.job(rows=ROWS)), *args]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["ok"], summary["failed"]) == (2, 2, 0)
    assert (summary["seed"], summary["chain"]) == (3, ["temperature=0.9", "greedy"])
    assert summary["outputs"] == "else.jsonl"
    assert all(row["new_tokens"] <= 4 for row in workshop.out("else.jsonl"))


def test_failed_rows_give_exit_4(workshop, capsys):
    rows = [*ROWS, {"id": "x", "text": "\u2603"}, {"id": "y"}]
    assert main(["run", str(workshop.job(rows=rows))]) == 4
    err = capsys.readouterr().err
    assert "5 ok, 2 failed (see error.type), 1 missing_field, 1 request_error" in err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["nosuchjob"], 2, "no such job: nosuchjob"),
        (["job.yaml", "-s", "temperature=nan"], 2, "temperature: nan is not a number"),
        (["job.yaml", "--seed", "-1"], 2, "--seed must be a whole number"),
        (["job.yaml", "--stop", ""], 2, "--stop must not be empty"),
        (["job.yaml", "--max-new-tokens", "-3"], 2, "max_new_tokens: -3 is below 0"),
        (["job.yaml", "--on-overflow", "cut"], 2, "--on-overflow: 'cut' is none of"),
        (["job.yaml", "--set", "temprature=1"], 2, "unknown key 'temprature'"),
        (["job.yaml", "--output", "in.jsonl"], 2, "is the file that the job reads"),
        (["job.yaml", "-m", "./gtp2"], 3, "gtp2"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(workshop, capsys, args, code, said):
    workshop.job(rows=ROWS)
    assert main(["run", *args]) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err.splitlines()[0]
    assert not (workshop.folder / "out.jsonl").exists()


def test_no_rows_are_no_error(workshop, capsys):
    assert main(["run", str(workshop.job(rows=[]))]) == 0
    assert "0 rows; written to out.jsonl" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_takes_no_file_gives_exit_6(workshop, capsys):
    path = workshop.job(rows=ROWS)
    workshop.folder.chmod(0o500)
    try:
        assert main(["run", str(path)]) == 6
    finally:
        workshop.folder.chmod(0o700)
    assert "Permission denied" in capsys.readouterr().err


def test_a_mistake_is_found_without_torch(workshop):
    workshop.job(rows=[{"title": "x"}])
    code = (
        "import sys; from gptkit.cli import main; code = main(['run', 'job.yaml']);"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "template uses $text; input has: title" in done.stderr


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_a_job_that_goes_on_later(workshop, number):
    rows = [{"id": i, "text": "x" * (i % 50)} for i in range(3000)]
    workshop.job(rows=rows, stop="{max_new_tokens: 60}")
    process = subprocess.Popen(
        [sys.executable, "-m", "gptkit", "run", "job.yaml", "--batch-size", "2"],
        cwd=workshop.folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "3,000 rows, model tiny" in process.stderr.readline()
    wait_until(lambda: size(workshop.folder / "out.jsonl.journal") > 3000, process)
    process.send_signal(getattr(signal, number))
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == "SIGINT" else 143)
    assert re.fullmatch(r"stopped at [1-9]\d*/3,000 rows; run the same command to continue\n", err)
    assert sorted(os.listdir(workshop.folder)) == ["in.jsonl", "job.yaml", "out.jsonl.journal"]


def test_a_third_party_sampler_serves_in_a_job(workshop):
    fixture = FIXTURES / "acme_sampler"
    workshop.job(rows=ROWS)
    done = gptkit(
        "run", "job.yaml", "-s", "square=0.3", cwd=workshop.folder, PYTHONPATH=str(fixture)
    )
    assert done.returncode == 0, done.stderr
    assert "square=0.3" in done.stderr


def test_a_terminal_sees_a_bar(workshop):
    pexpect = pytest.importorskip("pexpect")
    workshop.job(rows=ROWS)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "gptkit", "run", "job.yaml"],
        cwd=str(workshop.folder),
        env={**os.environ, "TERM": "xterm-256color"},
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 120),
    )
    child.expect("5/5")
    child.expect("tok/s")
    child.expect("written to out.jsonl")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_a_terminal_leaves_it_in_order(workshop, times):
    pexpect = pytest.importorskip("pexpect")
    rows = [{"id": i, "text": f"row {i}"} for i in range(4000)]
    workshop.job(rows=rows, stop="{max_new_tokens: 60}")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "gptkit", "run", "job.yaml", "--batch-size", "4"],
        cwd=str(workshop.folder),
        env={**os.environ, "TERM": "xterm-256color"},
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 120),
    )
    child.expect("tok/s")
    for _ in range(times):
        child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert "Traceback" not in child.before
    assert child.before.rfind("\x1b[?25h") > child.before.rfind("\x1b[?25l")  # the cursor is shown
    if times == 1:
        assert "/4,000 rows; run the same command to continue" in child.before


def test_a_closed_stderr_stops_no_job(workshop):
    path = workshop.job(rows=ROWS)
    command = f"{sys.executable} -m gptkit run {path} 2>&1 >/dev/null | true"
    subprocess.run(["bash", "-c", command], cwd=workshop.folder, timeout=60, check=True)
    assert len(workshop.out()) == 5
