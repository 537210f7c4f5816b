"""Which rows of an input a journal has, against a search by hand."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from gptkit.errors import ResumeRefused
from gptkit.jobs import done as module
from gptkit.jobs.done import NOWHERE, Done, match
from gptkit.jobs.journal import Journal, line_of
from gptkit.jobs.rows import Row, digest_of


def row(index, text, id=None):
    digest = digest_of(text.encode())
    key = f"{index + 1}:{digest}" if id is None else str(id)
    return Row(index, index + 1, id, key, {"text": text}, None, digest, "in.jsonl")


def record(one, cell=0, **more):
    output = more.pop("row", {"index": one.index, "id": one.id, "text": "x"})
    return {"cell": cell, "key": one.key, "digest": one.digest, **more, "row": output}


@pytest.fixture
def journal(tmp_path):
    with Journal.create(tmp_path / "out.jsonl.journal", {}) as made:
        yield made


def test_rows_are_found_wherever_they_are(journal):
    draw = random.Random(1)
    rows = [row(i, f"text {i % 7}", id=i if i % 3 else f"x{i}") for i in range(300)]
    written = draw.sample(rows, 180)
    places = {(one.key, cell): journal.add(record(one, cell)) for one in written for cell in (0, 2)}
    moved = [row(i, one.fields["text"], one.id) for i, one in enumerate(draw.sample(rows, 250))]
    done = Done(250, 3)
    counts = match(journal, moved, done, retry_errors=False)
    for one in moved:
        for cell in range(3):
            assert done.place(one.index, cell) == places.get((one.key, cell), NOWHERE)
    n = sum((one.key, 0) in places for one in moved)
    assert done.n_done == counts.n_ok == 2 * n
    assert counts.n_gone == 2 * (180 - n)
    assert (done.n_all, done.n_left(), done.n_left(1), done.n_left(2)) == (
        750,
        750 - 2 * n,
        250,
        250 - n,
    )


def test_of_several_lines_of_a_row_the_last_one_counts(journal):
    one = row(0, "a", id="a")
    failed = {"index": 0, "id": "a", "error": {"type": "plugin_error", "message": "x"}}
    journal.add(record(one, may_retry=True, row=failed))
    place = journal.add(record(one))
    done = Done(1, 1)
    counts = match(journal, [one], done, retry_errors=False)
    assert done.place(0, 0) == place
    assert (counts.n_ok, counts.failures.total(), counts.n_gone) == (1, 0, 0)


def test_errors_are_counted_by_type_and_retried_where_they_may_be(journal):
    rows = [row(i, f"t{i}", id=i) for i in range(4)]

    def failed(kind):
        return {"index": 0, "id": 0, "error": {"type": kind, "message": "x"}}

    journal.add(record(rows[0], row=failed("missing_field")))
    journal.add(record(rows[1], may_retry=True, row=failed("plugin_error")))
    journal.add(record(rows[2], may_retry=True, shortened=True, row=failed("plugin_error")))
    journal.add(record(rows[3], shortened=True))
    done = Done(4, 1)
    counts = match(journal, rows, done, retry_errors=False)
    assert dict(counts.failures) == {"missing_field": 1, "plugin_error": 2}
    assert (counts.n_ok, counts.n_retryable, counts.n_shortened) == (1, 2, 2)
    again = Done(4, 1)
    counts = match(journal, rows, again, retry_errors=True)
    assert [again.place(i, 0) == NOWHERE for i in range(4)] == [False, True, True, False]
    assert (counts.n_ok, dict(counts.failures), counts.n_gone) == (1, {"missing_field": 1}, 0)


@pytest.mark.parametrize("id", [None, "a"])
def test_a_changed_row_is_refused_or_retried_if_it_had_an_error(journal, id):
    old, new = row(0, "old", id), row(0, "new", id)
    journal.add(record(old))
    with pytest.raises(ResumeRefused, match="in.jsonl:1: .*was changed since it was computed"):
        match(journal, [new], Done(1, 1), retry_errors=True)
    failed = {"index": 0, "id": id, "error": {"type": "missing_field", "message": "x"}}
    journal.add(record(old, row=failed))
    with pytest.raises(ResumeRefused):
        match(journal, [new], Done(1, 1), retry_errors=False)
    done = Done(1, 1)
    assert match(journal, [new], done, retry_errors=True).n_gone == 0
    assert done.n_done == 0


def test_an_id_that_looks_like_a_line_is_no_line(journal):
    by_line, by_id = row(0, "a"), row(1, "b", id="1:")
    journal.add(record(by_line))
    done = Done(2, 1)
    match(journal, [by_line, by_id], done, retry_errors=False)
    assert done.place(1, 0) == NOWHERE


def test_rows_whose_names_have_one_hash_are_told_apart(journal, monkeypatch):
    monkeypatch.setattr(module, "_name", lambda cell, key, digest: 7)
    journal.add(record(row(0, "a", id="a")))
    done = Done(1, 1)
    match(journal, [row(0, "b", id="b")], done, retry_errors=False)
    assert done.n_done == 0


def test_no_more_than_64_bytes_a_row(journal):
    n = 20_000
    with journal.path.open("ab") as file:
        file.writelines(line_of(record(row(i, f"t{i}", id=i))) for i in range(n))
    with Journal.open(journal.path) as opened:
        rows = (row(i, f"t{i}", id=i) for i in range(n))
        tracemalloc.start()
        done = Done(n, 1)
        match(opened, rows, done, retry_errors=False)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert done.n_done == n
    assert peak < 64 * n + 200_000
