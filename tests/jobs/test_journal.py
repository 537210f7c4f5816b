"""The journal: what is written is read back, and what is damaged is known as such."""

from __future__ import annotations

import errno
import os
import random
import zlib

import pytest

from gptkit.errors import ResourceError, ResumeRefused
from gptkit.jobs.journal import Damage, Journal, line_of, record_of

HEADER = {"fingerprint": {"seed": 7}}


def row(i):
    return {
        "cell": 0,
        "key": f"r{i}",
        "digest": f"{i:016x}",
        "row": {"index": i, "text": "é\u2028x"},
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl.journal"


@pytest.fixture
def written(path):
    """Return the bytes of a journal of 20 rows, which is closed."""
    with Journal.create(path, HEADER) as journal:
        for i in range(20):
            journal.add(row(i))
    return path.read_bytes()


def keys(path):
    """Repair a journal; return the keys of its rows, and what was lost."""
    with Journal.open(path) as journal:
        damage = journal.repair()
        assert journal.header() is None or journal.header()["fingerprint"] == {"seed": 7}
        return [record["key"] for _, record in journal.rows()], damage


def test_a_line_is_its_checksum_and_its_json(written):
    line = written.splitlines(keepends=True)[1]
    assert int(line[:8], 16) == zlib.crc32(line[9:-1])
    assert record_of(line) == row(0)
    assert line_of(row(0)) == line
    assert record_of(line[:-1]) is None and record_of(b"") is None and record_of(b"\n") is None


def test_rows_are_read_back_by_their_places(path):
    with Journal.create(path, HEADER) as journal:
        places = [journal.add(row(i)) for i in range(30)]
        assert [journal.read(place) for place in reversed(places)] == [
            row(i) for i in reversed(range(30))
        ]
        journal.add(row(30))
    with Journal.open(path) as journal:
        assert journal.repair() == Damage()
        assert journal.header()["fingerprint"] == {"seed": 7}
        assert [(place, r["key"]) for place, r in journal.rows()][:30] == [
            (place, f"r{i}") for i, place in enumerate(places)
        ]
        place = journal.add(row(31))
        assert journal.read(place) == row(31)


def test_each_row_is_one_write_and_one_sync(path, monkeypatch):
    calls = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: (calls.append("write"), write(fd, data))[1])
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    with Journal.create(path, HEADER) as journal:
        calls.clear()
        journal.add(row(0))
    assert calls == ["write", "fsync"]


# Damage


def test_a_tail_that_is_cut_anywhere_costs_that_row_alone(path, written):
    lines = written.splitlines(keepends=True)
    ends = [sum(map(len, lines[:n])) for n in range(len(lines) + 1)]
    for size in range(ends[-4], ends[-1] + 1):
        path.write_bytes(written[:size])
        n_lines = max(n for n, end in enumerate(ends) if end <= size)
        found, damage = keys(path)
        assert found == [f"r{i}" for i in range(n_lines - 1)]
        assert damage == Damage(size - ends[n_lines], 0)
        assert path.read_bytes() == written[: ends[n_lines]]


@pytest.mark.parametrize(
    "tail", [b"\0" * 4096, b"garbage", b"garbage\n", b"\n", b"\xff" * 9 + b"\n"]
)
def test_what_else_stands_at_the_end_is_cut(path, written, tail):
    path.write_bytes(written + tail)
    assert keys(path) == ([f"r{i}" for i in range(20)], Damage(len(tail), 0))
    assert path.read_bytes() == written


def test_rows_are_added_where_the_tail_was_cut(path, written):
    path.write_bytes(written[:-5])
    with Journal.open(path) as journal:
        list(journal.rows())  # so that the reader has seen the tail
        journal.repair()
        place = journal.add(row(99))
        assert journal.read(place) == row(99)
    assert keys(path) == ([*(f"r{i}" for i in range(19)), "r99"], Damage())


def test_a_flipped_byte_in_the_middle_costs_that_line_alone(path, written):
    first = written.index(b"\n") + 1
    draw = random.Random(1)
    for _ in range(300):
        at = draw.randrange(first, len(written) - 200)
        path.write_bytes(
            written[:at] + bytes([written[at] ^ draw.randint(1, 255)]) + written[at + 1 :]
        )
        lost = written[:at].count(b"\n") - 1
        found, damage = keys(path)
        joined = written[at] == ord("\n")  # two lines are one then
        assert found == [f"r{i}" for i in range(20) if i not in (lost, lost + joined)]
        assert damage.n_cut_bytes == 0 and damage.n_lines in (1, 2)


def test_lines_may_change_places(path, written):
    lines = written.splitlines(keepends=True)
    for a, b in ((3, 9), (0, 1), (0, 20)):
        moved = list(lines)
        moved[a], moved[b] = moved[b], moved[a]
        path.write_bytes(b"".join(moved))
        found, damage = keys(path)
        assert sorted(found) == sorted(f"r{i}" for i in range(20)) and damage == Damage()
        with Journal.open(path) as journal:
            assert journal.header() is not None


@pytest.mark.parametrize("size", [0, 1, 20])
def test_a_journal_that_was_never_begun_has_no_header(path, written, size):
    path.write_bytes(written[:size])
    assert keys(path) == ([], Damage(size, 0))
    with Journal.open(path) as journal:
        assert journal.header() is None


@pytest.mark.parametrize("size", [0, 1, 8, 9, 12, 40])
def test_a_torn_beginning_is_ours_and_other_files_are_not(path, written, size):
    for data in (written[:size], written[:size] + b"\0" * 4096):
        path.write_bytes(data)
        with Journal.open(path) as journal:
            assert journal.is_ours()
    for data in (b'{"text": "a"}\n', b"a,b\n1,2\n", b"0123456789\n", b"deadbeef x\n"):
        path.write_bytes(data)
        with Journal.open(path) as journal:
            assert not journal.is_ours()


def test_another_format_is_refused(path):
    path.write_bytes(line_of({"gptkit_journal": 2}))
    with Journal.open(path) as journal, pytest.raises(ResumeRefused, match="another version"):
        journal.header()


def test_a_line_that_is_lost_under_our_hands_is_told(path):
    with Journal.create(path, HEADER) as journal:
        place = journal.add(row(0))
        path.write_bytes(b"x" * 500)
        with pytest.raises(ResourceError, match="was changed while it was in use"):
            journal.read(place)


# A disk that fails


@pytest.mark.parametrize("which", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_row_that_can_t_be_written_leaves_the_others(path, monkeypatch, which, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    with Journal.create(path, HEADER) as journal:
        journal.add(row(0))
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, which, fail)
            with pytest.raises(OSError):
                journal.add(row(1))
        assert path.read_bytes() == before
        journal.add(row(1))
    assert keys(path) == (["r0", "r1"], Damage())


def test_a_part_of_a_line_is_taken_back(path, monkeypatch):
    write, left = os.write, [30]

    def full(handle, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        n, left[0] = left[0], 0
        return write(handle, data[:n])

    with Journal.create(path, HEADER) as journal:
        journal.add(row(0))
        before = path.read_bytes()
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError):
            journal.add(row(1))
    assert path.read_bytes() == before
