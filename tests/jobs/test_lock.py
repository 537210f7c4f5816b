"""One run at a time for an output: locks that are held, stale, faked, or not to be had."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from gptkit.errors import ResumeRefused
from gptkit.jobs.lock import Owner, hold

HOLDER = """
import sys, time
from pathlib import Path
from gptkit.jobs.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl.lock"


@pytest.fixture
def other(path):
    """Give another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def words(**changes):
    return json.dumps({"pid": 4242, "host": "a", "since": "2026-01-02T12:01:30", **changes})


def test_a_lock_is_held_and_leaves_nothing(path):
    with hold(path) as note:
        assert note is None
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_another_process_is_refused_and_told_who_has_it(path, other):
    with pytest.raises(ResumeRefused, match=f"is locked by pid {other.pid} since ..:.. on host"):
        with hold(path):
            pass
    assert path.exists()
    other.communicate()
    assert not path.exists()
    with hold(path) as note:
        assert note is None


def test_a_killed_process_gives_its_lock_up(path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert path.exists()
    with hold(path) as note:
        assert f"taken over from pid {other.pid}" in note
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (words(), "pid 4242 since 2026-01-02 12:01 on host a"),
        (words(pid=os.getpid()), f"pid {os.getpid()} since"),  # a pid that is used again
        (words(pid=1, host=Owner.me().host), "pid 1 since"),
    ],
    ids=["of another host", "our own pid", "another process"],
)
def test_a_file_that_nobody_holds_is_taken_over_whatever_it_says(path, text, said):
    path.write_text(text)
    with hold(path) as note:
        assert said in note
        assert Owner.me().pid == json.loads(path.read_text())["pid"]


@pytest.mark.parametrize("text", ["", "\0" * 50, "[]", '{"pid": "x"}', words(pid="7"), "\xff"])
def test_junk_in_the_file_is_no_matter(path, text):
    path.write_text(text, encoding="latin-1")
    with hold(path) as note:
        assert note is None


def test_a_lock_that_is_given_up_while_we_take_it_is_made_anew(path, monkeypatch):
    flock, calls = fcntl.flock, []

    def late(handle, how):
        if not calls:
            path.unlink()  # its owner ended between our open and our flock
        calls.append(handle)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold(path):
        assert len(calls) == 2
        assert path.exists()


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("", True),
        (words(pid=2**22 + 1, host=Owner.me().host), True),
        (words(pid=os.getpid(), host=Owner.me().host), False),
        (words(), False),
    ],
    ids=["empty", "of a process that is gone", "our own", "of another host"],
)
def test_where_there_are_no_locks_the_file_is_believed(path, monkeypatch, text, taken):
    def none(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    path.write_text(text)
    if taken:
        with hold(path) as note:
            assert note.startswith("locking is not available here (No locks available)")
        assert not path.exists()
    else:
        with pytest.raises(ResumeRefused) as caught, hold(path):
            pass
        assert "delete" in caught.value.hint
        assert path.read_text() == text


def test_many_processes_at_once_hold_it_in_turn(path, tmp_path):
    code = """
import sys
from pathlib import Path
from gptkit.errors import ResumeRefused
from gptkit.jobs.lock import hold
lock, inside, n = Path(sys.argv[1]), Path(sys.argv[2]), 0
while n < 40:
    try:
        with hold(lock):
            inside.open("x").close()  # nobody else may be here
            inside.unlink()
            n += 1
    except ResumeRefused:
        pass
"""
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert not path.exists()
