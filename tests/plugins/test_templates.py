"""The bundled templates: each loads, and is what its examples say."""

from __future__ import annotations

import pytest

from gptkit.plugin_api import ChatTemplate, Segment, Template
from gptkit.text.prompting import encode
from gptkit.text.template import read_template
from gptkit_plugins import templates
from tests.fakes import ByteTokenizer

FILES = {file.name.removesuffix(".yaml"): file for file in templates.gptkit_templates()}


def joined(segments):
    return "".join(segment.text for segment in segments)


def test_all_are_offered():
    assert list(FILES) == ["chat", "dialogue", "qa", "summarize"]


@pytest.mark.parametrize("name", FILES)
def test_each_has_a_summary_and_a_way_to_end(name):
    first = FILES[name].read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ") and first.endswith(".")
    assert read_template(FILES[name], name).stops


@pytest.mark.parametrize("name", ["chat", "dialogue"])
def test_chat_templates_take_an_instruction_and_encode(name):
    template = read_template(FILES[name], name)
    assert isinstance(template, ChatTemplate)
    pieces = (*template.head("Be kind."), *template.turn("user", "Hi"), *template.reply())
    assert encode(pieces, ByteTokenizer())


def test_chat():
    template = read_template(FILES["chat"], "chat")
    assert template.turn("assistant", "Yes") == (
        Segment("<|assistant|>", control=True),
        Segment("Yes"),
        Segment("<|end|>", control=True),
    )
    assert template.stops[0] == Segment("<|end|>", control=True)


def test_dialogue():
    template = read_template(FILES["dialogue"], "dialogue")
    turns = template.turn("user", "Hi"), template.turn("assistant", "Yes"), template.reply()
    assert "".join(map(joined, turns)) == "User: Hi\nAssistant: Yes\nAssistant:"
    assert [stop.text for stop in template.stops] == ["\n", "\nUser:"]


def test_summarize():
    template = read_template(FILES["summarize"], "summarize")
    assert isinstance(template, Template)
    assert joined(template.head()) == "Summarise each text in one sentence.\n\n"
    assert joined(template.example({"text": "T", "summary": "S"})) == "Text: T\nSummary: S\n\n"
    assert joined(template.item({"text": "T"})) == "Text: T\nSummary:"
    assert [stop.text for stop in template.stops] == ["\n\n"]


def test_qa():
    template = read_template(FILES["qa"], "qa")
    assert (template.output, template.inputs) == ("answer", {"question"})
    assert joined(template.item({"question": "Why?"})) == "Question: Why?\nAnswer:"
