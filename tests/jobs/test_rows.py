"""Rows in and rows out."""

from __future__ import annotations

import json
import os

import pytest

from gptkit.errors import ConfigError, ResourceError
from gptkit.jobs import rows
from gptkit.jobs.rows import RowWriter, check_input, check_output, read_rows, scan


def write(tmp_path, data, name="in.jsonl"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def one(tmp_path, data):
    (row,) = read_rows(write(tmp_path, data))
    return row


# Reading


def test_bom_crlf_blank_lines_and_line_separators_are_taken(tmp_path):
    path = write(
        tmp_path,
        b"\xef\xbb\xbf" + '{"id": "a", "text": "x\u2028y\x85"}\r\n\r\n{"text": "z"}\n\n'.encode(),
    )
    a, b = read_rows(path)
    assert (a.index, a.line, a.id, a.key, a.fields["text"]) == (0, 1, "a", "a", "x\u2028y\x85")
    assert (b.index, b.line, b.id, b.fault) == (1, 3, None, None)


def test_a_row_without_id_is_named_by_line_and_content(tmp_path):
    import hashlib

    row = one(tmp_path, '{"text": "z"}\n')
    assert row.key == "1:" + hashlib.sha256(b'{"text": "z"}').hexdigest()[:16]
    assert one(tmp_path, '{"text": "z"}').key == row.key  # no newline at the end


def test_a_number_may_be_an_id(tmp_path):
    row = one(tmp_path, '{"id": 7}')
    assert (row.id, row.key) == (7, "7")


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ('{"text": "a" "b"}', "invalid_json", "not valid JSON (column 14)"),
        ('{"text": NaN}', "invalid_json", "NaN is not JSON"),
        ('{"text": -Infinity}', "invalid_json", "-Infinity is not JSON"),
        ('{"text": 1e999}', "invalid_json", "1e999 is too large a number"),
        ('{"text": ' + "9" * 5000 + "}", "invalid_json", "a number of too many digits"),
        ("[" * 100_000, "invalid_json", "nested too deeply"),
        ('{"text": "a", "text": "b"}', "invalid_json", "key 'text' is given twice"),
        ("[1]", "not_an_object", "expected an object, got a list"),
        ('"a"', "not_an_object", "expected an object, got text"),
        ("null", "not_an_object", "expected an object, got null"),
        ("true", "not_an_object", "expected an object, got true or false"),
        ("1.5", "not_an_object", "expected an object, got a number"),
        ('{"id": 1.5}', "invalid_id", "id is a number, not text or a whole number"),
        ('{"id": true}', "invalid_id", "id is true or false, not text or a whole number"),
        ('{"id": ["a"]}', "invalid_id", "id is a list, not text or a whole number"),
        (b'{"text": "\xff"}', "invalid_unicode", "not valid UTF-8 at byte 10"),
        ('{"text": "\\ud800"}', "invalid_unicode", "half of a surrogate pair stands alone"),
    ],
)
def test_what_is_wrong_with_a_row_is_its_fault(tmp_path, line, kind, message):
    row = one(tmp_path, line)
    assert (row.fault.type, row.fault.message) == (kind, message)
    assert row.id is None


def test_a_row_with_broken_text_keeps_its_id_unless_that_is_broken(tmp_path):
    assert one(tmp_path, '{"id": "a", "text": "\\udc00"}').id == "a"
    assert one(tmp_path, '{"id": "\\udc00"}').id is None
    assert one(tmp_path, '{"text": "\\ud83d\\ude00"}').fault is None


def test_a_row_over_the_limit_is_one_faulty_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 20)
    long = '{"text": "' + "x" * 200 + '"}'
    fit = '{"text": "123456789"}'[:-1]  # with its newline one byte over
    a, b, c = read_rows(write(tmp_path, f'{long}\n{{"id": 1}}\n{fit[:18]}"}}\n'))
    assert a.fault.type == "row_too_long"
    assert (b.id, b.line, b.fault) == (1, 2, None)
    assert c.fault is None


def test_text_lines_are_rows_with_a_field_text(tmp_path):
    path = write(tmp_path, b"one\r\n\nzwei \xc3\xa4\n\xff\n", "in.txt")
    a, b, c = read_rows(path)
    assert [a.fields, b.fields] == [{"text": "one"}, {"text": "zwei ä"}]
    assert c.fault.type == "invalid_unicode"


def test_what_can_not_be_read_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, said in [
        (tmp_path / "none.jsonl", "can't read .*none.jsonl: No such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "pipe.jsonl", "no regular file"),
        (write(tmp_path, "a,b", "in.csv"), "in.csv is of no form that we read"),
    ]:
        with pytest.raises(ConfigError, match=said):
            check_input(path)
    check_input(write(tmp_path, ""))


# Checking


def test_a_scan_counts_rows_and_finds_fields(tmp_path):
    path = write(tmp_path, '[]\n{"id": 1, "text": "a"}\n{"id": 2, "title": "b"}\n')
    found = scan(path, {"title", "text", "year"}, refuse_bad=False)
    assert found.n_rows == 3
    assert found.seen == {"title", "text"}
    assert found.fields == ("id", "text")


def test_a_scan_refuses_a_bad_row_by_its_line(tmp_path):
    path = write(tmp_path, '{"id": 1}\n\n{"id": 2,}\n')
    with pytest.raises(ConfigError, match=r"in.jsonl:3: not valid JSON \(column 10\)") as caught:
        scan(path, (), refuse_bad=True)
    assert "on_bad_row: error_row" in caught.value.hint
    assert scan(path, (), refuse_bad=False).n_rows == 2


def test_a_scan_leaves_broken_text_to_its_row(tmp_path):
    assert scan(write(tmp_path, '{"text": "\\ud800"}\n'), (), refuse_bad=True).n_rows == 1


@pytest.mark.parametrize("second", ['"x17"', "17"])
def test_an_id_given_twice_names_both_lines(tmp_path, second):
    first = second if second == '"x17"' else '"17"'
    path = write(tmp_path, f'{{"id": "a"}}\n{{"id": {first}}}\n\n{{"id": {second}}}\n')
    with pytest.raises(ConfigError, match=r"id '?x?17'? at lines 2 and 4"):
        scan(path, (), refuse_bad=True)


def test_an_empty_file_has_no_rows(tmp_path):
    assert scan(write(tmp_path, "\n\n"), {"text"}, refuse_bad=True).n_rows == 0


# Writing


def test_rows_appear_when_all_are_there(tmp_path):
    path = write(tmp_path, "old", "out.jsonl")
    with RowWriter(path) as out:
        out.write({"text": "é\u2028"})
        out.write({"text": "b"})
        assert path.read_text() == "old"
    assert path.read_bytes() == '{"text": "é\u2028"}\n{"text": "b"}\n'.encode()
    assert os.listdir(tmp_path) == ["out.jsonl"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, ValueError])
def test_an_interrupted_job_leaves_nothing(tmp_path, error):
    with pytest.raises(error), RowWriter(tmp_path / "out.jsonl") as out:
        out.write({"text": "a"})
        raise error
    assert os.listdir(tmp_path) == []


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError), RowWriter(tmp_path / "out.jsonl") as out:
        out.write({"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_full_disk_says_how_far_it_came(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(ResourceError, match="No space left on device, after 1 rows"),
        RowWriter(tmp_path / "out.jsonl") as out,
    ):
        out.write({"text": "a"})
    assert os.listdir(tmp_path) == []


def test_a_write_that_is_cut_short_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with (
            pytest.raises(ResourceError, match="File too large, after .* rows"),
            RowWriter(tmp_path / "out.jsonl") as out,
        ):
            for _ in range(1000):
                out.write({"text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "real" / "x.jsonl")
    with RowWriter(link) as out:
        out.write({})
    assert link.is_symlink()
    assert json.loads((tmp_path / "real" / "x.jsonl").read_text()) == {}


def test_an_output_that_is_an_input_is_refused_through_links_too(tmp_path):
    source = write(tmp_path, "{}")
    (tmp_path / "soft.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    for name in ("in.jsonl", "soft.jsonl", "hard.jsonl"):
        with pytest.raises(ConfigError, match="is the file that the job reads"):
            check_output(tmp_path / name, [source])
    check_output(tmp_path / "out.jsonl", [source])


def test_an_output_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "dir.jsonl").mkdir()
    for path, said in [
        (tmp_path / "none" / "out.jsonl", "no such directory"),
        (tmp_path / "dir.jsonl", "no regular file"),
        (tmp_path / "out.csv", "no form that we write"),
    ]:
        with pytest.raises(ConfigError, match=said):
            check_output(path, [])
