"""`gptkit report`: tables, the record, and a page that is whole and harmless."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from gptkit.cli import main
from gptkit.cli.report.tables import percent, perplexity, share, text_bars
from gptkit.jobs.reports.tally import Spread
from tests.jobs.test_report import COLD, TWO, WARM, answer, failed, score

HOSTILE = "<script>alert('x')</script> & \"quoted\" </p></div> \x1b[31m \u202egnp"
VOID = {"meta"}


@pytest.fixture
def out(tmp_path, monkeypatch):
    """Return a function that writes an output; the working directory is its folder."""
    monkeypatch.chdir(tmp_path)

    def make(lines, name="out.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return name

    return make


class Page(HTMLParser):
    """A page as a parser sees it: its tags in balance, its text by the tag that it stands in."""

    def __init__(self, source):
        super().__init__()
        self.open, self.seen, self.texts, self.links = [], set(), [], []
        self.feed(source)
        self.close()
        assert self.open == [], "tags are left open"

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names)
        self.links += [value for name, value in attributes if name in ("src", "href", "action")]
        assert not [name for name in names if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append((self.open[-1], data))

    def all(self, tag):
        return [text for one, text in self.texts if one == tag]


def page(*args):
    assert main(["report", *args, "--html", "page.html"]) == 0
    with open("page.html", encoding="utf-8") as file:
        source = file.read()
    return source, Page(source)


# Tables ---------------------------------------------------------------------------------------


def test_the_tables_of_one_cell(out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = [
        answer(0, "No.", new=2, prompt=10, why="stop_string"),
        answer(1, "the cat saw the cat", new=6, prompt=20, why="length", id="x"),
        failed(2),
        answer(3, "No.", new=2, prompt=30, why="stop_string"),
    ]
    assert main(["report", out(lines)]) == 0
    shown, err = capsys.readouterr()
    assert err == ""
    said = [line.rstrip() for line in shown.splitlines()]
    assert said == [
        "Rows",
        "rows  failed  new tokens  distinct-1  distinct-2",
        "   4       1         3.3       0.571       0.750",
        "",
        "Errors",
        "error             rows  first row  what it says",
        "context_overflow     1          2  too long",
        "",
        "Finish reasons",
        "why it ended  answers  share",
        "stop_string         2   67 %",
        "length              1   33 %",
        "",
        "Lengths",
        "of a row       min  p10  median  p90  max  mean",
        "prompt tokens   10   10      20   30   30  20.0  █    █    █",
        "new tokens       2    2       2    6    6   3.3  █   ▄",
        "",
        "Answers",
        "answers  empty  repeated  most often  the most common",
        "      3      0         2           2  No.",
        "repeated: rows whose answer another row has as well",
        "",
        "Rows that stand out",
        "which     row             size  text",
        "longest   1 (x)  19 characters  the cat saw the cat",
        "shortest  0       3 characters  No.",
    ]


def test_cells_have_a_line_each(out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["report", out(TWO)]) == 0
    shown = capsys.readouterr().out
    assert "cold        3       0         2.5       0.600       0.667  100 %" in shown
    assert "warm        3       1         6.0       0.600       1.000   50 %" in shown
    assert "the 2 rows that every cell answered" in shown


def test_lengths_that_are_the_same_in_all_cells_are_said_once(out, capsys):
    lines = [answer(i, new=i, prompt=9, cell=cell) for i in (3, 4) for cell in (COLD, WARM)]
    lines += [answer(5, new=1, prompt=9, cell=COLD), answer(5, new=2, prompt=9, cell=WARM)]
    assert main(["report", out(lines)]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^(\w+) .*█", shown, re.MULTILINE) == ["all", "cold", "warm"]


def test_scores_have_a_corpus_perplexity(out, capsys):
    assert main(["report", out([score(0, 1, -1.0, 2), score(1, 3, -5.0, 6)])]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"rows +failed +perplexity +bits/byte\n +2 +0 +4\.482 +1\.082", shown)
    assert "hardest  1    perplexity 5.294" in shown
    assert "Answers" not in shown


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_numbers_are_whole_on_a_screen_that_has_room_for_them(out, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    cell = {"model": "a-model-of-a-very-long-name-indeed"}
    other = {"model": "another-model-of-a-very-long-name"}
    lines = [answer(0, HOSTILE, cell=cell, new=1234), answer(0, "b " * 99, cell=other, new=5)]
    assert main(["report", out(lines)]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= width for line in shown.splitlines())
    assert "\x1b" not in shown and "\u202e" not in shown
    if width >= 60:
        assert "1,234.0" in shown and "a-" in shown


def test_numbers_are_written_short():
    assert [percent(n, 1000) for n in (0, 1, 500, 999, 1000)] == [
        "0 %",
        "0.1 %",
        "50 %",
        "99.9 %",
        "100 %",
    ]
    assert percent(0, 0) == "-"
    assert [perplexity(x) for x in (1.5, 12.345, 12345.6, float("nan"))] == [
        "1.5",
        "12.35",
        "12,346",
        "-",
    ]
    assert [share(x) for x in (0.5, 0.03, 0.00123, 0.0)] == ["0.500", "0.030", "0.0012", "0.000"]


def test_bars_show_what_is_rare():
    spread = Spread()
    for value, times in ((1, 1000), (5, 1), (12, 500)):
        for _ in range(times):
            spread.add(value)
    assert text_bars(spread, spread) == "█   ▁      ▄"


# The record -----------------------------------------------------------------------------------


def test_the_record_has_all_of_it(out, capsys):
    assert main(["report", out(TWO), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["rows"], record["rows_compared"], record["finished"]) == (3, 2, True)
    cold, warm = record["cells"]
    assert (cold["cell"], warm["cell"]) == (COLD, WARM)
    assert warm["failures"]["context_overflow"] == {
        "rows": 1,
        "first_index": 2,
        "message": "too long",
    }
    assert warm["of_rows_compared"]["same_as_first"] == 1
    assert warm["of_rows_compared"]["distinct_1"] == 0.6
    assert cold["new_tokens"] == {
        "min": 2,
        "p10": 2,
        "median": 3,
        "p90": 100,
        "max": 100,
        "mean": 35.0,
        "total": 105,
    }
    assert cold["longest"] == {"index": 2, "id": None, "text": "never seen", "characters": 10}
    assert cold["of_all_rows"]["perplexity"] is None


# The page -------------------------------------------------------------------------------------


def test_a_page_is_one_file_and_no_text_becomes_a_tag(out):
    cell = {"<b>axis</b>": "<img src=x onerror=alert(1)>"}
    other = {"<b>axis</b>": "plain"}
    lines = [
        answer(0, HOSTILE, cell=cell, id="<i>id</i>", why="<u>why</u>"),
        answer(0, HOSTILE, cell=other, id="<i>id</i>"),
        failed(1, "<s>type</s>", "<svg onload=alert(1)>", cell=cell),
        answer(1, "fine", cell=other),
    ]
    name = out(lines)
    manifest = {
        "gptkit_manifest": 1,
        "model": "<script>m</script>",
        "cells": [{"chain": ["<a href=x>"]}],
    }
    with open(f"{name}.manifest.json", "w") as file:
        json.dump(manifest, file)
    source, parsed = page(name)
    assert "script" not in parsed.seen and "img" not in parsed.seen and "a" not in parsed.seen
    assert parsed.links == []
    assert "url(" not in source and "http:" not in source and "https:" not in source
    assert any("<script>alert('x')</script> & \"quoted\"" in text for text in parsed.all("p"))
    assert "<script>m</script>" in parsed.all("dd")
    assert "\x1b" not in source and "\u202e" not in source
    assert "default-src 'none'" in source and "prefers-color-scheme: dark" in source


def test_a_page_has_the_plots_and_the_rows_side_by_side(out):
    _, parsed = page(out(TWO))
    titles = parsed.all("figcaption")
    assert titles[:3] == ["New tokens, mean", "Distinct-1", "Distinct-2"]
    assert "Same as in the first cell" in titles and "Finish reasons" in titles
    assert parsed.all("h2")[-1] == "The rows"
    assert parsed.all("h3") == ["row 0", "row 1", "row 2"]
    assert "eos, 3 tokens · same as the first" in parsed.all("span")
    assert [text for text in parsed.all("p") if text in ("a b", "a a", "too long")] == [
        "a b",
        "a a",
        "too long",
    ]


def test_a_page_says_how_the_output_was_made(out):
    name = out(TWO)
    cell = {"model": {"name": "mini", "sha256": "0123456789abcdef"}, "seed": 7}
    warm = [
        {"label": "temperature", "values": {"temperature": 0.9}},
        {"label": "xtc", "values": {"threshold": 0.1, "probability": 0.5}},
        {"label": "sample", "values": {}},
    ]
    manifest = {
        "gptkit_manifest": 1,
        "gptkit": "0.1.0",
        "fingerprint": {
            "cells": [
                {"label": COLD, "chain": [{"label": "greedy", "values": {}}], **cell},
                {"label": WARM, "chain": warm, **cell},
            ]
        },
        "runtime": {"device": "cpu", "dtype": ["float32"], "threads": 2},
        "last_run": {"load_s": 0.51, "compute_s": 2.0, "new_tokens": 500},
    }
    with open(f"{name}.manifest.json", "w") as file:
        json.dump(manifest, file)
    _, parsed = page(name)
    said = dict(zip(parsed.all("dt"), parsed.all("dd"), strict=True))
    assert said["model"] == "mini (sha256 0123456789ab)"
    assert said["sampling, cold"] == "greedy"
    assert said["sampling, warm"] == "temperature=0.9 xtc:threshold=0.1,probability=0.5 sample"
    assert said["seed"] == "7"
    assert said["computed"] == "cpu, float32, 2 threads"
    assert said["time"] == "0.5 s to load, 2.0 s to compute, 250 new tokens a second"
    assert said["fingerprint.cells[1].chain[1].values.threshold"] == "0.1"


@pytest.mark.parametrize("manifest", ["[]", "{", '{"fingerprint": {"cells": 3}}', '{"rows": null}'])
def test_a_page_takes_any_manifest(out, manifest):
    name = out(TWO)
    with open(f"{name}.manifest.json", "w") as file:
        file.write(manifest.replace("{", '{"gptkit_manifest": 1, ', 1))
    page(name)


def test_a_long_output_says_how_many_rows_are_not_shown(out):
    source, parsed = page(out([answer(i, f"text {i}") for i in range(250)]))
    assert "The first 200 rows" in parsed.all("h2")
    assert "and 50 more rows" in parsed.all("p")
    assert "text 199" in source and "text 200" not in source


@pytest.mark.parametrize(
    "lines",
    [
        [failed(0)],
        [answer(0, "", new=0, prompt=0)],
        [score(0, 5, -3.0, 20), score(1, 2, -0.0, 4)],
        [score(0, 5, -3.0, 20, COLD), score(0, 5, -4.0, 20, WARM)],
        [failed(0, cell=COLD), failed(0, cell=WARM)],
        [answer(0, cell=COLD), answer(1, cell=WARM)],
    ],
)
def test_a_page_of_little(out, capsys, lines):
    page(out(lines))
    assert "nan" not in capsys.readouterr().out.lower()


# Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["none.jsonl"], "no such output: none.jsonl"),
        (["out.jsonl", "--html", "page.txt"], "--html page.txt: the page is HTML"),
        (["out.jsonl", "--html", "no/page.html"], "there is no folder no"),
        (["bad.jsonl"], "bad.jsonl:2: not valid JSON"),
        (["empty.jsonl"], "empty.jsonl: no rows"),
    ],
)
def test_errors_are_one_line_and_a_hint(out, capsys, args, said):
    out([answer(0)])
    out([], "empty.jsonl")
    with open("bad.jsonl", "w") as file:
        file.write(json.dumps(answer(0)) + "\n{\n")
    assert main(["report", *args]) == 2
    shown, err = capsys.readouterr()
    assert shown == ""
    first, hint = err.splitlines()
    assert first.startswith("gptkit: error: ") and said in first
    assert hint.startswith("  hint: ")


def test_a_page_that_is_there_is_replaced_whole(out, tmp_path):
    (tmp_path / "page.html").write_text("old")
    source, _ = page(out([answer(0)]))
    assert source.startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "page.html"]
