"""The tutorial: what it shows of its package is what `plugins new` and the kit make of it now."""

from __future__ import annotations

import re
import sys

import pytest

from gptkit.cli import main
from gptkit.testing import examine, subjects
from tests.docs_blocks import DOCS

PAGE = (DOCS / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```', PAGE, re.M | re.S))
FIRST = BLOCKS["src/gptkit_cap/__init__.py, first try"]
LINES = re.compile(r"        logits -= .*\n        return .*\n")


@pytest.fixture
def examined(tmp_path):
    """Return a function: write a module as the page has it and examine its one plugin."""

    def run(text):
        path = tmp_path / "cap.py"
        path.write_text(text)
        (found,) = subjects.find(str(path))
        assert found.reason is None
        return examine(found.plugin)

    yield run
    sys.modules.pop("gptkit_local_cap", None)


def test_the_package_is_as_the_page_shows_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "sampler", "cap"]) == 0
    assert f"$ gptkit plugins new sampler cap\n{capsys.readouterr().out}```" in PAGE


def test_the_first_try_fails_as_the_page_says(examined):
    (finding, *_) = examined(FIRST).findings
    assert finding.code == "C2"
    said = " ".join(PAGE.split())
    assert finding.message.partition(";")[0] in said


def test_the_second_try_holds_and_makes_the_checks_of_the_page(examined):
    text, n_changed = LINES.subn(BLOCKS["apply, second try"], FIRST)
    report = examined(text)
    assert n_changed == 1
    assert report.ok, report.findings
    shown = re.findall(r"^  (C\d+)  ", PAGE.rpartition("$ gptkit plugins test gptkit-cap")[2], re.M)
    made = [code for code, *_ in (*report.checks_run, *report.skipped)]
    assert sorted(set(shown)) == sorted({*made, "C14"})


def test_the_test_of_the_page_passes(examined, monkeypatch):
    examined(LINES.sub(BLOCKS["apply, second try"], FIRST))
    monkeypatch.setitem(sys.modules, "gptkit_cap", sys.modules["gptkit_local_cap"])
    names: dict = {}
    exec(compile(BLOCKS["tests/test_cap.py"], "test_cap.py", "exec"), names)
    names["test_three_tokens_worked_by_hand"]()
