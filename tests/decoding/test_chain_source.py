"""Whole chains: presets, files and `sampling` blocks, and what changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptkit.decoding import chain_source
from gptkit.decoding.request import resolve_chain
from gptkit.errors import GptkitError
from gptkit.plugin_host import registry

REGISTRY = registry()


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).write_text(text)
        return Path(name)

    return write


def shown(source):
    return [str(stage) for stage in source.chain]


@pytest.mark.parametrize(
    "text",
    [
        "chain: [{temperature: 0.5}, {top_k: 3}]",
        "sampling: {seed: 7, chain: [{temperature: 0.5}, {top_k: 3}]}",
        "model: mini\nsampling:\n  chain:\n    - temperature: 0.5\n    - top_k: 3\nstop: {}\n",
    ],
)
def test_a_file_has_a_chain_or_a_sampling_block(write, text):
    source = chain_source.from_file(write("creative.yaml", text), REGISTRY)
    assert (source.name, shown(source)) == (
        "creative.yaml",
        ["temperature=0.5", "top_k=3", "sample"],
    )


def test_a_file_may_name_a_preset(write):
    source = chain_source.from_file(write("a.yaml", "sampling: {preset: nanogpt}"), REGISTRY)
    assert source.name == "a.yaml"
    assert shown(source) == ["temperature=0.8", "top_k=200", "sample"]


def test_a_name_is_a_file_s_or_a_preset_s(write):
    assert chain_source.from_name("nanogpt", REGISTRY).name == "preset nanogpt"
    write("nanogpt", "chain: [greedy]")
    assert shown(chain_source.from_name("nanogpt", REGISTRY)) == ["greedy"]


@pytest.mark.parametrize(
    ("stages", "preset", "name", "items"),
    [
        ([], None, None, []),
        (["top_k=3"], None, None, [{"top_k": "3"}]),
        (["top_k=3"], "nanogpt", "preset nanogpt", [{"top_k": "3"}]),
        (["@a.yaml", "greedy"], None, "a.yaml", ["greedy"]),
    ],
)
def test_what_the_command_line_gives(write, stages, preset, name, items):
    write("a.yaml", "chain: [{temperature: 0.5}]")
    source, rest = chain_source.given(stages, preset, REGISTRY)
    assert (source.name if source else None, rest) == (name, items)


def test_what_follows_changes_a_whole_chain_in_its_place(write):
    write("a.yaml", "chain: [{top_k: 9}, {temperature: 0.5}]")
    source, items = chain_source.given(["@a.yaml", "top_k=3", "top_p=0.9"], None, REGISTRY)
    chain = resolve_chain(items, REGISTRY, base=source.chain)
    assert [str(stage) for stage in chain] == ["top_k=3", "temperature=0.5", "top_p=0.9", "sample"]
    assert source.said_of(chain) == "a.yaml: top_k=3 temperature=0.5 top_p=0.9 sample"


@pytest.mark.parametrize(
    ("stages", "preset", "said"),
    [
        (["@a.yaml", "@b.yaml"], None, "-s @a.yaml and -s @b.yaml are both a whole chain"),
        (["@a.yaml"], "hf", "--preset and -s @a.yaml are both a whole chain"),
        (["top_k=3", "@a.yaml"], None, "-s @a.yaml comes behind another stage"),
        (["@"], None, "-s @ names no file"),
        (["@no.yaml"], None, "no such file: no.yaml"),
        (["@both.yaml"], None, "both.yaml:1: sampling: a preset is a whole chain, and there is a"),
        (["@none.yaml"], None, "none.yaml:1 names no chain"),
        (["@odd.yaml"], None, "odd.yaml:2: unknown key 'chian'"),
        (["@list.yaml"], None, "list.yaml: expected settings, got a list"),
        (["@bad.yaml"], None, "bad.yaml:2: top_p: 7 is above 1"),
        (["@typo.yaml"], None, "typo.yaml:1: preset: expected hf, llama.cpp"),
        ([], "gpt", "unknown preset 'gpt'"),
    ],
)
def test_errors_name_option_or_file_and_line(write, stages, preset, said):
    write("a.yaml", "chain: [greedy]")
    write("b.yaml", "chain: [greedy]")
    write("both.yaml", "sampling: {preset: hf, chain: [greedy]}")
    write("none.yaml", "sampling: {seed: 1}")
    write("odd.yaml", "seed: 1\nchian: [greedy]")
    write("list.yaml", "- greedy")
    write("bad.yaml", "seed: 1\nchain: [{top_p: 7}]")
    write("typo.yaml", "preset: hg")
    with pytest.raises(GptkitError) as caught:
        chain_source.given(stages, preset, REGISTRY)
    assert said in str(caught.value)
    assert caught.value.hint or "or nanogpt" in str(caught.value) or "keep one" in str(caught.value)
