"""What a batch job shows, event by event."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from gptkit.cli import run_view
from gptkit.cli.run_view import View
from gptkit.jobs.events import Finished, Note, Progress, Resumed, Started

Chosen = namedtuple("Chosen", "label chain seed method source")
Loaded = namedtuple("Loaded", "name device dtype notes", defaults=[()])
Small = namedtuple("Small", "cells scan destination")
Rows = namedtuple("Rows", "n_rows")


@pytest.fixture
def view():
    cell = Chosen({}, ("greedy",), 7, "", None)
    with View(Small((cell,), Rows(10), "out.jsonl"), may_go_on=True) as view:
        yield view


def started(view, n_rows=10):
    return Started(Loaded("tiny", "cpu", "float32"), view.job.cells, n_rows)


def test_a_job_from_its_start_to_its_end(view, capsys):
    for event in (started(view), Progress(10, 3), Progress(10, 10, new_tokens=50), Finished()):
        view.show(event)
    view.say_end()
    first, last = capsys.readouterr().err.splitlines()
    assert first == "10 rows, model tiny (cpu, float32), sampling greedy, seed 7"
    assert last.startswith("10 ok; ") and last.endswith(" tok/s; written to out.jsonl")


def test_what_was_done_before_is_told(view, capsys):
    view.show(Note("taken over from pid 4"))
    view.show(Resumed(6, 10, n_cut_bytes=270, n_damaged=1, n_gone=2))
    view.show(started(view, 4))
    assert capsys.readouterr().err.splitlines() == [
        "note: taken over from pid 4",
        "note: 270 torn bytes cut off the end of the journal",
        "note: 1 damaged line in the journal: what stood there is computed again",
        "note: 2 rows of the journal left out: the input has them no more",
        "going on: 6/10 rows are done",
        "4 more rows, model tiny (cpu, float32), sampling greedy, seed 7",
    ]
    view.say_stopped()
    assert capsys.readouterr().err == ("stopped at 6/10 rows; run the same command to continue\n")


def test_a_finished_job_is_told_as_such(view, capsys):
    view.show(Progress(10, 9, failures={"plugin_error": 1}, n_resumed=10))
    view.show(Finished(was_there=True))
    view.say_end()
    assert capsys.readouterr().err == (
        "9 ok, 1 failed (see error.type), 1 plugin_error; out.jsonl is finished already\n"
    )


def test_a_line_at_times_says_speed_reuse_and_the_time_left(view, capsys, monkeypatch):
    monkeypatch.setattr(run_view, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(View, "seconds", 3.0)
    view.show(Resumed(4, 10))
    view.show(started(view, 6))
    failures = {"plugin_error": 1}
    view.show(Progress(10, 5, 0, 200, 60, failures, n_reused=150, n_resumed=4))
    assert capsys.readouterr().err.splitlines()[-1] == (
        "6/10 rows, 1 failed, 20 tok/s, 75% reused, 0:00:06 left"
    )


def test_the_summary_has_all_of_it(view):
    source = namedtuple("Source", "path")(Path("models/tiny"))
    view.job = view.job._replace(cells=(view.job.cells[0]._replace(source=source),))
    view.show(Progress(10, 5, 1, 200, 60, {"plugin_error": 1}, n_reused=150, n_resumed=4))
    summary = view.summary()
    assert summary.pop("seconds") >= 0
    assert summary == {
        "rows": 10,
        "ok": 5,
        "failed": 1,
        "failures": {"plugin_error": 1},
        "resumed": 4,
        "shortened": 1,
        "prompt_tokens": 200,
        "reused_tokens": 150,
        "new_tokens": 60,
        "seed": 7,
        "model": "tiny",
        "chain": ["greedy"],
        "cells": [{}],
        "outputs": "out.jsonl",
    }
