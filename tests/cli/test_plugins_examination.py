"""`gptkit plugins test`: a distribution, a file, a name; one that holds and some that don't."""

from __future__ import annotations

import json

import pytest

from gptkit.cli import main
from tests import makers

BAD = '''
from gptkit.plugin_api import Sampler, StoppingCriterion, hookimpl, param

print("loaded")


class InPlace(Sampler):
    """Write into its input [bold]."""

    name = "in_place"
    a = param(0.0, ge=0, le=1, off=0.0, help="how much")

    def apply(self, logits, p, rows):
        logits -= p.a
        return logits


class Raises(StoppingCriterion):
    """Raise."""

    name = "raises"

    def push(self, state, token_id, data, n_out):
        raise OSError("no\\x1b push")


@hookimpl
def gptkit_samplers():
    yield InPlace


@hookimpl
def gptkit_stopping_criteria():
    yield Raises
'''


COMMAND = '''
from gptkit.plugin_api import Command, hookimpl


class Spoken(Command):
    """Say it."""

    name = "spoken"

    def run(self, chat, rest):
        yield rest


@hookimpl
def gptkit_commands():
    yield Spoken
'''


def examine(capsys, *args):
    code = main(["plugins", "test", *args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    return str(path)


def test_a_distribution_by_any_spelling_of_its_name(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(makers.SAMPLER_FIXTURE))
    code, out, err = examine(capsys, "Acme_Sampler")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "sampler square  [acme-sampler 0.1]"
    assert lines[-1] == "1 of 1 passed"
    (row,) = (line for line in lines if line.startswith("  C11  the same tokens in any schedule"))
    assert row.split()[-2] == "ok" and int(row.split()[-1]) > 0
    (cost,) = (line for line in lines if line.startswith("  cost: "))
    assert "1 row " in cost and "64 rows " in cost and " ms" in cost


def test_a_plugin_by_its_name_with_a_seed(capsys):
    code, out, _ = examine(capsys, "strings", "--json", "--seed", "4")
    (record,) = json.loads(out)
    assert code == 0 and record["ok"] and record["kind"] == "stopping"
    assert {check["result"] for check in record["checks"]} <= {"ok", "skipped"}
    assert all(check["seconds"] is not None for check in record["checks"])
    assert record["costs"]["1 token, ms"] > 0


def test_a_file_whose_plugins_fail(capsys, bad):
    code, out, err = examine(capsys, bad, "--json")
    sampler, criterion = json.loads(out)
    assert (code, err.splitlines()[0]) == (1, "loaded")
    assert not sampler["ok"] and not criterion["ok"]
    failed = {check["code"] for check in sampler["checks"] if check["result"] == "FAILED"}
    assert "C2" in failed
    (check,) = (check for check in criterion["checks"] if check["result"] == "FAILED")
    assert check["code"] == "S2" and check["said"].startswith("OSError: no")
    code, out, _ = examine(capsys, bad)
    assert code == 1 and out.splitlines()[-1] == "0 of 2 passed"
    assert "FAILED: " in out and "\x1b" not in out


def test_what_did_not_load_has_failed(capsys, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    code, out, _ = examine(capsys, str(tmp_path / "broken.py"))
    assert code == 1
    assert "  FAILED: No module named 'no_such_module'" in out.splitlines()


@pytest.mark.parametrize(
    ("args", "said", "hint"),
    [
        (("mirostta",), "no distribution, plugin or file is called 'mirostta'", "'mirostat'?"),
        (("top_k", "--seed", "-1"), "--seed must be a whole number", "leave it out"),
    ],
)
def test_what_is_refused(args, said, hint, capsys):
    code, out, err = examine(capsys, *args)
    assert (code, out) == (2, "")
    assert said in err and hint in err


def test_a_template_s_file(capsys, tmp_path):
    path = tmp_path / "haiku.yaml"
    path.write_text(
        'item: "Subject: $subject\\nHaiku: $haiku"\noutput: haiku\nseparator: "\\n\\n"\n'
    )
    code, out, _ = examine(capsys, str(path))  # on a busy machine it says what takes so long
    assert code == 0
    assert "".join(out.split()).startswith(f"templatehaiku[{path}]")  # a long path is wrapped
    code, out, _ = examine(capsys, str(tmp_path / "none.yaml"))
    assert code == 1 and "FAILED: no such file" in out


def test_a_slash_command_is_examined(capsys, tmp_path):
    path = tmp_path / "spoken.py"
    path.write_text(COMMAND)
    code, out, _ = examine(capsys, str(path))
    assert code == 0 and out.endswith("1 of 1 passed\n")
    assert "L2" in out and "it shows lines, or says something" in out
