"""What is imported when, and what no file of ours may call."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gptkit.cli import app

ROOT = Path(__file__).parents[1]
PACKAGES = {"gptkit": ROOT / "gptkit", "gptkit_plugins": ROOT / "plugins"}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
HEAVY = ("torch", "numpy", "tiktoken", "safetensors", "prompt_toolkit")


def module_names():
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__")


def run(code, *args):
    """Run Python in a process of its own and return what it printed as JSON."""
    command = [sys.executable, "-W", "error", "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_every_module_can_be_imported_first():
    """No module leans on another having been imported before it."""
    code = """
import importlib, json, sys
failed = {}
for name in json.loads(sys.argv[1]):
    for loaded in [m for m in sys.modules if m.partition(".")[0] in ("gptkit", "gptkit_plugins")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""
    names = [name for name in module_names() if name != "gptkit.__main__"]  # that one is a program
    assert len(names) > 80
    assert run(code, json.dumps(names)) == {}


def commands():
    """Return every command's `--help`, and the listings."""
    import typer

    top = typer.main.get_command(app)
    lines = [["--help"], ["--version"]]
    for name, command in top.commands.items():
        lines.append([name, "--help"])
        lines += [[name, below, "--help"] for below in getattr(command, "commands", {})]
    lists = [["plugins", "list"], ["plugins", "show", "top_k"], ["plugins", "list", "--json"]]
    lists += [["sampler", "presets"]]
    lists += [["models", "list"], ["models", "show", "gpt2"], ["models", "show", "gpt2", "--json"]]
    return lines + lists


def test_help_and_listings_import_nothing_heavy():
    code = f"""
import contextlib, io, json, sys
from gptkit.cli import main
seen = []
for args in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
        code = main(args)
    seen.append([code, sorted(set({HEAVY!r}) & set(sys.modules))])
print(json.dumps(seen))
"""
    lines = commands()
    assert len(lines) > 15
    for args, (status, heavy) in zip(lines, run(code, json.dumps(lines)), strict=True):
        assert (status, heavy) == (0, []), args


# What no file may call --------------------------------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "marshal", "shelve", "yaml", "imp"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv"),
    *("torch.load", "torch.save", "torch.hub.load", "numpy.load", "np.load"),
    *("jinja2.Environment", "Environment", "jinja2.Template"),
}


def dotted(node):
    """Return `a.b.c` for an expression of names, else an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def offences(tree):
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name for name in names if name.partition(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.Call):
            if dotted(node.func) in FORBIDDEN_CALLS:
                yield dotted(node.func)
            for keyword in node.keywords:
                shell = keyword.arg == "shell" and dotted(node.func).startswith("subprocess")
                if shell or keyword.arg in ("weights_only", "allow_pickle", "trust_remote_code"):
                    yield f"{keyword.arg}="


ALLOWED = {"gptkit/testing/rows.py": ["pickle"]}  # it reads the bytes that it has just written


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_is_only_data(path):
    allowed = ALLOWED.get(str(path.relative_to(ROOT)), [])
    assert list(offences(ast.parse(path.read_text()))) == allowed


def test_the_gate_sees_what_it_forbids():
    text = """
import pickle, yaml
from joblib import load
torch.load(file, weights_only=False)
subprocess.run("ls", shell=True)
eval("1")
np.load(file, allow_pickle=True)
"""
    found = set(offences(ast.parse(text)))
    wanted = {"pickle", "yaml", "joblib", "torch.load", "weights_only=", "shell=", "eval"}
    assert wanted | {"np.load", "allow_pickle="} == found
