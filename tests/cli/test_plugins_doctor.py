"""`gptkit plugins doctor`: nine kinds of broken plugins, clashes, files, and worse ones."""

from __future__ import annotations

import json
import os

import pytest

from gptkit.cli import main
from gptkit.cli.plugins import doctor
from tests import makers

ZOO = makers.FIXTURES / "plugins_zoo"
SAMPLER = '''
from gptkit.plugin_api import Sampler, hookimpl

class Change(Sampler):
    """Change nothing."""

    name = "{name}"

    def apply(self, logits, p, rows):
        return logits

@hookimpl
def gptkit_samplers():
    yield Change
'''


def examined(capsys, *args):
    code = main(["plugins", "doctor", *args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return a function: list these texts, by names, in GPTKIT_PLUGINS, and return the paths."""

    def install(**texts):
        paths = [tmp_path / f"{name}.py" for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text)
        monkeypatch.setenv("GPTKIT_PLUGINS", os.pathsep.join(map(str, paths)))
        return list(map(str, paths))

    return install


def test_all_nine_kinds_of_trouble_have_a_line_and_a_way_out(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ZOO))
    monkeypatch.setenv("GPTKIT_PLUGINS", "no.py")
    code, out, err = examined(capsys, "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    found = {one["distribution"]: one for one in said["plugins"]}
    zoo = {name: one for name, one in found.items() if name.startswith("zoo-")}
    assert len(zoo) == 9
    failed = {name for name, one in zoo.items() if one["status"] == "failed"}
    assert zoo.keys() - failed == {"zoo-namesake", "zoo-noisy"}
    assert all(zoo[name]["reason"] and zoo[name]["offers"] == [] for name in failed)
    assert zoo["zoo-exit"]["reason"] == "it called sys.exit(3)"
    assert zoo["zoo-noisy"]["is_noisy"] and not zoo["zoo-namesake"]["is_noisy"]
    assert zoo["zoo-noisy"]["offers"] == [{"kind": "sampler", "name": "noisy"}]
    assert found["no.py"]["reason"] == "no such file: no.py"
    ours = [one for one in said["plugins"] if one["distribution"] == "gptkit"]
    assert all(one["status"] == "ok" and one["import_s"] > 0 for one in ours)
    assert not any(one["imports_torch"] for one in said["plugins"])
    assert said["clashes"] == [] and said["api"] == 1


def test_what_is_said_to_people(capsys, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    a, b, heavy, old, gone = files(
        a=SAMPLER.format(name="twice"),
        b=SAMPLER.format(name="twice"),
        heavy="print('hello')\nimport torch\n" + SAMPLER.format(name="top_k"),
        old="gptkit_api = 7\n" + SAMPLER.format(name="old"),
        gone="import no_such_module\n",
    )
    code, out, _ = examined(capsys)
    assert code == 0
    lines = out.splitlines()
    assert f"FAILED  old of {old}: it wants plugin api 7, this is 1" in lines
    assert f"FAILED  gone of {gone}: No module named 'no_such_module'" in lines
    assert "        hint: mend it, or take it out of GPTKIT_PLUGINS" in lines
    assert any(
        line.startswith(f"TORCH   heavy of {heavy}: its import brings torch") for line in lines
    )
    assert f"NOISY   heavy of {heavy}: it prints when it is imported" in lines
    (hint,) = (lines[i + 1] for i, line in enumerate(lines) if "CLASH   sampler 'twice'" in line)
    assert hint == f"        hint: write '{a}/twice' or '{b}/twice'"
    (hint,) = (lines[i + 1] for i, line in enumerate(lines) if "CLASH   sampler 'top_k'" in line)
    assert hint == f"        hint: write '{heavy}/top_k'"
    assert lines[-1].endswith("plugins, 2 failed, 2 names claimed twice")
    (row,) = (line.split() for line in lines if line.startswith("FAILED  old  "))
    assert row[3] == "7"


def test_one_that_hangs_or_kills_its_interpreter_is_one_line(capsys, files, monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE_S", 3.0)
    files(
        ends="import os\nos._exit(9)\n",
        interrupts="raise KeyboardInterrupt\n",
        sleeps="import time\ntime.sleep(60)\n",
        good=SAMPLER.format(name="good"),
    )
    code, out, _ = examined(capsys, "--json")
    found = {one["plugin"]: one for one in json.loads(out)["plugins"]}
    assert code == 0
    assert found["ends"]["reason"] == "it ended the interpreter (status 9): no word"
    assert "KeyboardInterrupt" in found["interrupts"]["reason"]
    assert found["sleeps"]["reason"] == "its import did not end in 3 s"
    assert found["good"]["status"] == "ok"
