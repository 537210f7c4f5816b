"""What is installed: the build configuration, a wheel, and a program that runs from it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"gptkit": "gptkit", "gptkit_plugins": "plugins", "gptkit_prompts": "prompts"}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def files(pattern="*"):
    """Return the files of our packages by their paths in a wheel."""
    return {
        str(Path(package) / path.relative_to(ROOT / folder))
        for package, folder in SOURCES.items()
        for path in (ROOT / folder).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_package_folder_is_in_the_build(project):
    found = {str(Path(file).parent).replace("/", ".") for file in files("*.py")}
    assert project["tool"]["setuptools"]["packages"] == sorted(found)
    assert all((ROOT / folder / "__init__.py").is_file() for folder in SOURCES.values())
    for file in files("*.py"):
        top, *rest = Path(file).parts
        assert (ROOT / SOURCES[top]).joinpath(*rest[:-1], "__init__.py").is_file(), file


def test_entry_points_are_those_that_are_installed(project):
    installed = importlib.metadata.distribution("gptkit").entry_points
    for group, entries in project["project"]["entry-points"].items():
        assert {e.name: e.value for e in installed if e.group == group} == entries
    scripts = {entry.name: entry.value for entry in installed if entry.group == "console_scripts"}
    assert scripts == project["project"]["scripts"]


def test_what_the_code_imports_is_a_dependency(project):
    """A package that came by chance with another would be missing one day."""
    names = {
        "ruamel": "ruamel.yaml",
        "markdown_it": "markdown-it-py",
        "prompt_toolkit": "prompt-toolkit",
    }
    ours = {*SOURCES, "gptkit"}
    about = project["project"]
    extras = [text for extra in about["optional-dependencies"].values() for text in extra]
    declared = {
        text.partition(">")[0].partition("[")[0] for text in (*about["dependencies"], *extras)
    }
    for folder in SOURCES.values():
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                found = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module]
                    if isinstance(node, ast.ImportFrom) and not node.level
                    else []
                )
                for name in found:
                    top = name.partition(".")[0]
                    if top not in sys.stdlib_module_names and top not in ours:
                        assert names.get(top, top) in declared, f"{path}: {name}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from a copy of the sources, as pip would, without a network."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("build")
    skip = shutil.ignore_patterns("__pycache__")
    for source in SOURCES.values():
        shutil.copytree(ROOT / source, folder / source, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "dist").glob("*.whl")
    return path


def test_a_wheel_has_every_module_and_all_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = files()
    assert not wanted - inside
    assert {name for name in inside if ".dist-info/" not in name} == wanted
    for package in ("gptkit", "gptkit_plugins"):
        assert f"{package}/py.typed" in inside
    assert "gptkit_plugins/templates/summarize.yaml" in inside
    assert "gptkit_prompts/summarize.yaml" in inside
    assert "gptkit/training/recipes/mini.yaml" in inside
    (metadata,) = (name for name in inside if name.endswith("METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        said = archive.read(metadata).decode()
    assert "License-Expression: MIT" in said
    assert "# gptkit" in said  # the README is the description


def test_what_is_installed_runs(project, wheel, tmp_path):
    """The bundled plugins, jobs and models are found, and from the wheel, not from here."""
    target = tmp_path / "site"
    install = ["install", "--no-deps", "--no-index", "--no-compile", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "-q", *install, str(wheel)], check=True)
    code = (
        "import json, sys, gptkit_plugins\n"
        "from gptkit.cli import main\n"
        "for args in json.loads(sys.argv[1]):\n"
        "    assert main(args) in (0, 2), args\n"
        "print(gptkit_plugins.__file__)\n"
    )
    lines = [["plugins", "list", "--json"], ["models", "list", "--json"], ["run", "nosuch"]]
    env = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plugins, models, file = done.stdout.splitlines()
    assert Path(file).is_relative_to(target)
    ours = [one for one in json.loads(plugins) if one["distribution"] == "gptkit"]
    assert {one["plugin"] for one in ours} == set(project["project"]["entry-points"]["gptkit"])
    assert all(one["status"] == "ok" and one["offers"] for one in ours)
    records = json.loads(models)
    assert "gpt2" in {record["name"] for record in records}
    assert not [record for record in records if "error" in record]
    for record in records:
        assert record["kind"] != "bundled" or Path(record["path"]).is_relative_to(target)
    assert "summarize" in done.stderr  # the job that a misspelt name hears of
