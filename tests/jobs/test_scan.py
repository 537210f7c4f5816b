"""The look at all rows, on files of every form."""

from __future__ import annotations

import pytest

from gptkit.errors import ConfigError
from gptkit.jobs import scan as scan_module
from gptkit.jobs.readers import open_inputs
from gptkit.jobs.rows import key_hash
from gptkit.jobs.scan import scan
from tests.jobs.tables import write


def scanned(folder, data, name="in.jsonl", wanted=(), **options):
    write(folder, data, name)
    return scan(open_inputs(name, folder), wanted, **{"refuse_bad": True, **options})


def keys(inputs):
    return [row.key for row in inputs]


def test_a_scan_counts_rows_and_finds_fields(tmp_path):
    data = '[]\n{"id": 1, "text": "a"}\n{"id": 2, "title": "b"}\n'
    inputs, found = scanned(tmp_path, data, wanted={"title", "text", "year"}, refuse_bad=False)
    assert found.n_rows == 3
    assert found.seen == {"title", "text"}
    assert found.fields == ("id", "text")
    assert [row.index for row in inputs] == [0, 1, 2]


def test_a_scan_refuses_a_bad_row_by_its_line(tmp_path):
    data = '{"id": 1}\n\n{"id": 2,}\n'
    with pytest.raises(ConfigError, match=r"in.jsonl:3: not valid JSON \(column 10\)") as caught:
        scanned(tmp_path, data)
    assert caught.value.hint == "`on_bad_row: error_row` gives such a row an error and goes on"
    assert scanned(tmp_path, data, refuse_bad=False)[1].n_rows == 2


def test_a_wrong_encoding_is_told_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match="in.csv:2: not valid UTF-8 at byte 0") as caught:
        scanned(tmp_path, b"a\n\xff\n", "in.csv")
    assert caught.value.hint.startswith("`encoding: latin-1`, or whatever")


def test_a_scan_leaves_half_a_character_to_its_row(tmp_path):
    assert scanned(tmp_path, '{"text": "\\ud800"}\n')[1].n_rows == 1


def test_an_empty_file_has_no_rows(tmp_path):
    assert scanned(tmp_path, "\n\n", wanted={"text"})[1].n_rows == 0


def test_the_digest_changes_with_any_row(tmp_path):
    one = scanned(tmp_path, '{"a": 1}\n{"a": 2}\n')[1].digest
    assert scanned(tmp_path, '{"a": 1}\n{"a": 2}')[1].digest == one
    others = ['{"a": 1}\n', '{"a": 2}\n{"a": 1}\n', '{"a": 1}\n{"a": 3}\n', '{"id": 1}\n{"a": 2}']
    assert len({one, *(scanned(tmp_path, data)[1].digest for data in others)}) == 5


# Ids


@pytest.mark.parametrize(("first", "second"), [('"x17"', '"x17"'), ('"17"', "17")])
def test_an_id_given_twice_names_both_lines(tmp_path, first, second):
    data = f'{{"id": "a"}}\n{{"id": {first}}}\n\n{{"id": {second}}}\n{{"id": "a"}}\n'
    said = rf"in.jsonl: id {first.replace(chr(34), chr(39))} at lines 2 and 4"
    with pytest.raises(ConfigError, match=said):
        scanned(tmp_path, data)


def test_an_id_given_twice_in_two_files_names_both(tmp_path):
    write(tmp_path, "id\n1\n2\n", "a.csv")
    write(tmp_path, '{"id": 3}\n{"id": 2}\n', "b.jsonl")
    with pytest.raises(ConfigError, match="id '2' at .*a.csv:3 and .*b.jsonl:2"):
        scan(open_inputs(["a.csv", "b.jsonl"], tmp_path), (), refuse_bad=True)


def test_an_id_may_not_be_what_another_row_is_known_by(tmp_path):
    (row,) = open_inputs(write(tmp_path, '{"a": 1}\n').name, tmp_path)
    with pytest.raises(ConfigError, match=f"id '{row.key}' at lines 1 and 2"):
        scanned(tmp_path, f'{{"a": 1}}\n{{"id": "{row.key}"}}\n')


def test_two_keys_of_one_hash_are_two_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "key_hash", lambda key: key_hash(key) % 3)
    ids = "".join(f'{{"id": {i}}}\n' for i in range(20))
    inputs, found = scanned(tmp_path, ids)
    assert found.n_rows == 20 and keys(inputs) == [str(i) for i in range(20)]
    with pytest.raises(ConfigError, match="id 7 at lines 8 and 21"):
        scanned(tmp_path, ids + '{"id": 7}\n')


def test_ids_may_repeat_where_that_is_allowed(tmp_path):
    data = '{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n{"text": "x"}\n{"id": "a"}\n'
    inputs, found = scanned(tmp_path, data, allow_duplicates=True)
    assert found.n_rows == 5
    assert keys(inputs) == keys(inputs)
    a, b, c, d, e = keys(inputs)
    assert [a, b, c, e] == ["a", "b", "a#2", "a#3"] and d.startswith("4:")
    assert [row.id for row in inputs] == ["a", "b", "a", None, "a"]


def test_a_number_of_a_repeated_id_may_not_be_another_id(tmp_path):
    data = '{"id": "a"}\n{"id": "a#2"}\n{"id": "a"}\n'
    assert scanned(tmp_path, data.rsplit("\n", 2)[0])[1].n_rows == 2
    with pytest.raises(ConfigError, match="lines 2 and 3") as caught:
        scanned(tmp_path, data, allow_duplicates=True)
    assert "ID#2" in caught.value.hint


def test_a_scan_needs_few_bytes_for_a_row(tmp_path):
    import tracemalloc

    n = 50_000
    write(tmp_path, "".join(f'{{"id": "row number {i}"}}\n' for i in range(n)))
    inputs = open_inputs("in.jsonl", tmp_path)
    import numpy  # noqa: F401  # else it is counted

    tracemalloc.start()
    scan(inputs, (), refuse_bad=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / n < 64
