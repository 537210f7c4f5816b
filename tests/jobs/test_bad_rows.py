"""Rows 52 to 66 of the table of bad input: what the command says of a job's rows, word for word."""

from __future__ import annotations

import os

import pytest

from gptkit.cli import main
from tests.jobs.tables import write

GOES_ON = "`on_bad_row: error_row` gives such a row an error and goes on"
CODING = f"`encoding: latin-1`, or whatever the file is written in; {GOES_ON}"
DIGITS = "9" * 5000
CSV = b"id,text\na,one\n"

REFUSED = [
    # (row of the table, name, its bytes, what is said behind its name, hint)
    ("52", "in.jsonl", b'{"id": 1, "body": "x"}\n', None, None),
    ("52", "in.csv", b"id,texts\n1,x\n", None, "did you mean 'texts'?"),
    (
        "55",
        "in.jsonl",
        b'{"text": "x"}\n' * 4710 + b'{"text": "x" "y"}\n',
        ":4711: not valid JSON (column 14)",
        GOES_ON,
    ),
    ("57", "in.jsonl", b'{"text": NaN}\n', ":1: NaN is not JSON", GOES_ON),
    ("57", "in.jsonl", b'{"text": -Infinity}\n', ":1: -Infinity is not JSON", GOES_ON),
    (
        "57",
        "in.jsonl",
        b'{"text": %s}\n' % DIGITS.encode(),
        ":1: a number of too many digits",
        GOES_ON,
    ),
    ("57", "in.jsonl", b"[" * 100_000, ":1: nested too deeply", GOES_ON),
    ("58", "in.jsonl", b'{"text": "x"}\n["x"]\n', ":2: expected an object, got a list", GOES_ON),
    ("58", "in.jsonl", b'"x"\n', ":1: expected an object, got text", GOES_ON),
    (
        "59",
        "in.csv",
        b"id,text\n" + b"a,b\n" * 86 + b'c,"d\ne,f\n',
        ": quote opened at line 88 is never closed",
        'close it; a quote inside a quoted field is written twice: ""',
    ),
    ("60", "in.csv", CSV + b"b\n", ":3: expected 2 columns (id, text), found 1", GOES_ON),
    ("60", "in.csv", CSV + b"b,two,more\n", ":3: expected 2 columns (id, text), found 3", GOES_ON),
    (
        "60",
        "in.csv",
        b"id,text,text\n",
        ":1: two columns are named 'text'; there are: id, text, text",
        "give each column a name of its own",
    ),
    (
        "60",
        "in.csv",
        b",id,text\n0,a,one\n",
        ":1: column 1 has no name; there are: , id, text",
        "name it or leave it out; pandas writes its index without index=False",
    ),
    ("62", "in.csv", CSV + b"b,a\0b\n", ":3: NUL character at byte 3", GOES_ON),
    (
        "62",
        "in.csv",
        CSV + b"b," + b"x" * 1202 + b"\xe4\n",
        ":3: not valid UTF-8 at byte 1,204",
        CODING,
    ),
    ("62", "in.csv", CSV.decode().encode("utf-16"), " is UTF-16 text", "`encoding: utf-16`"),
    (
        "64",
        "in.jsonl",
        b'{"id": "x17", "text": "x"}\n\n{"id": "x17", "text": "y"}\n',
        ": id 'x17' at lines 1 and 3",
        "give each row an id of its own, or leave ids out",
    ),
    (
        "64",
        "in.csv",
        CSV + b"b,two\na,three\n",
        ": id 'a' at lines 2 and 4",
        "give each row an id of its own, or leave ids out",
    ),
    ("gz", "in.jsonl.gz", b"\x1f\x8b\x08\x00", ": the archive ends too early, after row 0", None),
]
SAID = {
    "in.jsonl": "template uses $text; input has: id, body",
    "in.csv": "template uses $text; input has: id, texts",
}

FAULTY = [
    # (row of the table, name, its bytes, index and type of the error, its message)
    (
        "55",
        "in.jsonl",
        b'{"text": "x"}\n{"text": "x" "y"}\n',
        1,
        "invalid_json",
        "not valid JSON (column 14)",
    ),
    ("57", "in.jsonl", b'{"text": "x"}\n{"text": NaN}\n', 1, "invalid_json", "NaN is not JSON"),
    (
        "57",
        "in.jsonl",
        b'{"n": %s}\n{"text": "x"}\n' % DIGITS.encode(),
        0,
        "invalid_json",
        "a number of too many digits",
    ),
    ("57", "in.jsonl", b'{"text": "x"}\n' + b"[" * 100_000, 1, "invalid_json", "nested too deeply"),
    (
        "58",
        "in.jsonl",
        b'{"text": "x"}\n["x"]\n',
        1,
        "not_an_object",
        "expected an object, got a list",
    ),
    ("60", "in.csv", CSV + b"b\n", 1, "wrong_columns", "expected 2 columns (id, text), found 1"),
    (
        "60",
        "in.csv",
        CSV + b"b,two,more\n",
        1,
        "wrong_columns",
        "expected 2 columns (id, text), found 3",
    ),
    ("62", "in.csv", CSV + b"b,a\0b\n", 1, "invalid_csv", "NUL character at byte 3"),
    ("62", "in.csv", CSV + b"b,\xe4\n", 1, "invalid_encoding", "not valid UTF-8 at byte 2"),
]


@pytest.fixture
def job(workshop):
    """Return a function that runs a small job over a file and gives exit code and stderr."""

    def run(name, data, capsys, *args, **changes):
        write(workshop.folder, data, name)
        path = workshop.job(**{"inputs": f'"{name}"', "stop": "{max_new_tokens: 2}", **changes})
        code = main(["run", str(path), "--device", "cpu", *args])
        return code, capsys.readouterr().err

    return run


def lines(error, hint=None):
    return [f"gptkit: error: {error}", *([f"  hint: {hint}"] if hint else [])]


@pytest.mark.parametrize(("row", "name", "data", "said", "hint"), REFUSED)
def test_rows_that_can_not_be_read_are_refused(workshop, job, capsys, row, name, data, said, hint):
    code, err = job(name, data, capsys)
    said = SAID[name] if said is None else f"{workshop.folder}/{name}{said}"
    assert code == 2
    if row == "52":
        hint = hint or "name the input's own: `fields: {TEMPLATE_FIELD: INPUT_FIELD}`"
    assert err.splitlines() == lines(said, hint)
    assert not (workshop.folder / "out.jsonl").exists()


@pytest.mark.parametrize(("row", "name", "data", "index", "kind", "message"), FAULTY)
def test_or_have_an_error_in_their_place(
    workshop, job, capsys, row, name, data, index, kind, message
):
    code, err = job(name, data, capsys, on_bad_row="error_row")
    assert code == 4
    assert f"1 ok, 1 failed (see error.type), 1 {kind}" in err
    out = workshop.out()
    assert out[index]["error"] == {"type": kind, "message": message}
    assert "text" in out[1 - index]


def test_53_an_input_that_is_not_there_or_no_file(workshop, job, capsys):
    for name, hint in [("not-there.csv", ()), ("im.jsonl", ("did you mean 'in.jsonl'?",))]:
        code, err = job("in.jsonl", b"", capsys, inputs=name)
        path = workshop.folder / name
        assert code == 2
        said = f"inputs: can't read {path}: No such file or directory"
        assert err.splitlines() == lines(said, *hint)
    (workshop.folder / "empty").mkdir()
    code, err = job("in.jsonl", b"", capsys, inputs="empty")
    assert code == 2
    assert err.splitlines() == lines(
        f"inputs: {workshop.folder}/empty has no text files (.txt, .md)",
        "other files are given by a pattern: empty/*.jsonl",
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_53_an_input_without_permission(workshop, job, capsys):
    path = write(workshop.folder, "{}", "shut.jsonl")
    path.chmod(0)
    code, err = job("in.jsonl", b"", capsys, inputs="shut.jsonl")
    assert (code, err.splitlines()) == (2, lines(f"inputs: can't read {path}: Permission denied"))


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.txt"])
@pytest.mark.parametrize(("form", "left"), [("jsonl", 0), ("csv", 1)])
def test_54_no_rows_are_no_error(workshop, job, capsys, name, form, left):
    code, err = job(name, b"", capsys, outputs=f"out.{form}")
    assert code == 0
    assert err == f"0 rows; written to out.{form}\n"
    assert len((workshop.folder / f"out.{form}").read_text().splitlines()) == left


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("in.jsonl", b'\xef\xbb\xbf{"text": "a\xe2\x80\xa8b"}\r\n{"text": "c"}\r\n\r\n'),  # 56
        ("in.csv", b'\xef\xbb\xbftext\r\n"a\xe2\x80\xa8b"\r\nc\r\n\r\n'),
    ],
)
def test_56_marks_line_ends_and_blank_lines_are_taken(workshop, job, capsys, name, data):
    code, _ = job(name, data, capsys, keep="[text]")
    out = workshop.out()
    assert [row["fields"]["text"] for row in out] == ["a\u2028b", "c"]
    assert out[1]["finish_reason"] == "length"
    assert (code, out[0]["error"]["type"]) == (4, "request_error")  # the tiny model has no U+2028


def test_61_a_long_field_is_taken(workshop, job, capsys):
    data = f"id,text\na,{'x' * 200_000}\n".encode()
    code, err = job("in.csv", data, capsys, on_overflow="truncate_left")
    assert code == 0 and "1 ok" in err
    code, err = job("in.csv", data.replace(b"x", b"x" * 50), capsys, outputs="b.jsonl")
    said = f"{workshop.folder}/in.csv:2: the row is over 8,388,608 bytes"
    assert (code, err.splitlines()) == (2, lines(said, GOES_ON))


@pytest.mark.parametrize(("safe", "mark"), [("false", ""), ("true", "'")])
def test_63_cells_that_a_spreadsheet_would_run(workshop, job, capsys, safe, mark):
    data = b"id,text\n1,=1+1\n2,-x\n3,x\n"
    changes = {"outputs": "out.csv", "keep": "[text]", "csv_safe": safe, "on_bad_row": "error_row"}
    code, err = job("in.csv", data, capsys, **changes)
    found = (workshop.folder / "out.csv").read_text()
    assert [line.split(",")[2] for line in found.splitlines()[1:4]] == [
        f"{mark}=1+1",
        f"{mark}-x",
        "x",
    ]


def test_64_ids_may_repeat_where_the_job_says_so(workshop, job, capsys):
    data = b'{"id": "a", "text": "x"}\n{"id": "a", "text": "x"}\n'
    code, err = job("in.jsonl", data, capsys, ids="allow_duplicates")
    a, b = workshop.out()
    assert (code, a["id"], b["id"]) == (0, "a", "a")
    assert a["seed"] != b["seed"]


def test_65_an_output_of_another_job(workshop, job, capsys):
    data = b'{"text": "x"}\n'
    assert job("in.jsonl", data, capsys)[0] == 0
    code, err = job("in.jsonl", data, capsys, "-s", "temperature=0.5")
    assert code == 5
    assert err.splitlines() == lines(
        "out.jsonl.journal belongs to a different job: temperature 0.9 -> 0.5",
        "give another --output, or begin anew with --restart",
    )


@pytest.mark.parametrize("how", ["same", "soft", "hard", "pattern"])
def test_66_an_output_that_is_an_input(workshop, job, capsys, how):
    data = b'{"text": "x"}\n'
    source = write(workshop.folder, data)
    out = workshop.folder / ("in.jsonl" if how == "same" else "out.jsonl")
    if how == "soft":
        out.symlink_to(source)
    elif how == "hard":
        out.hardlink_to(source)
    elif how == "pattern":
        write(workshop.folder, data, "out.jsonl")
    inputs = '"*.jsonl"' if how == "pattern" else "in.jsonl"
    code, err = job("in.jsonl", data, capsys, inputs=inputs, outputs=out.name)
    read = workshop.folder / ("out.jsonl" if how == "pattern" else "in.jsonl")
    said = f"outputs: {out.name} is the file that the job reads: {read}"
    assert (code, err.splitlines()) == (2, lines(said, "give another path"))
    assert source.read_bytes() == data
