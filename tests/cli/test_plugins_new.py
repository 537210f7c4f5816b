"""`gptkit plugins new`: what it writes installs, passes its tests, and is on the list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptkit.cli import main
from gptkit.skeletons import skeleton
from tests import makers

ROOT = Path(__file__).parents[2]
KINDS = tuple(skeleton.ABOUT)


def new(capsys, *args):
    code = main(["plugins", "new", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def run(folder, *command, **environ):
    """Run Python in a process of its own; return exit code and both streams as one."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_complete_and_loads(kind, capsys, tmp_path, monkeypatch):
    name = f"tried_{kind}"
    code, out, err = new(capsys, kind, name, "--output", tmp_path / "deep" / "er")
    folder = tmp_path / "deep" / "er" / f"gptkit-tried-{kind}"
    assert (code, err) == (0, "")
    written = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert set(out.splitlines()[1 : 1 + len(written)]) == {f"  {path}" for path in written}
    assert {"README.md", "pyproject.toml", f"tests/test_{name}.py"} <= set(written)
    assert not [path for path, file in written.items() if "$name" in file.read_text()]
    assert f"check_{kind}(" in written[f"tests/test_{name}.py"].read_text()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing half-written
    source = folder / "src" / f"gptkit_{name}" / "__init__.py"
    if kind != "template":  # that one finds its file by the package's name
        monkeypatch.setenv("GPTKIT_PLUGINS", str(source))
        assert main(["plugins", "list", "--json"]) == 0
        *_, mine = json.loads(capsys.readouterr().out)
        assert mine["status"] == "ok"
        assert [(one["kind"], one["name"]) for one in mine["offers"]] == [(kind, name)]


@pytest.mark.parametrize(
    "kind", ["sampler", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def test_it_installs_passes_its_tests_and_is_listed(kind, capsys, tmp_path):
    name = f"tried_{kind}"
    folder = tmp_path / f"gptkit-tried-{kind}"
    site = tmp_path / "site"
    assert new(capsys, kind, name, "--output", tmp_path)[0] == 0
    install = ("install", "--no-deps", "--no-build-isolation", "--no-index", "--target", site, ".")
    code, said = run(folder, "-m", "pip", "-q", *map(str, install))
    assert code == 0, said
    # Of the package's own sources only the tests are left: what is installed is tested.
    tests = ("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-o", "pythonpath=")
    code, said = run(folder, *tests, PYTHONPATH=str(site))
    assert code == 0 and " passed" in said, said
    listing = "from gptkit.cli import main; main(['plugins', 'list'])"
    code, said = run(tmp_path, "-c", listing, PYTHONPATH=str(site), COLUMNS="240")
    assert code == 0, said
    (line,) = (line for line in said.splitlines() if line.split()[:2] == [kind, name])
    assert line.rstrip().endswith(f"[gptkit-tried-{kind} 0.1.0]")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_typed_and_formatted(kind, tmp_path):
    folder = skeleton.skeleton(kind, f"tried_{kind}").write(tmp_path)
    code, said = run(folder, "-m", "ruff", "format", "--isolated", "--line-length=100", "--check")
    assert code == 0, said
    code, said = run(folder, "-m", "mypy", "--strict", "src", MYPYPATH=str(ROOT))
    assert code == 0, said


@pytest.mark.parametrize(
    ("args", "said", "hint"),
    [
        (("sampler", "top-q"), "'top-q' is not lower_snake", "write top_q"),
        (("sampler", "TopQ"), "'TopQ' is not lower_snake", "write top_q"),
        (("sampler", "2fast"), "'2fast' is not lower_snake", "write fast"),
        (("sampler", "a__b"), "'a__b' is not lower_snake", "write a_b"),
        (("sampler", "é"), "is not lower_snake", "small letters"),
        (("sampler", ""), "'' is not lower_snake", "small letters"),
        (("sampler", "../up"), "is not lower_snake", "write up"),
        (("sampler", "x" * 41), "41 letters, 40 are the most", None),
        (("sampler", "top_k"), "'top_k' is a bundled sampler", "another name"),
        (("tokenizer", "bpe"), "'bpe' is a bundled tokenizer", "another name"),
        (("command", "tree"), "'tree' is a bundled command", "another name"),
        (("sampler", "plugins"), "gptkit_plugins is a module of gptkit itself", "another name"),
        (("samplr", "x"), "no skeleton of a 'samplr'", "'sampler'?"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(args, said, hint, capsys, tmp_path):
    code, out, err = new(capsys, *args, "--output", tmp_path / "here")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[0]
    assert hint is None or hint in err.splitlines()[1]
    assert not (tmp_path / "here").exists()


def test_a_folder_that_is_there_is_left_as_it_is(capsys, tmp_path):
    (tmp_path / "gptkit-mine").mkdir()
    code, _, err = new(capsys, "sampler", "mine", "--output", tmp_path)
    assert code == 2 and "gptkit-mine exists" in err
    assert list((tmp_path / "gptkit-mine").iterdir()) == []
    (tmp_path / "gptkit-yours").symlink_to("nowhere")
    assert new(capsys, "sampler", "yours", "--output", tmp_path)[0] == 2
    (tmp_path / "file").write_text("")
    code, _, err = new(capsys, "sampler", "mine", "--output", tmp_path / "file")
    assert code == 2 and "is not a folder" in err


def test_a_name_that_others_have(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(makers.SAMPLER_FIXTURE))
    code, _, err = new(capsys, "sampler", "square", "--output", tmp_path)
    assert code == 0
    assert err == (
        "note: 'acme-sampler 0.1' offers 'square' too: who has both must write "
        "gptkit-square/square\n"
    )
    assert new(capsys, "stopping", "top_k", "--output", tmp_path)[0] == 0  # of another kind
    monkeypatch.syspath_prepend(str(tmp_path / "gptkit-square" / "src"))
    code, _, err = new(capsys, "sampler", "square", "--output", tmp_path / "again")
    assert code == 2 and "a module gptkit_square is installed already" in err


def test_a_full_disk_leaves_nothing_half_written(capsys, tmp_path, monkeypatch):
    written = Path.write_text

    def full(self, text, **given):
        if self.name == "pyproject.toml":
            raise OSError(28, "No space left on device", str(self))
        return written(self, text, **given)

    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = new(capsys, "sampler", "mine", "--output", tmp_path)
    assert code == 6 and "No space left on device" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["none", "true", "sampler", "param", "params", "torch", "rows"])
def test_a_name_that_its_code_uses_already(name, tmp_path):
    """The class would hide what its module imports, or be no class at all."""
    files = skeleton.skeleton("sampler", name).files()
    code = files[f"src/gptkit_{name}/__init__.py"]
    compile(code, name, "exec")
    imported = {"Sampler", "Params", "Rows", "None", "True", "Tensor"}
    (line,) = (line for line in code.splitlines() if line.startswith("class "))
    assert line.partition("(")[0].removeprefix("class ") not in imported
