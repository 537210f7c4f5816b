"""YAML text: plain data with the line of each key, and hostile text refused at small cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptkit import yaml_text
from gptkit.errors import ConfigError


def read(text):
    return yaml_text.parse(text, "job.yaml").data


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("lr: 1e-4", {"lr": 0.0001}),
        ("country: NO\non: 1\ntime: 12:30", {"country": "NO", "on": 1, "time": "12:30"}),
        ("a: 010\nb: 0o17\nc: 0x1f\nd: 1.10", {"a": 10, "b": 15, "c": 31, "d": 1.1}),
        ("a: true\nb: ~\nc:\nd: ''", {"a": True, "b": None, "c": None, "d": ""}),
        ("a: '1'\nb: \"2\"\nc: |\n  3\n", {"a": "1", "b": "2", "c": "3\n"}),
        ("a: =", {"a": "="}),
        ("50256: -100", {50256: -100}),
        ("a: &x {b: [1]}\nc: *x", {"a": {"b": [1]}, "c": {"b": [1]}}),
        ('a: "\\ud83d\\ude00"', {"a": "\N{GRINNING FACE}"}),
        ("--- \na: 1\n...\n", {"a": 1}),
        ("# nothing\n", None),
        ("", None),
    ],
)
def test_yaml_1_2_without_surprises(text, data):
    assert read(text) == data


def test_every_key_and_item_has_its_line():
    parsed = yaml_text.parse("a: 1\nb:\n  - x\n  - c: 2\n    d: 3\n", "job.yaml")
    assert parsed.lines == {
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 1): 4,
        ("b", 1, "c"): 4,
        ("b", 1, "d"): 5,
    }


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a: 1\nb: 2\na: 3", "job.yaml:3: key 'a' is given twice, first in line 1", None),
        (
            "a:\n  b: !!python/object/apply:os.system [ls]",
            "job.yaml:2: tag '!!python/object/apply:os.system' is not allowed",
            "remove it, or quote the text",
        ),
        ("a: !!str 1", "job.yaml:1: tag '!!str' is not allowed", "remove it, or quote the text"),
        ("a: !x 1", "job.yaml:1: tag '!x' is not allowed", "remove it, or quote the text"),
        ("a: !e!x 1", "job.yaml:1:4: a tag, which is not allowed", "quote the text"),
        ("#\n%YAML 1.1\n---\na: no", "job.yaml:2: the directive %YAML is not allowed", "remove it"),
        ("%TAG ! t:x\n---\na: 1", "job.yaml:1: the directive %TAG is not allowed", "remove it"),
        ("a: 1\n---\nb: 2", "job.yaml:2: a second document begins here; a file holds one", None),
        ("a: 2024-01-01", "job.yaml:1: 2024-01-01 would be a date", 'quote it: "2024-01-01"'),
        ('a: "\\ud800"', 'job.yaml:1: half of a surrogate pair in "\\ud800" is no text', None),
        (
            "a: x\nb: \x1b[2J",
            "job.yaml:2:4: the character U+001B is not allowed in YAML",
            'write "\\x1b" in double quotes',
        ),
        ("a: \ud800", "job.yaml:1:4: the character U+D800 is not allowed in YAML", None),
        (
            "a:\n\t- 1",
            "job.yaml:2:1: a tab where a value begins",
            "use spaces, or quote the text",
        ),
        (
            "a:\n  - 1\n b: 2",
            "job.yaml:3:2: this does not line up with what is above it",
            "check the indentation",
        ),
        ("a: tell: me", "job.yaml:1:8: a second ': ' in one line", "quote the text"),
        (
            "a: b\nno colon\nc: 1",
            "job.yaml:3:1: a key without ': '",
            "check the indentation, or quote the text",
        ),
        ("a: {", "job.yaml:1:5: a value is missing here", "quote the text if it is one"),
        ("a: 'x", "job.yaml:1:6: a quote that is never closed", "close it before the end"),
        ("a: @x", "job.yaml:1:4: this character can't begin a text", "quote the text"),
        ("a: *x", "job.yaml:1: '*x' stands for nothing before it", "quote the text"),
        ("a: &x [*x]", "job.yaml:1: '*x' stands inside what it stands for", None),
        ("<<: {a: 1}", "job.yaml:1: merge keys ('<<') are not allowed", "write the keys out"),
        ("true: 1", "job.yaml:1: a key must be text or a whole number", "quote the key"),
        ("[a]: 1", "job.yaml:1: a key must be text or a whole number", "quote the key"),
        ("a: " + "9" * 5000, "job.yaml:1: a number of 5,000 characters is too long", None),
    ],
)
def test_what_is_refused(text, message, hint):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert (str(caught.value), caught.value.hint) == (message, hint)


def _bomb():
    levels = [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(["a0: &a0 [1,1,1,1,1,1,1,1,1,1]", *levels])


def _ladder():
    return "\n".join(["a0: &a0 []", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_bomb(), "job.yaml:4: more than the limit of 10,000 values (aliases counted in full)"),
        (_ladder(), "job.yaml:64: nested deeper than the limit of 64 levels"),
        ("[" * 10_000, "job.yaml:1: nested deeper than the limit of 64 levels"),
        ("- " * 10_000, "job.yaml:1: nested deeper than the limit of 64 levels"),
        ("{a: " * 10_000, "job.yaml:1: nested deeper than the limit of 64 levels"),
        ("a: " + "x" * 1_000_000, "job.yaml is larger than the limit of 1 MB for settings"),
    ],
)
def test_a_bomb_costs_little(text, message):
    read("a: 1")  # ruamel.yaml is imported by now
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value) == message
    assert time.process_time() - start < 3  # one that is built takes minutes, and all memory


def test_as_many_values_as_the_limit_are_read():
    assert len(read("[" + "1," * (yaml_text.MAX_NODES - 1) + "]")) == yaml_text.MAX_NODES - 1
    with pytest.raises(ConfigError, match="more than the limit"):
        read("[" + "1," * yaml_text.MAX_NODES + "]")


def test_a_message_stays_short_whatever_the_name():
    for text in ("a: *" + "x" * 5000, "a: !" + "x" * 5000, ("k" * 500 + ": 1\n") * 2):
        with pytest.raises(ConfigError) as caught:
            read(text)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("a: tell me about C # language", 1),
        ("a: tell me about C  # a comment of the usual form", 0),
        ("model: mini # one word", 0),
        ("a: 'tell me about C' # x", 0),
        ("a: one two\n  three C # four\n", 1),
        ("a: 1 # x", 0),
    ],
)
def test_a_text_cut_by_a_comment_is_noted(text, notes):
    found = yaml_text.parse(text, "job.yaml").notes
    assert len(found) == notes
    assert all("which begins a comment; quote the text" in note for note in found)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-# \n\t\"'[]{}&*!|>%@`,?\\0\x00\x1b\ud800\u2028", max_size=40))
def test_only_config_errors_escape(text):
    try:
        read(text)
    except ConfigError as error:
        assert "\n" not in str(error)
