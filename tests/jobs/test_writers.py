"""Rows out: each form against what is known to read it, whole or not at all, always the same."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys

import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptkit.errors import ConfigError
from gptkit.jobs.readers import read_rows
from gptkit.jobs.writers import check_output, columns, parquet, write_rows
from tests.jobs.tables import TEXTS, write

SETTINGS = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PLAIN = columns("generate", 1, None)
FORMS = ["jsonl", "ndjson", "csv", "tsv", "parquet"]
PACKED = [f"{form}.{packed}" for form in ("jsonl", "csv", "tsv") for packed in ("gz", "zst")]
NUMBERS = st.integers(0, 2**63 - 1)


def answer(index, **changes):
    return {
        "index": index,
        "id": f"r{index}",
        "text": f"Answer {index}.",
        "finish_reason": "eos",
        "prompt_tokens": 12,
        "new_tokens": 3,
        "seed": 2**63 - 1 - index,
        **changes,
    }


def failed(index, **changes):
    error = {"type": "context_overflow", "message": "prompt has 900 tokens, there is room for 3"}
    return {"index": index, "id": None, "error": error, **changes}


def table_of(path):
    """Return the rows of a table as dicts, empty cells of CSV as None."""
    name = path.name
    if name.endswith("parquet"):
        return pq.read_table(path).to_pylist()
    data = path.read_bytes()
    if name.endswith("gz"):
        data = gzip.decompress(data)
    elif name.endswith("zst"):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    text = io.StringIO(data.decode(), newline="")
    delimiter = "\t" if ".tsv" in name else ","
    return [
        {key: value or None for key, value in row.items()}
        for row in csv.DictReader(text, delimiter=delimiter, strict=True)
    ]


# Forms


def test_jsonl_has_each_row_as_it_is(tmp_path):
    rows = [answer(0, text="é\u2028"), failed(1)]
    write_rows(tmp_path / "out.jsonl", rows, PLAIN)
    data = (tmp_path / "out.jsonl").read_bytes()
    assert [json.loads(line) for line in data.splitlines()] == rows
    assert "é\u2028".encode() in data and data.endswith(b"}\n")


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_a_table_has_the_columns_of_the_job(tmp_path, form):
    path = tmp_path / f"out.{form}"
    write_rows(path, [answer(0, id=7), failed(1)], PLAIN)
    a, b = table_of(path)
    assert list(a) == [
        "index",
        "id",
        "text",
        "finish_reason",
        "prompt_tokens",
        "new_tokens",
        "seed",
        "error_type",
        "error_message",
    ]
    assert (a["id"], str(a["seed"]), a["error_type"]) == ("7", str(2**63 - 1), None)
    assert b["error_type"] == "context_overflow"
    assert b["error_message"] == "prompt has 900 tokens, there is room for 3"
    assert (b["id"], b["text"], b["seed"]) == (None, None, None)


def names(*args, **options):
    return [column.name for column in columns(*args, **options)]


def test_columns_depend_on_the_job_alone():
    error = ["error_type", "error_message"]
    answers = ["text", "finish_reason", "prompt_tokens", "new_tokens", "seed"]
    assert names("generate", 1, None) == ["index", "id", *answers, *error]
    assert names("generate", 1, 0) == ["index", "id", *answers, "logprobs", *error]
    assert names("generate", 3, 5) == ["index", "id", "prompt_tokens", "samples", *error]
    assert names("score", 1, None, ["model", "seed"], ["title"]) == [
        "index",
        "id",
        "cell_model",
        "cell_seed",
        "fields_title",
        "tokens",
        "logprob",
        "perplexity",
        "bits_per_byte",
        *error,
    ]


TOKENS = [
    {"token": "a", "logprob": -0.5, "top": [{"token": "b", "logprob": -1.5}]},
    {"token": "\ufffd", "logprob": None, "top": []},
]


def test_lists_are_nested_in_parquet_and_json_in_csv(tmp_path):
    sample = {"text": "x", "finish_reason": "eos", "new_tokens": 1, "seed": 5, "logprobs": TOKENS}
    row = {"index": 0, "id": "a", "prompt_tokens": 3, "samples": [sample, sample]}
    for made, changed in [
        (columns("generate", 2, 1), row),
        (columns("generate", 1, 1), answer(0, logprobs=TOKENS)),
    ]:
        key = "samples" if "samples" in changed else "logprobs"
        write_rows(tmp_path / "out.parquet", [changed, failed(1)], made)
        write_rows(tmp_path / "out.csv", [changed, failed(1)], made)
        a, b = table_of(tmp_path / "out.parquet")
        assert (a[key], b[key]) == (changed[key], None)
        a, b = table_of(tmp_path / "out.csv")
        assert (json.loads(a[key]), b[key]) == (changed[key], None)
    without = {name: value for name, value in sample.items() if name != "logprobs"}
    row["samples"] = [without]
    write_rows(tmp_path / "out.parquet", [row], columns("generate", 2, None))
    assert table_of(tmp_path / "out.parquet")[0]["samples"] == [without]


def test_cells_and_kept_fields_are_columns_of_text(tmp_path):
    made = columns("generate", 1, None, ["model"], ["title", "year", "tags", "index"])
    fields = {"title": "x, y", "year": 1998, "tags": ["a"], "index": None}
    rows = [answer(0, cell={"model": "mini"}, fields=fields), failed(1, cell={"model": "mini"})]
    for form in ("csv", "parquet"):
        write_rows(tmp_path / f"out.{form}", rows, made)
        a, b = table_of(tmp_path / f"out.{form}")
        assert (a["cell_model"], b["cell_model"]) == ("mini", "mini")
        kept = [a[f"fields_{name}"] for name in fields]
        assert kept == ["x, y", "1998", '["a"]', None]
        assert b["fields_title"] is None


def test_a_score_is_a_row_of_numbers(tmp_path):
    row = {"index": 0, "id": "a", "tokens": 3, "logprob": -1.25, "perplexity": 1.5}
    row["bits_per_byte"] = 1e-7
    for form in ("csv", "parquet"):
        write_rows(tmp_path / f"out.{form}", [row], columns("score", 1, None))
        (found,) = table_of(tmp_path / f"out.{form}")
        assert [float(found[name]) for name in list(row)[2:]] == [3, -1.25, 1.5, 1e-7]


ANSWERS = st.lists(
    st.builds(
        lambda **values: values,
        id=TEXTS | st.none() | NUMBERS,
        text=TEXTS | st.none(),
        finish_reason=st.sampled_from(["eos", "length"]),
        prompt_tokens=NUMBERS,
        new_tokens=NUMBERS,
        seed=NUMBERS,
    ),
    max_size=5,
)


@SETTINGS
@given(ANSWERS, st.sampled_from([*FORMS[2:], "csv.gz", "tsv.zst"]))
def test_a_table_is_what_its_own_library_reads(tmp_path, answers, form):
    rows = [{"index": i, **row} for i, row in enumerate(answers)]
    path = tmp_path / f"out.{form}"
    write_rows(path, rows, PLAIN)

    def said(value):
        return None if value is None or (value == "" and form != "parquet") else str(value)

    expected = [{column.name: said(column.value(row)) for column in PLAIN} for row in rows]
    found = [{key: said(value) for key, value in row.items()} for row in table_of(path)]
    assert found == expected


@SETTINGS
@given(ANSWERS, st.sampled_from([*FORMS, *PACKED]))
def test_what_is_written_can_be_an_input(tmp_path, answers, form):
    rows = [{"index": i, **row} for i, row in enumerate(answers)]
    path = tmp_path / f"out.{form}"
    write_rows(path, rows, PLAIN)
    found = [row.fields for row in read_rows(path)]
    assert [str(row["index"]) for row in found] == [str(i) for i in range(len(rows))]
    assert [row["text"] or "" for row in found] == [row["text"] or "" for row in rows]


def test_empty_text_is_not_no_text(tmp_path):
    write_rows(tmp_path / "out.csv", [answer(0, text=""), failed(1)], PLAIN)
    _, a, b = (tmp_path / "out.csv").read_text().splitlines()
    assert a.startswith('0,r0,"",eos') and b.startswith("1,,,,")


FORMULAS = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "safe", " =1"]


def test_cells_are_written_as_they_are(tmp_path):
    write_rows(tmp_path / "out.csv", [answer(0, text=text) for text in FORMULAS], PLAIN)
    assert [row["text"] for row in table_of(tmp_path / "out.csv")] == FORMULAS


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_csv_safe_marks_what_a_spreadsheet_would_run(tmp_path, form):
    rows = [answer(0, id="=a", text=text) for text in FORMULAS]
    path = tmp_path / f"out.{form}"
    write_rows(path, rows, PLAIN, csv_safe=True)
    marked = [f"'{text}" for text in FORMULAS[:6]] + FORMULAS[6:]
    assert [row["text"] for row in table_of(path)] == marked
    assert table_of(path)[0]["id"] == "'=a"
    row = {"index": 0, "id": "a", "tokens": 3, "logprob": -1.25}
    write_rows(path, [row], columns("score", 1, None), csv_safe=True)
    assert table_of(path)[0]["logprob"] == "-1.25"  # a number is no formula


@pytest.mark.parametrize("form", [*FORMS, *PACKED])
def test_no_rows_are_a_file_without_rows(tmp_path, form):
    path = tmp_path / f"out.{form}"
    write_rows(path, [], PLAIN)
    if "json" not in form:
        assert table_of(path) == []
    if form == "jsonl":
        assert path.read_bytes() == b""
    assert list(read_rows(path)) == []


def test_something_that_no_column_has_is_not_lost(tmp_path):
    with pytest.raises(ValueError, match="no column has logprobs"):
        write_rows(tmp_path / "out.csv", [answer(0, logprobs=[])], PLAIN)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", FORMS[:3])
def test_nan_is_never_written(tmp_path, form):
    with pytest.raises(ValueError):
        write_rows(tmp_path / f"out.{form}", [answer(0, seed=float("nan"))], PLAIN)
    assert os.listdir(tmp_path) == []


# The same bytes


@pytest.mark.parametrize("form", [*FORMS, *PACKED])
def test_the_same_rows_give_the_same_bytes(tmp_path, form, monkeypatch):
    import time

    rows = [answer(i, text=f"{i} " * 30) for i in range(500)]
    first, second = tmp_path / f"a.{form}", tmp_path / f"b.{form}"
    write_rows(first, rows, PLAIN)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_rows(second, iter(rows), PLAIN)
    assert first.read_bytes() == second.read_bytes()


def test_a_row_group_ends_by_rows_or_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 10)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1000)
    rows = [answer(i) for i in range(25)] + [answer(25, text="x" * 2000), answer(26)]
    write_rows(tmp_path / "out.parquet", rows, PLAIN)
    found = pq.ParquetFile(tmp_path / "out.parquet")
    sizes = [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)]
    assert sum(sizes) == 27 and max(sizes) == 10 and sizes[-1] == 1
    assert [row["index"] for row in found.read().to_pylist()] == list(range(27))


# Whole or not at all


@pytest.mark.parametrize("form", [*FORMS, *PACKED])
def test_rows_appear_when_all_are_there(tmp_path, form):
    path = write(tmp_path, "old", f"out.{form}")

    def rows():
        yield answer(0)
        assert path.read_text() == "old"
        yield answer(1)

    write_rows(path, rows(), PLAIN)
    assert [row.index for row in read_rows(path)] == [0, 1]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("form", [*FORMS, *PACKED])
@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, ValueError])
def test_an_interrupted_job_leaves_nothing(tmp_path, form, error):
    def rows():
        yield answer(0)
        raise error

    with pytest.raises(error):
        write_rows(tmp_path / f"out.{form}", rows(), PLAIN)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", [*FORMS, *PACKED])
def test_a_write_that_is_cut_short_leaves_nothing(tmp_path, form):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = [answer(i, text=os.urandom(1000).hex()) for i in range(100)]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OSError) as caught:
            write_rows(tmp_path / f"out.{form}", rows, PLAIN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == 27  # EFBIG
    assert os.listdir(tmp_path) == []


def test_a_sync_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_rows(tmp_path / "out.jsonl", [answer(0)], PLAIN)
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "real" / "x.jsonl")
    write_rows(link, [answer(0)], PLAIN)
    assert link.is_symlink()
    assert json.loads((tmp_path / "real" / "x.jsonl").read_text()) == answer(0)


# Before anything is computed


def test_an_output_that_is_an_input_is_refused_through_links_too(tmp_path):
    source = write(tmp_path, "{}")
    (tmp_path / "soft.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    for name in ("in.jsonl", "soft.jsonl", "hard.jsonl"):
        with pytest.raises(ConfigError, match="is the file that the job reads"):
            check_output(tmp_path / name, [tmp_path, source])
    check_output(tmp_path / "out.jsonl", [source])


def test_an_output_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "dir.jsonl").mkdir()
    for name, said in [
        ("none/out.jsonl", "outputs: no such directory: .*none"),
        ("dir.jsonl", "outputs: .*dir.jsonl is no regular file"),
        ("out.txt", "outputs: out.txt is of no form that we write"),
        ("out.xlsx", "outputs: out.xlsx is of no form that we write"),
        ("out.parquet.gz", "outputs: out.parquet.gz is of no form that we write"),
    ]:
        with pytest.raises(ConfigError, match=said) as caught:
            check_output(tmp_path / name, [])
    assert caught.value.hint == (
        "one of .jsonl, .ndjson, .csv, .tsv, .parquet; also with .gz and .zst, but for Parquet"
    )
    for form in [*FORMS, *PACKED]:
        check_output(tmp_path / f"out.{form}", [])


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("out.parquet", "pyarrow", "parquet"), ("out.csv.zst", "zstandard", "zstd")],
)
def test_a_missing_extra_is_told_before_the_job(tmp_path, monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"outputs: {name}: .* needs the package {package}") as e:
        check_output(tmp_path / name, [])
    assert e.value.hint == f"pip install 'gptkit[{extra}]'"
