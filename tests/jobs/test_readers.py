"""Rows in: each form against what is known to write it, and all that can be wrong with a file."""

from __future__ import annotations

import codecs
import csv
import datetime
import decimal
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptkit.errors import ConfigError, ResourceError
from gptkit.jobs.readers import open_inputs, read_rows
from gptkit.jobs.readers.text import text_files
from tests.jobs.tables import NAMES, TEXTS, limit, rows_of, write

SETTINGS = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BOM = codecs.BOM_UTF8


def refused(folder, data, name, **options):
    """Return what is raised when a file is read, and how many rows came before."""
    write(folder, data, name)
    found = []
    with pytest.raises(ConfigError) as caught:
        for row in open_inputs(name, folder, **options):
            found.append(row)
    return caught.value, len(found)


# JSONL


def test_bom_crlf_blank_lines_and_line_separators_are_taken(tmp_path):
    data = BOM + '{"id": "a", "text": "x\u2028y\x85"}\r\n\r\n{"text": "z"}\n\n'.encode()
    a, b = rows_of(tmp_path, data)
    assert (a.index, a.line, a.id, a.key, a.fields["text"]) == (0, 1, "a", "a", "x\u2028y\x85")
    assert (b.index, b.line, b.id, b.fault) == (1, 3, None, None)
    assert a.file == str(tmp_path / "in.jsonl")


def test_a_row_without_id_is_named_by_line_and_content(tmp_path):
    (row,) = rows_of(tmp_path, '{"text": "z"}\n')
    digest = hashlib.sha256(b'{"text": "z"}').hexdigest()[:16]
    assert (row.key, row.digest) == (f"1:{digest}", digest)
    assert rows_of(tmp_path, '{"text": "z"}') == [row]  # no newline at the end
    assert rows_of(tmp_path, BOM + b'{"text": "z"}\r\n') == [row]


def test_a_number_may_be_an_id(tmp_path):
    (row,) = rows_of(tmp_path, '{"id": 7}')
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
        (b'{"text": "\xff"}', "invalid_encoding", "not valid UTF-8 at byte 10"),
        ('{"text": "\\ud800"}', "invalid_unicode", "half of a surrogate pair stands alone"),
    ],
)
def test_what_is_wrong_with_a_row_is_its_fault(tmp_path, line, kind, message):
    (row,) = rows_of(tmp_path, line)
    assert (row.fault.type, row.fault.message) == (kind, message)
    assert row.id is None


def test_a_row_with_broken_text_keeps_its_id_unless_that_is_broken(tmp_path):
    a, b, c = rows_of(
        tmp_path, '{"id": "a", "text": "\\udc00"}\n{"id": "\\udc00"}\n{"text": "\\ud83d\\ude00"}\n'
    )
    assert (a.id, b.id, c.fault) == ("a", None, None)


def test_a_row_over_the_limit_is_one_faulty_row(tmp_path, monkeypatch):
    limit(monkeypatch, 20)
    long = '{"text": "' + "x" * 200 + '"}'
    fit = '{"text": "12345678"}'
    a, b, c, d = rows_of(tmp_path, f'{long}\n{{"id": 1}}\n{fit}\n{fit} \n')
    assert (a.fault.type, a.fault.message) == ("row_too_long", "the row is over 20 bytes")
    assert (b.id, b.line, b.fault) == (1, 2, None)
    assert (c.fault, d.fault.type) == (None, "row_too_long")


OBJECTS = st.dictionaries(
    TEXTS.filter(lambda name: name != "id"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=5,
    ).filter(lambda value: value == value and json.dumps(value).find("Infinity") < 0),
    max_size=4,
)


@SETTINGS
@given(st.lists(OBJECTS, max_size=5), st.booleans(), st.sampled_from(["\n", "\r\n", "\n \n"]))
def test_what_json_writes_is_read(tmp_path, rows, ascii, newline):
    lines = [json.dumps(row, ensure_ascii=ascii) for row in rows]
    found = rows_of(tmp_path, newline.join(lines))
    assert [row.fields for row in found] == rows
    assert [row.fault for row in found] == [None] * len(rows)


@SETTINGS
@given(st.lists(st.one_of(st.binary(max_size=20), OBJECTS.map(json.dumps).map(str.encode))))
def test_any_bytes_are_read_to_their_end(tmp_path, lines):
    data = b"\n".join(lines)
    try:
        found = rows_of(tmp_path, data)
    except ConfigError as error:
        told = {"UTF-16": (b"\xff\xfe", b"\xfe\xff"), "packed": (b"\x1f\x8b", b"\x28\xb5")}
        assert any(what in str(error) and data[:2] in starts for what, starts in told.items())
        return
    data = data.removeprefix(BOM)
    assert [row.line for row in found] == [
        number for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()
    ]


# Text lines


def test_text_lines_are_rows_with_a_field_text(tmp_path):
    a, b, c = rows_of(tmp_path, b"one\r\n\nzwei \xc3\xa4\n\xff\n", "in.txt")
    assert [a.fields, b.fields] == [{"text": "one"}, {"text": "zwei ä"}]
    assert (b.line, c.line, c.fault.type) == (3, 4, "invalid_encoding")


# CSV and TSV


def test_a_csv_file_is_read_by_its_header(tmp_path):
    data = BOM + b'id,text,note\r\na,"x, ""y""\nz",1\r\n\r\n  \n,"",\n'
    a, b = rows_of(tmp_path, data, "in.csv")
    assert a.fields == {"id": "a", "text": 'x, "y"\nz', "note": "1"}
    assert (a.line, a.id, a.key) == (2, "a", "a")
    assert (b.line, b.id, b.fields) == (6, None, {"id": "", "text": "", "note": ""})
    assert b.key == f"6:{b.digest}"


def test_a_digest_of_a_table_does_not_depend_on_the_order_of_columns(tmp_path):
    (a,) = rows_of(tmp_path, "x,y\n1,ä\n", "in.csv")
    (b,) = rows_of(tmp_path, "y\tx\nä\t1\n", "in.tsv")
    canonical = '{"x":"1","y":"ä"}'
    assert a.digest == b.digest == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_a_tsv_file_has_tabs(tmp_path):
    (row,) = rows_of(tmp_path, 'a\tb\n1,2\t"x\ty"\n', "in.tsv")
    assert row.fields == {"a": "1,2", "b": "x\ty"}


@pytest.mark.parametrize("n_bytes", [10, 11, 12, 40, 2**20])
def test_lines_may_end_as_on_an_old_mac(tmp_path, monkeypatch, n_bytes):
    limit(monkeypatch, n_bytes)
    rows = rows_of(tmp_path, 'a,b\r1,2\r3,4\r"5\r\n",6\r\n7,8\n9,', "in.csv")
    found = [(row.line, *row.fields.values()) for row in rows]
    assert found == [(2, "1", "2"), (3, "3", "4"), (4, "5\r\n", "6"), (6, "7", "8"), (7, "9", "")]


@pytest.mark.parametrize("data", ["", "a,b\n", "\n\n", "a,b"])
def test_a_csv_file_may_have_no_rows(tmp_path, data):
    assert rows_of(tmp_path, data, "in.csv") == []


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ("1", "wrong_columns", "expected 2 columns (text, note), found 1"),
        ("1,2,3", "wrong_columns", "expected 2 columns (text, note), found 3"),
        ('"a"b,c', "invalid_csv", "not valid CSV (',' expected after '\"')"),
        ("a\0b,c", "invalid_csv", "NUL character at byte 1"),
        (b"1,a\xff", "invalid_encoding", "not valid UTF-8 at byte 3"),
    ],
)
def test_what_is_wrong_with_a_csv_row_is_its_fault(tmp_path, row, kind, message):
    row = row if isinstance(row, bytes) else row.encode()
    a, b, c = rows_of(tmp_path, b"text,note\nx,y\n" + row + b"\nz,\n", "in.csv")
    assert (b.fault.type, b.line, b.fields) == (kind, 3, {})
    assert b.fault.message.startswith(message)
    assert (a.fields["text"], c.fields["text"], c.line) == ("x", "z", 4)
    assert len({a.digest, b.digest, c.digest}) == 3


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"a,b,a", "in.csv:1: two columns are named 'a'; there are: a, b, a"),
        (b"a,,c", "in.csv:1: column 2 has no name; there are: a, , c"),
        (b"\n,id", "in.csv:2: column 1 has no name; there are: , id"),
        (b"a,\xffb", "in.csv:1: not valid UTF-8 at byte 2"),
        (b"a,b\0", "in.csv:1: NUL character at byte 3"),
        (b'a,"b"c', "in.csv:1: not valid CSV (',' expected after '\"')"),
        (b'a,"b\n1,2', "in.csv: quote opened at line 1 is never closed"),
    ],
)
def test_a_header_that_is_wrong_is_refused(tmp_path, header, message):
    error, n = refused(tmp_path, header + b"\n1,2,3\n", "in.csv")
    assert (str(error), n) == (f"{tmp_path}/{message}", 0)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ('a,b\n1,2\n3,"4\n5,6\n', 3),
        ('a,b\n"1\n""\n",2\n"3\nx","y\n5,6', 6),  # the quote that is open is not the row's first
        ('a,b\n1"",2\n3,"', 3),  # inside a field that has none a quote is text
        ('a,b\n1,"x""\n', 2),
        ('"', 1),
    ],
)
def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path, data, line, monkeypatch):
    error, _ = refused(tmp_path, data, "in.csv")
    assert str(error) == f"{tmp_path}/in.csv: quote opened at line {line} is never closed"
    limit(monkeypatch, 2)  # each row is over it: the quote is found all the same
    if line > 1:
        write(tmp_path, "a\n" + data.split("\n", 1)[1], "in.csv")
        with pytest.raises(ConfigError, match=f"quote opened at line {line} is never closed"):
            list(open_inputs("in.csv", tmp_path))


def test_a_long_csv_field_is_taken_up_to_the_limit(tmp_path):
    text = "x" * 200_000
    (row,) = rows_of(tmp_path, f"a,b\n{text},2\n", "in.csv")
    assert row.fields["a"] == text


@pytest.mark.parametrize(
    "long",
    [
        "x" * 100 + ",1\n",
        '"' + "x\n" * 50 + '",1\n',
        '"' + 'x""' * 40 + '"\r\n',
        '1,"' + "xx\n" * 50 + '","y\n"\n',
        '"' + '"' * 100 + '"\n',
    ],
)
def test_a_csv_row_over_the_limit_is_one_faulty_row(tmp_path, monkeypatch, long):
    for n_bytes in range(12, 24):  # so that a piece ends at each place of a pair of quotes
        limit(monkeypatch, n_bytes)
        a, b, c = rows_of(tmp_path, f"a,b\n1,2\n{long}3,4\n", "in.csv")
        assert (a.fields["a"], b.fault.type, c.fields["a"]) == ("1", "row_too_long", "3")
        assert (b.line, c.line) == (3, 3 + long.count("\n"))


@SETTINGS
@given(NAMES, st.data(), st.sampled_from(["csv", "tsv"]), st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_is_read(tmp_path, names, data, form, newline):
    rows = data.draw(st.lists(st.lists(TEXTS, min_size=len(names), max_size=len(names))))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    file = io.StringIO(newline="")
    writer = csv.writer(
        file,
        delimiter="," if form == "csv" else "\t",
        lineterminator=newline,
        quoting=csv.QUOTE_ALL if any("\r" in text for row in rows for text in row) else quoting,
    )
    writer.writerows([names, *rows])
    found = rows_of(tmp_path, file.getvalue(), f"in.{form}")
    assert [list(row.fields) for row in found] == [names] * len(rows)
    assert [list(row.fields.values()) for row in found] == rows


@SETTINGS
@given(st.text('a",\n\r\t', max_size=40))
def test_quotes_are_taken_as_by_the_csv_module(tmp_path, body):
    """What the module reads as one row we do, and we say which quote is open where it says that."""
    data = "x,y\n" + body
    open_quote = False
    expected = []
    reader = csv.reader(io.StringIO(data, newline=""), strict=True)
    try:
        for row in reader:
            expected.append(row)
    except csv.Error as error:
        open_quote = "unexpected end" in str(error)
        if not open_quote:
            return
    try:
        found = rows_of(tmp_path, data, "in.csv")
    except ConfigError as error:
        assert open_quote and "is never closed" in str(error)
        line = int(str(error).split("line ")[1].split()[0])
        assert '"' in re.split("\r\n|\r|\n", data)[line - 1]
        return
    assert not open_quote
    kept = [row for row in expected[1:] if row and (len(row) > 1 or row[0].strip())]
    assert [list(row.fields.values()) for row in found if row.fault is None] == [
        row for row in kept if len(row) == 2
    ]
    assert len(found) == len(kept)


# Encodings


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "txt"])
def test_other_encodings_are_read_where_they_are_named(tmp_path, encoding, form):
    text = "ｱ\\水" if encoding == "shift_jis" else "käse, 1\x0a00".replace("\n", " ")
    said = {
        "csv": f'text,n\n"{text}",1\n',
        "jsonl": json.dumps({"text": text, "n": "1"}, ensure_ascii=False) + "\n",
        "txt": f"{text}\n",
    }[form]
    (row,) = rows_of(tmp_path, said.encode(encoding), f"in.{form}", encoding=encoding)
    assert row.fields["text"] == text
    (same,) = rows_of(tmp_path, said, f"in.{form}")
    assert row.digest == same.digest  # of what is said, not of how it is written


def test_a_latin_1_file_is_told_from_utf_8(tmp_path):
    (row,) = rows_of(tmp_path, "a,b\nk\xe4se,1\n".encode("latin-1"), "in.csv")
    assert row.fault.message == "not valid UTF-8 at byte 1"


def test_a_utf_16_file_says_what_it_is(tmp_path):
    error, _ = refused(tmp_path, "a,b\n1,2\n".encode("utf-16"), "in.csv")
    assert str(error) == f"{tmp_path}/in.csv is UTF-16 text"
    assert error.hint == "`encoding: utf-16`"


def test_what_an_encoding_can_not_be_is_told_with_its_byte(tmp_path):
    data = "{}\n".encode("utf-16-le") + b"\x00\xdc" + "{}".encode("utf-16-le")
    error, n = refused(tmp_path, data, "in.jsonl", encoding="utf-16-le")
    assert str(error).endswith("in.jsonl: not valid utf-16-le at byte 6, after row 0")
    data = b"{}\n\x81\xff\n"
    a, b = rows_of(tmp_path, data, encoding="shift_jis")
    assert (a.fault, b.fault.message) == (None, "not valid shift_jis at byte 0")


# Parquet


def parquet_rows(folder, table, name="in.parquet"):
    pq.write_table(table, folder / name)
    return list(open_inputs(name, folder))


def test_a_parquet_file_gives_what_json_has(tmp_path):
    nested = {"a": [1, None], "when": datetime.datetime(2024, 1, 2, 3, 4, 5)}
    table = pa.table(
        {
            "id": [7, None],
            "text": pa.array(["x", None]).dictionary_encode(),
            "n": [1.5, float("nan")],
            "big": pa.array([2**64 - 1, 0], pa.uint64()),
            "yes": [True, None],
            "price": [decimal.Decimal("1.50"), None],
            "at": pa.array([1700000000123456789, None], pa.timestamp("ns", "UTC")),
            "day": [datetime.date(2024, 1, 2), None],
            "nested": [nested, None],
            "map": pa.array([[("k", 0.5)], None], pa.map_(pa.string(), pa.float64())),
            "raw": [b"\xff", None],
        }
    )
    a, b = parquet_rows(tmp_path, table)
    assert a.fields == {
        "id": 7,
        "text": "x",
        "n": 1.5,
        "big": 2**64 - 1,
        "yes": True,
        "price": "1.50",
        "at": "2023-11-14 22:13:20.123456789Z",
        "day": "2024-01-02",
        "nested": {"a": [1, None], "when": "2024-01-02 03:04:05.000000"},
        "map": [["k", 0.5]],
        "raw": b"\xff",
    }
    assert (a.id, a.key, a.line, b.line) == (7, "7", 1, 2)
    assert set(b.fields.values()) == {None, 0} and b.id is None


def test_a_parquet_row_and_a_csv_row_of_the_same_texts_have_one_digest(tmp_path):
    (a,) = parquet_rows(tmp_path, pa.table({"x": ["1"], "y": ["ä"]}))
    (b,) = rows_of(tmp_path, "y,x\nä,1\n", "in.csv")
    assert a.digest == b.digest


def test_text_in_parquet_that_is_no_text_is_the_fault_of_its_row(tmp_path):
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2, 3)))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xffb")])
    a, b, c = parquet_rows(tmp_path, pa.table({"text": texts, "id": [1, 2, 3]}))
    assert (a.fields["text"], b.fault.type, c.fields["text"]) == ("a", "invalid_encoding", "b")
    assert b.fault.message == "field 'text' is not valid UTF-8"


def test_a_parquet_row_over_the_limit_is_a_faulty_row(tmp_path, monkeypatch):
    limit(monkeypatch, 50)
    a, b = parquet_rows(tmp_path, pa.table({"text": ["x" * 60, "y"], "l": [["a"], ["b"]]}))
    assert (a.fault.type, b.fault) == ("row_too_long", None)


def test_parquet_of_many_row_groups_is_in_order(tmp_path):
    table = pa.table({"id": list(range(1000))})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=7)
    found = [(row.line, row.id) for row in open_inputs("in.parquet", tmp_path)]
    assert found == [(i + 1, i) for i in range(1000)]


@pytest.mark.parametrize(
    ("names", "said"),
    [(["a", "a"], "two columns are named 'a'"), (["a", ""], "column 2 has no name")],
)
def test_columns_of_parquet_need_names(tmp_path, names, said):
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=names), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match=said):
        list(open_inputs("in.parquet", tmp_path))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 100, b"PAR1" + b"x" * 50 + b"PAR1"])
def test_what_is_no_parquet_is_refused(tmp_path, data):
    error, n = refused(tmp_path, data, "in.parquet")
    assert str(error).startswith(f"{tmp_path}/in.parquet: not valid Parquet (")
    assert str(error).endswith(", after row 0") and "\n" not in str(error)


def test_damage_in_the_middle_of_parquet_is_told_with_its_row(tmp_path):
    table = pa.table({"text": [f"{i} " * 50 for i in range(5000)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=1000, compression="zstd")
    data = bytearray((tmp_path / "in.parquet").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\xff" * 2000
    error, n = refused(tmp_path, bytes(data), "in.parquet")
    assert 0 < n < 5000
    assert str(error).endswith(f", after row {n:,}")


VALUES = {
    "text": (pa.string(), st.none() | TEXTS),
    "whole": (pa.int64(), st.none() | st.integers(-(2**63), 2**63 - 1)),
    "real": (pa.float64(), st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    "flag": (pa.bool_(), st.none() | st.booleans()),
    "list": (pa.list_(pa.string()), st.none() | st.lists(st.none() | TEXTS, max_size=3)),
}


@SETTINGS
@given(st.data(), st.lists(st.sampled_from(list(VALUES)), unique=True, min_size=1))
def test_what_pyarrow_writes_is_read(tmp_path, data, names):
    n = data.draw(st.integers(0, 5))
    columns = {
        name: pa.array(
            data.draw(st.lists(VALUES[name][1], min_size=n, max_size=n)), VALUES[name][0]
        )
        for name in names
    }
    table = pa.table(columns)
    assert [row.fields for row in parquet_rows(tmp_path, table)] == table.to_pylist()


# Packed


def zst(data):
    return zstandard.compress(data, 3)


LINES = b"".join(b'{"text": "row %d"}\n' % i for i in range(20_000))


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zst)])
def test_packed_files_are_read(tmp_path, suffix, pack):
    plain = rows_of(tmp_path, LINES)
    packed = rows_of(tmp_path, pack(LINES), f"in.jsonl.{suffix}")
    assert [row.key for row in packed] == [row.key for row in plain]
    joined = pack(LINES[:101]) + pack(b"") + pack(LINES[101:])
    assert [r.key for r in rows_of(tmp_path, joined, f"in.jsonl.{suffix}")] == [
        row.key for row in plain
    ]
    assert rows_of(tmp_path, pack(b""), f"in.jsonl.{suffix}") == []
    assert rows_of(tmp_path, b"", f"in.jsonl.{suffix}") == []
    (row,) = rows_of(tmp_path, pack(BOM + b'x,y\n"1","2"\n'), f"IN.CSV.{suffix.upper()}")
    assert row.fields == {"x": "1", "y": "2"}
    (row,) = rows_of(tmp_path, pack("a\n".encode("utf-16")), f"in.txt.{suffix}", encoding="utf-16")
    assert row.fields == {"text": "a"}


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zst)])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99999])
def test_an_archive_that_ends_too_early_is_told_with_its_row(tmp_path, suffix, pack, share):
    data = pack(LINES)
    name = f"in.jsonl.{suffix}"
    error, n = refused(tmp_path, data[: int(len(data) * share)], name)
    assert str(error) == f"{tmp_path}/{name}: the archive ends too early, after row {n:,}"
    if share > 0.5:
        assert n > 1000


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zst)])
def test_an_archive_that_is_not_called_one_is_told(tmp_path, suffix, pack):
    error, _ = refused(tmp_path, pack(LINES), "in.jsonl")
    assert str(error) == f"{tmp_path}/in.jsonl is packed"
    assert error.hint == f"its name must end in .{suffix}"


def test_a_zst_file_may_have_frames_that_are_skipped(tmp_path):
    skipped = b"\x50\x2a\x4d\x18" + (300).to_bytes(4, "little") + b"x" * 300
    data = skipped + zst(b'{"id": 1}\n') + skipped + zst(b'{"id": 2}\n') + skipped
    assert [row.id for row in rows_of(tmp_path, data, "in.jsonl.zst")] == [1, 2]


def test_any_cut_of_a_zst_file_is_noticed(tmp_path):
    data = zst(b'{"a": 1}\n' * 5)
    for n in range(1, len(data)):
        error, _ = refused(tmp_path, data[:n], "in.jsonl.zst")
        assert "ends too early" in str(error)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zst)])
def test_a_damaged_archive_is_told_with_its_row(tmp_path, suffix, pack):
    data = bytearray(pack(os.urandom(300_000).hex().encode() + b"\n" + LINES))
    data[len(data) // 2] ^= 0x55
    data[-5:-1] = b"\0\0\0\0"
    error, n = refused(tmp_path, bytes(data), f"in.txt.{suffix}")
    assert f"in.txt.{suffix}: the archive is damaged (" in str(error)
    assert str(error).endswith(f"), after row {n:,}")
    error, n = refused(tmp_path, b"no archive at all", f"in.txt.{suffix}")
    assert "the archive is damaged" in str(error)


def memory_of(code):
    """Return what a process says that knows its memory, and how much memory it had, in MiB."""
    code = MEMORY + code + "\nprint(memory('VmHWM'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *said, peak = done.stdout.splitlines()
    return "\n".join(said), float(peak)


MEMORY = """
from pathlib import Path
from gptkit.jobs.readers import open_inputs
def memory(what):
    return int(Path("/proc/self/status").read_text().split(what + ":")[1].split()[0]) / 1024
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
BOMBS = ["jsonl.zst", "csv.zst", "txt.gz"]
BOMB = """
for row in open_inputs({name!r}, Path({folder!r})): print(row.fault.type)
"""


@linux
@pytest.mark.parametrize(
    "name",
    ["in.jsonl.gz", *(pytest.param(f"in.{form}", marks=pytest.mark.slow) for form in BOMBS)],
)
def test_a_bomb_is_one_row_that_is_too_long(tmp_path, name):
    start = b"a,b\n" if "csv" in name else b""
    if name.endswith("gz"):
        with gzip.open(tmp_path / name, "wb", 9) as file:
            file.write(start)
            for _ in range(300):
                file.write(b"x" * 2**20)
    else:
        packer = zstandard.ZstdCompressor(19)
        with (tmp_path / name).open("wb") as raw, packer.stream_writer(raw) as file:
            file.write(start)
            for _ in range(300):
                file.write(b"x" * 2**20)
    assert (tmp_path / name).stat().st_size < 400_000
    said, peak = memory_of(BOMB.format(name=name, folder=str(tmp_path)))
    assert said == "row_too_long"
    assert peak < 100  # of 300 that it unpacks to


GROWTH = """
for row in open_inputs({name!r}, Path({folder!r})):
    if row.index == 999: before = memory("VmRSS")
print(row.index + 1, memory("VmRSS") / before)
"""


@linux
@pytest.mark.parametrize(
    "name", ["in.jsonl", "in.csv", "in.parquet", "in.jsonl.gz", "in.jsonl.zst", "in.txt"]
)
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, name):
    n = 100_000
    rows = ({"id": f"r{i}", "text": f"the text of row {i} " * 5} for i in range(n))
    if name == "in.parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / name)
    else:
        kind = name.split(".")[1]
        lines = (
            json.dumps(row) if kind == "jsonl" else ",".join(row.values()) if kind == "csv" else "x"
            for row in rows
        )
        data = ("id,text\n" * (kind == "csv") + "\n".join(lines)).encode()
        pack = {"gz": gzip.compress, "zst": zst}.get(name.split(".")[-1], bytes)
        write(tmp_path, pack(data), name)
    said, _ = memory_of(GROWTH.format(name=name, folder=str(tmp_path)))
    n_rows, growth = said.split()
    assert int(n_rows) == n
    assert float(growth) < 1.05


# Folders of text


def test_a_folder_of_text_files_is_a_row_for_each(tmp_path):
    folder = tmp_path / "docs"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    write(folder, "first\r\nline\n\n", "a.txt")
    write(folder, "", "c.md")
    write(folder / "b", "inner", "x.txt")
    write(folder / "b", gzip.compress(b"packed"), "y.TXT.gz")
    for name in ("picture.png", ".note.txt", "data.csv"):
        write(folder, "no row", name)
    write(folder / ".hidden", "no row", "z.txt")
    (folder / "loop").symlink_to(folder)
    rows = list(open_inputs("docs", tmp_path))
    assert [(row.id, row.fields["name"], row.fields["text"]) for row in rows] == [
        ("a.txt", "a.txt", "first\nline\n"),
        ("b/x.txt", "x.txt", "inner"),
        ("b/y.TXT.gz", "y.TXT.gz", "packed"),
        ("c.md", "c.md", ""),
    ]
    assert [row.file for row in rows][:2] == [f"{folder}/a.txt", f"{folder}/b/x.txt"]
    assert [row.line for row in rows] == [1, 1, 1, 1]
    assert [row.key for row in rows] == [row.id for row in rows]
    assert list(open_inputs("docs/", tmp_path)) == rows


def test_a_file_of_a_folder_that_can_not_be_read_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "docs"
    folder.mkdir()
    write(folder, b"\xff", "a.txt")
    broken = write(folder, gzip.compress(b"x" * 100)[:-9], "b.txt.gz")
    rows = iter(open_inputs("docs", tmp_path))
    assert next(rows).fault.type == "invalid_encoding"
    with pytest.raises(ConfigError, match=r"docs: b.txt.gz: the archive ends .*, after row 1"):
        next(rows)
    rows = iter(open_inputs("docs", tmp_path))
    next(rows)
    broken.unlink()
    with pytest.raises(ConfigError, match=r"docs: b.txt.gz: No such file .*, after row 1"):
        next(rows)
    limit(monkeypatch, 5)
    write(folder, "123456", "a.txt")
    assert next(iter(open_inputs("docs", tmp_path))).fault.type == "row_too_long"


def test_the_names_of_files_may_be_any_bytes(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    try:
        (folder / os.fsdecode(b"\xff.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system has names of UTF-8 alone")
    assert [name for _, name in text_files(folder)] == ["\udcff.txt"]
    (row,) = open_inputs("docs", tmp_path)
    assert (row.id, row.fields["name"]) == ("\\xff.txt", "\\xff.txt")
    assert row.file.encode()


def test_a_folder_without_text_files_is_refused(tmp_path):
    (tmp_path / "docs").mkdir()
    write(tmp_path / "docs", "{}", "a.jsonl")
    with pytest.raises(ConfigError, match=r"docs has no text files \(.txt, .md\)") as caught:
        open_inputs("docs", tmp_path)
    assert caught.value.hint == "other files are given by a pattern: docs/*.jsonl"


# Several inputs


def test_several_inputs_are_one_stream(tmp_path):
    write(tmp_path, '{"text": "a"}\n{"id": 1}\n', "b.jsonl")
    write(tmp_path, "text\nc\n", "a.csv")
    rows = list(open_inputs(["b.jsonl", "a.csv"], tmp_path))
    assert [row.index for row in rows] == [0, 1, 2]
    assert [row.line for row in rows] == [1, 2, 2]
    assert [Path(row.file).name for row in rows] == ["b.jsonl", "b.jsonl", "a.csv"]
    assert [row.key for row in rows] == [
        f"b.jsonl:1:{rows[0].digest}",
        "1",
        f"a.csv:2:{rows[2].digest}",
    ]


def test_keys_do_not_depend_on_where_a_job_is_run_from(tmp_path, monkeypatch):
    write(tmp_path, '{"text": "a"}\n', "b.jsonl")
    (tmp_path / "docs").mkdir()
    write(tmp_path / "docs", "x", "a.txt")
    there = [row.key for row in open_inputs(["b.jsonl", "docs"], tmp_path)]
    monkeypatch.chdir(tmp_path)
    here = [row.key for row in open_inputs(["b.jsonl", "docs"], Path())]
    assert here == there and here[1] == "docs/a.txt"


def test_a_pattern_means_files_in_the_order_of_their_names(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b", "a", "deep/c"):
        write(tmp_path, '{"text": "x"}\n', f"in/{name}.jsonl")
    one = open_inputs("in/*.jsonl", tmp_path)
    assert [path.name for path in one.files] == ["a.jsonl", "b.jsonl"]
    assert [row.key.split(":")[0] for row in one] == ["in/a.jsonl", "in/b.jsonl"]
    assert [path.name for path in open_inputs("in/*", tmp_path).files] == ["a.jsonl", "b.jsonl"]
    deep = open_inputs("in/**/*.jsonl", tmp_path)
    assert [path.name for path in deep.files] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_pattern_that_matches_more_files_tomorrow_changes_no_key(tmp_path):
    write(tmp_path, '{"text": "x"}\n', "a.jsonl")
    (before,) = open_inputs("*.jsonl", tmp_path)
    write(tmp_path, '{"text": "x"}\n', "b.jsonl")
    after, _ = open_inputs("*.jsonl", tmp_path)
    assert after.key == before.key


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    write(tmp_path, "{}\n", "a[1].jsonl")
    (row,) = open_inputs("a[1].jsonl", tmp_path)
    assert row.key == f"1:{row.digest}"
    assert [row.index for row in read_rows(tmp_path / "a[1].jsonl")] == [0]


def test_inputs_can_be_read_again_and_two_at_a_time(tmp_path):
    write(tmp_path, '{"id": 1}\n{"id": 2}\n')
    inputs = open_inputs("in.jsonl", tmp_path)
    assert [(a.id, b.id) for a, b in zip(inputs, inputs, strict=True)] == [(1, 1), (2, 2)]


def test_what_can_not_be_read_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path, "", "in.docx")
    write(tmp_path, "", "in.parquet.gz")
    write(tmp_path, "{}", "a.jsonl")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    for names, said in [
        ("none.jsonl", "inputs: can't read .*none.jsonl: No such file or directory"),
        ("empty", "inputs: .*empty has no text files"),
        ("in.docx", "inputs: in.docx is of no form that we read"),
        ("in.parquet.gz", "inputs: in.parquet.gz is of no form that we read"),
        ("*.tsv", r"inputs: no file matches .*\*.tsv"),
        (["a.jsonl", "a.jsonl"], "inputs: .*a.jsonl is read twice, also as .*a.jsonl"),
        (["a.jsonl", "link.jsonl"], "inputs: .*link.jsonl is read twice, also as .*a.jsonl"),
        (["*.jsonl"], "inputs: .*link.jsonl is read twice"),
    ]:
        with pytest.raises(ConfigError, match=said):
            open_inputs(names, tmp_path)
    with pytest.raises(ConfigError, match="examples: can't read"):
        open_inputs("none.jsonl", tmp_path, key="examples")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_file_without_permission_is_refused(tmp_path):
    write(tmp_path, "").chmod(0)
    with pytest.raises(ConfigError, match="can't read .*: Permission denied"):
        open_inputs("in.jsonl", tmp_path)


def test_a_file_that_goes_away_is_told(tmp_path):
    path = write(tmp_path, '{"id": 1}\n')
    inputs = open_inputs("in.jsonl", tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="in.jsonl: No such file or directory, after row 0"):
        list(inputs)


def test_inputs_are_called_by_their_first_file(tmp_path):
    write(tmp_path, "{}\n", "a.jsonl")
    write(tmp_path, "{}\n", "b.jsonl")
    assert str(open_inputs("a.jsonl", tmp_path)) == f"{tmp_path}/a.jsonl"
    assert str(open_inputs("*.jsonl", tmp_path)) == f"{tmp_path}/a.jsonl and 1 more"


@pytest.mark.parametrize(
    ("name", "package", "hint"),
    [
        ("in.parquet", "pyarrow", "pip install 'gptkit[parquet]'"),
        ("in.csv.zst", "zstandard", "pip install 'gptkit[zstd]'"),
    ],
)
def test_a_missing_extra_is_told_with_the_way_to_get_it(tmp_path, monkeypatch, name, package, hint):
    write(tmp_path, "", name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as caught:
        open_inputs(name, tmp_path)
    assert f"needs the package {package}, which is not installed" in str(caught.value)
    assert caught.value.hint == hint


# Standard input and pipes


class Stdin:
    def __init__(self, data):
        self.buffer = io.BytesIO(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("-", b'{"text": "x"}\n'),
        ("-.csv", b"text\nx\n"),
        ("-.txt", b"x\n"),
        ("-.jsonl.gz", gzip.compress(b'{"text": "x"}\n')),
    ],
    ids=["jsonl", "csv", "txt", "gzip"],  # packed bytes carry the time, workers must agree on names
)
def test_standard_input_is_spooled(tmp_path, monkeypatch, name, data):
    monkeypatch.setattr(sys, "stdin", Stdin(data))
    inputs = open_inputs(name, tmp_path, spool=True)
    assert list(inputs) == list(inputs)
    (row,) = inputs
    assert (row.fields, row.file) == ({"text": "x"}, "stdin")
    (path,) = inputs.files
    assert path.exists()
    del inputs
    assert not path.exists()


def test_standard_input_is_refused_where_it_can_not_be_read_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    with pytest.raises(ConfigError, match="inputs: standard input is no file") as caught:
        open_inputs("-", tmp_path)
    assert "--no-resume" in caught.value.hint
    with pytest.raises(ConfigError, match="standard input is read twice"):
        open_inputs(["-", "-.csv"], tmp_path, spool=True)
    with pytest.raises(ConfigError, match="-.docx is of no form"):
        open_inputs("-.docx", tmp_path, spool=True)


def test_a_pipe_is_spooled(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe is no regular file") as caught:
        open_inputs("pipe", tmp_path)
    assert "--no-resume" in caught.value.hint
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[b'{"id": 1}\n'])
    writer.start()
    (row,) = open_inputs("pipe", tmp_path, spool=True)
    writer.join()
    assert row.id == 1


def test_a_full_disk_is_told_while_spooling(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def read(self, n=-1):
            raise OSError(28, "No space left on device")

    stdin = Stdin(b"")
    stdin.buffer = Full()
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(ResourceError, match="can't copy stdin to .*: No space left"):
        open_inputs("-", tmp_path, spool=True)
