"""`gptkit plugins list|show`: whole, broken, clashing and local plugins as users see them."""

from __future__ import annotations

import json

import pytest

from gptkit.cli import main
from tests import makers

ZOO = makers.FIXTURES / "plugins_zoo"
BROKEN = ("attribute", "exit", "missing_dependency", "misspelt", "raises", "signature", "syntax")

LOCAL = '''
"""A plugin in one file."""

from gptkit.plugin_api import Sampler, StoppingCriterion, Tokenizer, hookimpl, param

print("a plugin that talks")


class Bend(Sampler):
    """Bend [bold]it[/bold] \\x1b[31m.

    A second paragraph.
    """

    name = "bend"
    phase = "scale"
    by = param(0.0, ge=-1, le=1, off=0.0, help="how far")
    words = param((), items=str, help="which")

    def apply(self, logits, p, rows):
        return logits


@hookimpl
def gptkit_samplers():
    yield Bend
'''
CLASHING = '''
"""A second file with a name that another has, and one that is ours."""

from gptkit.plugin_api import Sampler, hookimpl


class Bend(Sampler):
    """Another."""

    name = "bend"
    phase = "scale"

    def apply(self, logits, p, rows):
        return logits


class TopK(Bend):
    """Not ours."""

    name = "top_k"


@hookimpl
def gptkit_samplers():
    yield from (Bend, TopK)
'''


FAILING = '''
"""Everything in it raises what no plugin should."""

from gptkit.plugin_api import Sampler, StoppingCriterion, Tokenizer, hookimpl


class Early(Sampler):
    """Fail before the first token."""

    name = "early"
    phase = "scale"

    def init_state(self, request):
        raise ValueError("no\\nstate")

    def apply(self, logits, p, rows):
        return logits


class Late(Early):
    """Fail at a token."""

    name = "late"

    def init_state(self, request):
        return None

    def apply(self, logits, p, rows):
        raise KeyError("row")


class Leaves(Late):
    """Leave at a token."""

    name = "leaves"

    def apply(self, logits, p, rows):
        raise SystemExit(3)


class Begin(StoppingCriterion):
    """Fail before the first token."""

    name = "begin"

    def init_state(self, request):
        raise ValueError("no state")

    def push(self, state, token_id, data, n_out):
        raise OSError("no push")


class Push(Begin):
    """Fail at a token."""

    name = "push"

    def init_state(self, request):
        return None


class Encode(Tokenizer):
    """Fail to encode."""

    name = "encode"
    vocab_size = 60

    def encode_ordinary(self, text):
        raise ZeroDivisionError("no ids")

    def token_bytes(self, token_id):
        raise KeyError(token_id)

    def save(self, folder):
        pass

    @classmethod
    def load(cls, path):
        return cls()


class Decode(Encode):
    """Fail to decode."""

    name = "decode"

    def encode_ordinary(self, text):
        return [1]


class Tuple(Encode):
    """Return the wrong thing."""

    name = "text"

    def encode_ordinary(self, text):
        return text


@hookimpl
def gptkit_samplers():
    yield from (Early, Late, Leaves)


@hookimpl
def gptkit_stopping_criteria():
    yield from (Begin, Push)


@hookimpl
def gptkit_tokenizers():
    yield from (Encode, Decode, Tuple)
'''


@pytest.fixture(autouse=True)
def no_width(monkeypatch):
    """A parallel run of tests sets one."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Return a function: install these texts as plugin files."""

    def install(*texts):
        for i, text in enumerate(texts):
            (tmp_path / f"mine{i}.py").write_text(text)
        files = [str(tmp_path / f"mine{i}.py") for i in range(len(texts))]
        monkeypatch.setenv("GPTKIT_PLUGINS", ":".join(files))
        return files

    return install


def plugins(capsys, *args):
    code = main(["plugins", *args])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_list_has_a_line_for_everything_that_ships(capsys):
    code, out, err = plugins(capsys, "list")
    assert (code, err) == (0, "")
    names = [line.split()[1] for line in out.splitlines()[1:]]
    chain = ["temperature", "top_k", "top_p", "greedy", "sample"]  # in the order of their phases
    assert [name for name in names if name in chain] == chain
    for name in ("strings", "tokens", "chat", "dialogue", "qa", "summarize", "bpe", "char"):
        assert name in names


def test_kinds_come_in_the_order_of_their_use_and_phases_where_there_is_room(capsys):
    _, out, _ = plugins(capsys, "list")
    head, *lines = out.splitlines()
    kinds = list(dict.fromkeys(line.split()[0] for line in lines))
    assert kinds == ["sampler", "stopping", "drafter", "strategy", "tokenizer", "template"]
    at = head.index("phase")
    phases = {line.split()[1]: line[at:].split("  ")[0] for line in lines}
    assert phases["top_p"] == "truncate" and phases["greedy"] == "pick" and not phases["beam"]


def test_a_narrow_window_keeps_names_and_wraps_summaries(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = plugins(capsys, "list")
    assert max(map(len, out.splitlines())) <= 60
    for name in ("temperature", "whitespace", "summarize"):
        assert name in out


@pytest.mark.parametrize(
    "kind", ["sampler", "stopping", "tokenizer", "template", "drafter", "strategy"]
)
def test_show_has_a_page_for_everything(kind, capsys):
    _, out, _ = plugins(capsys, "list", "--json")
    offers = [offer for plugin in json.loads(out) for offer in plugin["offers"]]
    for offer in offers:
        if offer["kind"] != kind:
            continue
        code, page, err = plugins(capsys, "show", offer["name"])
        assert (code, err) == (0, "")
        assert offer["summary"] in page and f"[{kind}, gptkit " in page
        assert all(key in page for key in offer["params"])


def test_show_says_ranges_defaults_and_phase(capsys):
    _, page, _ = plugins(capsys, "show", "top_p")
    _, *lines = page.splitlines()
    assert lines[0].startswith("  p  float  0..1  off  probability mass to keep")
    assert lines[0].endswith("    e.g. -s top_p=VALUE")
    assert lines[1] == "  phase truncate, rank 30, stateless"
    assert lines[2] == "  works with speculation, strategies, constraints"
    code, out, _ = plugins(capsys, "show", "top_p", "--json")
    (found,) = json.loads(out)
    assert (code, found["phase"], found["params"]["p"]["default"]) == (0, "truncate", "off")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mirostat", "not with beam and contrastive search"),
        ("mirostat", "remembers the draws"),
        ("constraint", "remembers the tokens"),
        ("greedy", "phase pick, rank 100, stateless"),
        ("penalties", "scope      str    all, output  all "),
        ("beam", "e.g. --strategy beam=VALUE"),
        ("beam", "works with any chain, alone and in batches; not with speculation"),
        ("prompt_lookup", "k          int  1..64   8  tokens that are guessed at once"),
        ("prompt_lookup", "e.g. --speculate prompt_lookup=VALUE"),
        ("sentences", "e.g. --stop-when sentences=VALUE"),
        ("bpe", "e.g. --tokenizer bpe"),
        ("qa", "e.g. template: qa"),
        ("dialogue", "e.g. --template dialogue"),
    ],
)
def test_show_says_how_to_use_it_and_with_what(name, said, capsys):
    assert said in plugins(capsys, "show", name)[1]


def test_a_slow_import_is_pointed_at(capsys, local, monkeypatch):
    from gptkit.cli.plugins import listing

    monkeypatch.setattr(listing, "SLOW_S", 0.05)
    (path,) = local("import time\ntime.sleep(0.06)\n" + LOCAL)
    _, out, _ = plugins(capsys, "list")
    assert f"SLOW    mine0 of {path}: its import took 0.1 s" in out


def test_a_local_file_is_a_plugin_like_others(capsys, local):
    (path,) = local(LOCAL)
    code, out, err = plugins(capsys, "list", "--json")
    assert (code, err) == (0, "a plugin that talks\n")  # not on stdout, which is JSON
    (mine,) = (one for one in json.loads(out) if one["distribution"] == path)
    assert (mine["plugin"], mine["status"], mine["reason"]) == ("mine0", "ok", None)
    assert mine["offers"][0]["params"]["words"]["type"] == "str[]"
    _, out, _ = plugins(capsys, "list")
    (line,) = (line for line in out.splitlines() if " bend " in line)
    assert "Bend [bold]it[/bold] \u241b[31m." in line  # no markup, no escape sequence
    _, page, _ = plugins(capsys, "show", "bend")
    assert "A second paragraph." in page and "\x1b" not in page


def test_a_name_of_two_owners_is_an_error_only_where_it_is_used(capsys, local):
    one, two = local(LOCAL, CLASHING)
    code, out, _ = plugins(capsys, "list")
    assert code == 0
    code, out, err = plugins(capsys, "show", "bend")
    error, hint = err.splitlines()[-2:]
    assert (code, out) == (2, "")
    assert f"'{one}' and '{two}'" in error
    assert hint == f"  hint: write '{one}/bend' or '{two}/bend'"
    code, page, _ = plugins(capsys, "show", f"{two}/bend")
    assert code == 0 and page.startswith("bend  Another.")
    code, page, _ = plugins(capsys, "show", "top_k")
    assert code == 0 and "gptkit " in page.splitlines()[0]  # ours keeps its bare name


def test_a_file_that_is_not_there_is_a_failed_plugin(capsys, monkeypatch):
    monkeypatch.setenv("GPTKIT_PLUGINS", "no\nsuch.py")
    code, out, _ = plugins(capsys, "list")
    assert code == 0
    assert "FAILED  no such of no such.py: no such file: no such.py" in out
    code, _, err = plugins(capsys, "show", "nothing")
    error, _ = err.splitlines()
    assert code == 2
    assert "nothing is called 'nothing'; plugin 'no such.py' failed: no such file" in error


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Return a process with nine distributions on its path, of which seven are broken."""
    folder = tmp_path_factory.mktemp("zoo")
    makers.save_random(folder / "tiny")
    commands = makers.Commands(folder, PYTHONPATH=str(ZOO))
    yield commands
    commands.close()


def test_broken_plugins_are_named_and_break_nothing(zoo):
    for args in (["--help"], ["--version"], ["plugins", "list"], ["models", "list"]):
        assert zoo(*args).code == 0
    listed = zoo("plugins", "list", "--json")
    found = {plugin["plugin"]: plugin for plugin in json.loads(listed.out)}
    failed = {name for name, plugin in found.items() if plugin["status"] == "failed"}
    assert failed == {f"zoo-{name}".replace("_", "-") for name in BROKEN}
    assert all(found[name]["reason"] for name in failed)
    shown = zoo("plugins", "list")
    for name in failed:
        assert f"FAILED  {name} of {name} 0.1: " in shown.out
    assert not shown.torch


def test_one_line_tells_of_those_that_failed(zoo):
    done = zoo("generate", "hi", "-m", "tiny", "--seed", "1")
    (line,) = (line for line in done.err.splitlines() if "failed to load" in line)
    assert line == (
        "note: plugin 'zoo-attribute 0.1' failed to load: AttributeError: module 'zoo_attribute' "
        "has no attribute 'plugin'; 6 more failed (see gptkit plugins doctor)"
    )
    assert "failed" not in zoo("models", "list").err


@pytest.mark.parametrize(
    "args",
    [
        ("chat", "-m", "tiny", "--template", "dialogue", "--max-new-tokens", "2"),
        ("run", "qa", "-m", "tiny"),
        ("sampler", "trace", "hi", "-m", "tiny"),
        ("tokenize", "hi", "-m", "tiny"),
    ],
)
def test_every_command_that_uses_plugins_says_so_once(args, zoo):
    done = zoo(*args, stdin=b"hi\n")
    assert done.err.count("see gptkit plugins doctor") == 1
    assert done.err.count("zoo-attribute 0.1") == 1


def test_a_strict_run_takes_no_broken_plugin(local, tiny, capsys, monkeypatch):
    local("import no_such_module\n")
    args = ["generate", "x", "-m", str(tiny), "--max-new-tokens", "1", "--seed", "1"]
    assert main(args) == 0
    monkeypatch.setenv("GPTKIT_STRICT_PLUGINS", "1")
    capsys.readouterr()
    shows = ((args, ""), (["plugins", "list"], "FAILED"), (["plugins", "doctor"], "ok"))
    for command, shown in shows:
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert (shown in out) and (out or not shown)
        assert "gptkit: error: GPTKIT_STRICT_PLUGINS: plugin '" in err
        assert "failed to load: No module named 'no_such_module'" in err


def test_broken_plugins_do_not_stop_a_generation(zoo):
    done = zoo("generate", "hi", "-m", "tiny", "--seed", "1", "-s", "top_k=3", "-s", "noisy")
    assert done.code == 0
    assert done.out and "hello from" not in done.out
    assert "Traceback" not in done.err


def test_an_unknown_name_tells_which_plugins_failed(zoo):
    done = zoo("generate", "hi", "-m", "tiny", "-s", "wet=1")
    error, hint = (line for line in done.err.splitlines() if "error:" in line or "hint:" in line)
    assert done.code == 2
    assert "unknown sampler 'wet'; plugin 'zoo-attribute 0.1' failed to load: " in error
    assert "and 4 more failed" in error
    assert "see gptkit plugins list" in hint


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("-s", "early", "sampler 'early' failed: ValueError: no state"),
        ("-s", "late", "sampler 'late' failed: KeyError: 'row'"),
        ("-s", "leaves", "sampler 'leaves' called sys.exit(3)"),
        ("--stop-when", "begin", "stopping criterion 'begin' failed: ValueError: no state"),
        ("--stop-when", "push", "stopping criterion 'push' failed: OSError: no push"),
        ("--tokenizer", "encode", "tokenizer 'encode' failed: ZeroDivisionError: no ids"),
        ("--tokenizer", "decode", "tokenizer 'decode' failed: KeyError: "),
        ("--tokenizer", "text", "tokenizer 'text' returned str, no list"),
    ],
)
def test_a_plugin_that_raises_is_named(option, value, said, local, tiny, capsys):
    local(FAILING)
    assert main(["generate", "x", "-m", str(tiny), "--seed", "1", option, value]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"gptkit: error: {said}")
    assert "internal error" not in err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return makers.save_random(tmp_path_factory.mktemp("models") / "tiny")
