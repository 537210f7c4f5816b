"""The plugin host against real distributions, whole and broken, found by importlib.metadata."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gptkit import plugin_host
from gptkit.errors import NameClash, UnknownName
from gptkit.plugin_api import Sampler, hookimpl

FIXTURES = Path(__file__).parent / "fixtures"
ZOO = FIXTURES / "plugins_zoo"
BROKEN = {
    "zoo-attribute": "has no attribute 'plugin'",
    "zoo-exit": "it called sys.exit(3)",
    "zoo-missing-dependency": "No module named 'numpy2'",
    "zoo-misspelt": "unknown hook 'gptkit_smaplers' (did you mean 'gptkit_samplers'?)",
    "zoo-raises": "gptkit_samplers failed: OSError: no such table",
    "zoo-signature": "Argument(s) {'manager'} are declared in the hookimpl but can not be found",
    "zoo-syntax": "SyntaxError: invalid syntax (zoo_syntax.py, line 3)",
}
GOOD = {"zoo-namesake": "namesake", "zoo-noisy": "noisy"}


@pytest.fixture
def path(monkeypatch):
    """Return a function that puts folders in front of sys.path, for this test alone."""
    before = set(sys.modules)

    def add(*folders):
        for folder in folders:
            monkeypatch.syspath_prepend(str(folder))
        return plugin_host.registry()

    yield add
    for name in set(sys.modules) - before:
        if name.startswith(("zoo_", "acme_", "gptkit_local_")):
            del sys.modules[name]


def sampler(name: str, cls_name: str = "Made"):
    """Make a sampler class that changes nothing."""
    body = {
        "__doc__": "Change nothing.",
        "name": name,
        "apply": lambda self, logits, p, rows: logits,
    }
    return type(cls_name, (Sampler,), body)


def module(*values, hook: str = "gptkit_samplers", **attributes):
    """Make a plugin module whose hook yields `values`."""

    def yielding():
        yield from values

    yielding.__name__ = hook
    return SimpleNamespace(**{hook: hookimpl(yielding), **attributes})


def load(plugin, distribution: str = "acme", version: str = "0.1") -> plugin_host.Loaded:
    """Load one plugin from an object that stands for its module."""
    found = plugin_host.Found("plugin", distribution, version, lambda: plugin)
    return plugin_host.load([found])[0]


# Discovery ------------------------------------------------------------------------------------


def test_our_own_plugins_come_first_and_are_found_as_anybodys(path):
    path(FIXTURES / "acme_sampler", FIXTURES / "acme_tokenizer")
    found = plugin_host.discover()
    owners = [source.distribution for source in found]
    ours = owners.count("gptkit")
    assert ours >= 4 and owners[:ours] == ["gptkit"] * ours
    assert owners[ours:] == sorted(owners[ours:])
    names = [source.name for source in found[:ours]]
    assert names == sorted(names) and {"samplers", "stopping", "templates", "tokenizers"} <= {
        *names
    }


def test_discovery_does_not_depend_on_the_order_of_entry_points(path):
    path(ZOO, FIXTURES / "acme_sampler")
    entries = list(importlib.metadata.entry_points(group="gptkit"))
    wanted = [(s.distribution, s.name) for s in plugin_host.discover(entries, files=[])]
    for seed in range(10):
        random.Random(seed).shuffle(entries)
        found = plugin_host.discover(entries, files=[])
        assert [(s.distribution, s.name) for s in found] == wanted


def test_discovery_imports_nothing(path):
    path()
    sys.path.insert(0, str(ZOO))
    try:
        plugin_host.discover()
    finally:
        sys.path.remove(str(ZOO))
    assert not [name for name in sys.modules if name.startswith("zoo_")]


def test_third_party_packages_offer_what_they_have(path):
    registry = path(FIXTURES / "acme_sampler", FIXTURES / "acme_tokenizer")
    square = registry.find("sampler", "square")
    assert square.source.owner == "acme-sampler 0.1"
    assert square.summary.startswith("Drop tokens whose probability is below a * max(p)**2")
    assert square.value.params["a"].range_text == "at least 0 and at most 1"
    assert (
        registry.find("tokenizer", "acme-tokenizer/utf8_bytes").value.load(None).vocab_size == 256
    )


@pytest.mark.parametrize(
    ("entry_points", "metadata", "said"),
    [
        ("[gptkit]\nno equals sign\n", "Name: odd\nVersion: 2\n", "entry_points.txt can't be read"),
        ("[gptkit]\na = \udcff\n", "Name: odd\nVersion: 2\n", "entry_points.txt can't be read"),
        ("[gptkit]\na = no_such_module\n", None, "No module named 'no_such_module'"),
        ("[gptkit]\na = not a module!\n", "Summary: no name\n", "AttributeError"),
    ],
)
def test_damaged_metadata_is_one_failed_plugin(path, tmp_path, entry_points, metadata, said):
    """importlib.metadata.entry_points() stops at the first such file, for every program."""
    info = tmp_path / "odd-2.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(entry_points, errors="surrogateescape")
    if metadata is not None:
        (info / "METADATA").write_text(metadata)
    registry = path(tmp_path, FIXTURES / "acme_sampler")
    assert [said in plugin.reason for plugin in registry.failed if plugin.reason].count(True) == 1
    assert registry.find("sampler", "square")


def test_a_local_file_is_a_plugin(path, tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text((FIXTURES / "acme_sampler" / "acme_sampler.py").read_text())
    monkeypatch.setenv("GPTKIT_PLUGINS", os.pathsep.join([str(file), str(file), "no/such.py"]))
    registry = path()
    assert registry.find("sampler", "square").source.owner == str(file)
    assert registry.find("sampler", f"{file}/square")
    assert [p.reason for p in registry.failed if "no such" in p.reason] == [
        f"no such file: {Path('no/such.py')}"
    ]


def test_a_local_file_that_is_not_python(path, tmp_path, monkeypatch):
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    monkeypatch.setenv("GPTKIT_PLUGINS", str(file))
    assert f"not a Python file: {file}" in [plugin.reason for plugin in path().failed]


# The zoo --------------------------------------------------------------------------------------


def test_every_broken_plugin_is_recorded_with_its_reason(path, capsys):
    registry = path(ZOO, FIXTURES / "acme_sampler")
    reasons = {p.source.distribution: p.reason for p in registry.plugins}
    for distribution, reason in BROKEN.items():
        assert reason in reasons[distribution], distribution
    for distribution, name in GOOD.items():
        assert reasons[distribution] is None
        assert registry.find("sampler", name).source.distribution == distribution
    assert registry.find("sampler", "square") and registry.find("tokenizer", "bpe")
    said = capsys.readouterr()
    assert said.out == "" and "hello from zoo_noisy" in said.err and "asked" in said.err
    assert all(plugin.import_s >= 0 for plugin in registry.plugins)
    assert all("\n" not in (plugin.reason or "") for plugin in registry.plugins)


def test_no_set_of_broken_plugins_hides_a_good_one(path):
    """100 of the subsets, each in an order of its own."""
    path(ZOO, FIXTURES / "acme_sampler")
    entries = list(importlib.metadata.entry_points(group="gptkit"))
    zoo = [entry for entry in entries if entry.dist.name.startswith("zoo-")]
    others = [entry for entry in entries if entry not in zoo]
    assert len(zoo) == len(BROKEN) + len(GOOD)
    draw = random.Random(8)
    for _ in range(100):
        chosen = others + draw.sample(zoo, draw.randint(0, len(zoo)))
        draw.shuffle(chosen)
        registry = plugin_host.index(plugin_host.load(plugin_host.discover(chosen, files=[])))
        there = {entry.dist.name for entry in chosen}
        failed = {plugin.source.distribution for plugin in registry.failed}
        assert failed & {*BROKEN} == there & {*BROKEN}
        assert registry.find("sampler", "square") and registry.find("tokenizer", "char")
        for distribution, name in GOOD.items():
            assert (name in registry.names("sampler")) == (distribution in there)


def test_the_zoo_leaves_stdout_clean_and_torch_alone():
    code = (
        "import sys; from gptkit import plugin_host; r = plugin_host.registry(); "
        "print(len(r.failed) > 6, sorted({'torch', 'tiktoken', 'numpy'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ZOO, FIXTURES / "acme_sampler"]))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True []\n"


def test_a_keyboard_interrupt_is_the_users(path):
    def load():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plugin_host.load([plugin_host.Found("x", "acme", "1", load)])


# What a module may be -------------------------------------------------------------------------


def test_a_wanted_api_number():
    assert load(module(sampler("one"), gptkit_api=1)).reason is None
    assert load(module(sampler("one"), gptkit_api=2)).reason == ("it wants plugin api 2, this is 1")


def test_a_hook_without_its_mark():
    """pluggy takes no notice of it, so its author would look in vain for the sampler."""

    def gptkit_samplers():
        yield sampler("one")

    plugin = SimpleNamespace(gptkit_samplers=gptkit_samplers)
    assert load(plugin).reason == "gptkit_samplers is not marked @hookimpl, so nobody would call it"


def test_a_module_without_hooks():
    assert load(SimpleNamespace()).reason == "it has no hook: no function in it is marked @hookimpl"


def test_a_hook_that_forgets_to_yield():
    @hookimpl
    def gptkit_samplers():
        sampler("one")

    plugin = SimpleNamespace(gptkit_samplers=gptkit_samplers)
    assert load(plugin).reason == "gptkit_samplers returns nothing; it must yield"


def test_a_hook_may_yield_nothing():
    assert load(module()).reason is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (42, "gptkit_samplers yields 42, which is no Sampler class"),
        (dict, "which is no Sampler class"),
        (type("Half", (Sampler,), {"__doc__": "x", "name": "half"}), "Half lacks apply"),
        (type("Anon", (Sampler,), {"apply": lambda *_: None}), "Anon has no name"),
    ],
)
def test_a_hook_that_yields_something_else(value, said):
    assert said in load(module(value)).reason


def test_a_name_yielded_twice():
    reason = load(module(sampler("one"), sampler("one", "Other"))).reason
    assert reason == "gptkit_samplers yields 'one' twice"


def test_a_class_that_breaks_a_rule_says_so():
    def fail():
        return module(sampler("NotSnake"))

    found = plugin_host.Found("x", "acme", "1", fail)
    assert "name 'NotSnake' is not lower_snake" in plugin_host.load([found])[0].reason


def test_an_exception_whose_text_fails():
    class Odd(Exception):
        def __str__(self):
            raise ValueError

    def fail():
        raise Odd

    assert plugin_host.load([plugin_host.Found("x", "acme", "1", fail)])[0].reason == "Odd"


def test_a_yaml_file_is_a_template(tmp_path):
    file = tmp_path / "haiku.yaml"
    file.write_text("# Three lines on a subject.\nitem: $subject\n")
    loaded = load(module(file, hook="gptkit_templates"))
    assert [(o.kind, o.name, o.summary) for o in loaded.offers] == [
        ("template", "haiku", "Three lines on a subject.")
    ]
    assert "FileNotFoundError" not in (loaded.reason or "")
    gone = load(module(tmp_path / "gone.yaml", hook="gptkit_templates"))
    assert "No such file" in gone.reason


# Names ----------------------------------------------------------------------------------------


def test_two_owners_of_one_name_are_both_named():
    for plugins in itertools.permutations(
        [load(module(sampler("dup")), "acme", "1.0"), load(module(sampler("dup")), "beta", "2.0")]
    ):
        registry = plugin_host.index(plugins)
        assert registry.names("sampler") == ["dup"]
        with pytest.raises(NameClash) as caught:
            registry.find("sampler", "dup")
        assert str(caught.value).startswith("sampler 'dup' is offered by ")
        assert "'acme 1.0'" in str(caught.value) and "'beta 2.0'" in str(caught.value)
        assert caught.value.hint == "write 'acme/dup' or 'beta/dup'"
        assert caught.value.exit_code == 2
        assert registry.find("sampler", "beta/dup").source.owner == "beta 2.0"


def test_a_bundled_plugin_keeps_its_bare_name():
    ours, theirs = load(module(sampler("dup")), "gptkit"), load(module(sampler("dup")), "acme")
    for plugins in ((ours, theirs), (theirs, ours)):
        registry = plugin_host.index(plugins)
        assert registry.find("sampler", "dup").source.distribution == "gptkit"
        assert registry.find("sampler", "acme/dup").source.distribution == "acme"
        assert len(registry.offers("sampler")) == 2


def test_one_distribution_that_offers_a_name_twice():
    registry = plugin_host.index([load(module(sampler("dup")), "acme", "1.0") for _ in range(2)])
    with pytest.raises(NameClash, match="offered by two plugins of 'acme 1.0'"):
        registry.find("sampler", "dup")


def test_one_name_of_two_kinds_is_no_clash():
    loaded = load(module(sampler("dup")))
    registry = plugin_host.index([loaded])
    assert registry.find("sampler", "dup")
    with pytest.raises(UnknownName, match="unknown tokenizer 'dup'"):
        registry.find("tokenizer", "dup")


def test_an_unknown_name_gets_a_suggestion():
    registry = plugin_host.index([load(module(sampler("top_k"), sampler("typical")))])
    with pytest.raises(UnknownName, match="^unknown sampler 'top_kk'$") as caught:
        registry.find("sampler", "top_kk")
    assert caught.value.hint == "did you mean 'top_k'?"
    with pytest.raises(UnknownName) as caught:
        registry.find("sampler", "zzz")
    assert caught.value.hint == "there are: top_k, typical"


def test_an_unknown_name_names_the_plugin_that_failed(path):
    def fail():
        raise ModuleNotFoundError("No module named 'numpy2'")

    broken = plugin_host.load([plugin_host.Found("m", "gptkit-mirostat", "0.2", fail)])
    registry = plugin_host.index([load(module(sampler("top_k"))), *broken])
    with pytest.raises(UnknownName) as caught:
        registry.find("sampler", "mirostat")
    assert str(caught.value) == (
        "unknown sampler 'mirostat'; plugin 'gptkit-mirostat 0.2' failed to load: "
        "No module named 'numpy2'"
    )
    assert caught.value.hint == "see gptkit plugins list"
    with pytest.raises(UnknownName) as caught:
        registry.find("sampler", "topk")
    assert caught.value.hint == "did you mean 'top_k'? see gptkit plugins list"


def test_many_failed_plugins_don_t_make_a_long_story(path):
    registry = path(ZOO)
    with pytest.raises(UnknownName) as caught:
        registry.find("sampler", "wet")
    assert str(caught.value).count("failed to load") == plugin_host.SUSPECTS
    assert str(caught.value).endswith("more failed")
