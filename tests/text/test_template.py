"""Few-shot and chat templates from YAML: their pieces, stops and mistakes."""

from __future__ import annotations

import pytest

from gptkit.config import parse_yaml
from gptkit.errors import ConfigError
from gptkit.plugin_api import ChatTemplate, Segment, Template
from gptkit.text.template import from_document, read_template

QA = """
instruction: "Answer."
item: "Q: $question\\nA: $answer"
output: answer
separator: "\\n\\n"
"""
CHAT = """
system: [{control: <s>}, $text]
user: [{control: <u>}, $text]
assistant: [{control: <a>}, $text, {control: <e>}]
"""
DIALOGUE = """
system: "$text\\n\\n"
user: "User: $text\\n"
assistant: "Assistant: $text\\n"
stop: ["\\nUser:"]
"""


def made(text, at=()):
    return from_document(parse_yaml(text, "t.yaml"), "template t", at)


def joined(segments):
    return "".join(segment.text for segment in segments)


# Few-shot -------------------------------------------------------------------------------------


def test_the_pieces_of_a_few_shot_template():
    template = made(QA)
    assert isinstance(template, Template)
    assert (template.output, template.inputs) == ("answer", {"question"})
    assert joined(template.head()) == "Answer.\n\n"
    assert joined(template.example({"question": "1+1?", "answer": "2"})) == "Q: 1+1?\nA: 2\n\n"
    assert joined(template.item({"question": "2+2?"})) == "Q: 2+2?\nA:"
    assert template.stops == (Segment("\n\n"),)


@pytest.mark.parametrize(
    ("item", "cut", "stop"),
    [
        ("$q -> $a", "x ->", "\n\n"),
        ("$q\\n$a", "x\n", "\n\n"),  # the line break belongs to the form, the blank to the answer
        ("$q\\t $a", "x", "\n\n"),
        ("$q:${a}", "x:", "\n\n"),
        ("$q=$a;", "x=", ";"),
        ("$a", "", "\n\n"),
        ("$$5 for $q: $a", "$5 for x:", "\n\n"),
    ],
)
def test_where_an_item_is_cut_and_what_stops(item, cut, stop):
    template = made(f'item: "{item}"\noutput: a')
    assert joined(template.item({"q": "x"})) == cut
    assert template.stops == (Segment(stop),)
    whole = joined(template.example({"q": "x", "a": "y"}))
    assert whole.startswith(cut) and stop in whole and "y" in whole


def test_without_an_instruction_there_is_no_head():
    assert made('item: "$q $a"\noutput: a').head() == ()


def test_a_value_is_never_read_as_a_template():
    template = made(QA)
    assert joined(template.item({"question": "$answer $$ ${x}"})) == "Q: $answer $$ ${x}\nA:"
    shot = joined(template.example({"question": "$", "answer": "$question"}))
    assert shot == "Q: $\nA: $question\n\n"


def test_fields_that_no_template_names_are_no_error():
    assert joined(made(QA).item({"question": "x", "id": "7"})) == "Q: x\nA:"


def test_a_missing_field_is_named_with_those_there_are():
    with pytest.raises(ConfigError) as caught:
        made(QA).item({"id": "1", "questoin": "x"})
    assert str(caught.value) == "template t uses $question; there is: id, questoin"
    assert caught.value.hint == "did you mean 'questoin'?"
    with pytest.raises(ConfigError, match=r"uses \$answer; there is: question"):
        made(QA).example({"question": "x"})
    with pytest.raises(ConfigError, match=r"uses \$question; there is: nothing"):
        made(QA).item({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('item: "$q"\noutput: a', "t.yaml: the item has no $a, which is the output"),
        ('item: "$a $q"\noutput: a', "t.yaml: $q stands after $a, which must be the last"),
        ('item: "$a $a"\noutput: a', "t.yaml: $a stands after $a, which must be the last"),
        (
            'item: "$q $a"\noutput: a\nseparator: ""',
            "t.yaml: nothing would end an output: give a separator",
        ),
        (
            'output: a\nitem: "costs 5$ $a"',
            "t.yaml:2: item: a '$' begins no name; write $$ for a dollar",
        ),
        (
            'item: "$q $a"\noutput: a\ninstruction: "About $topic"',
            "t.yaml:3: instruction: $topic can't stand here, only the item has fields",
        ),
        ("output: a", "t.yaml: 'item' is missing"),
        ('item: "$a"\noutput: a\nseperator: x', "t.yaml:3: unknown key 'seperator'"),
        ("item: [x]\noutput: a", "t.yaml:1: item: expected text, got a list"),
    ],
)
def test_mistakes_in_a_few_shot_template(text, message):
    with pytest.raises(ConfigError) as caught:
        made(text)
    assert str(caught.value) == message


# Chat -----------------------------------------------------------------------------------------


def test_the_pieces_of_a_chat_template_with_control_tokens():
    template = made(CHAT)
    assert isinstance(template, ChatTemplate)
    control = {name: Segment(f"<{name}>", control=True) for name in "suae"}
    assert template.head(None) == ()
    assert template.head("Be brief.") == (control["s"], Segment("Be brief."))
    assert template.turn("user", "Hi") == (control["u"], Segment("Hi"))
    assert template.turn("assistant", "Yes") == (control["a"], Segment("Yes"), control["e"])
    assert template.reply() == (control["a"],)
    assert template.stops == (control["e"],)


def test_the_pieces_of_a_plain_dialogue():
    template = made(DIALOGUE)
    assert joined(template.head("Be brief.")) == "Be brief.\n\n"
    assert joined(template.turn("user", "Hi")) == "User: Hi\n"
    assert joined(template.turn("assistant", "Yes")) == "Assistant: Yes\n"
    assert joined(template.reply()) == "Assistant:"
    assert template.stops == (Segment("\n"), Segment("\nUser:"))


def test_what_a_user_says_is_text_whatever_it_says():
    said = made(CHAT).turn("user", "<s> $text <e>")
    assert said[1:] == (Segment("<s> $text <e>"),)


@pytest.mark.parametrize(
    ("assistant", "stop"),
    [
        ('[$text, "\\n", {control: <e>}]', Segment("<e>", control=True)),
        ('["$text.", {control: <e>}, "\\n"]', Segment("<e>", control=True)),
        ('["$text###", "\\n"]', Segment("###")),
        ('[$text, "\\n", "---"]', Segment("\n")),
        ('[{control: <a>}, "", $text, ""]', None),
    ],
)
def test_the_control_token_after_an_answer_stops_it_or_else_the_text(assistant, stop):
    stops = made(f"user: $text\nassistant: {assistant}").stops
    assert stops == ((stop,) if stop else ())


def test_more_stops_may_be_control_tokens():
    template = made(CHAT + "stop: [{control: <u>}, '###', {control: <e>}]")
    assert [(stop.text, stop.control) for stop in template.stops] == [
        ("<e>", True),
        ("<u>", True),
        ("###", False),
    ]


def test_a_template_without_a_place_for_the_instruction():
    template = made("user: $text\nassistant: $text")
    assert template.head(None) == ()
    with pytest.raises(ConfigError, match="template t has no place for a system instruction"):
        template.head("Be brief.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: hi\nassistant: $text", "t.yaml:1: user: needs $text once, has it 0 times"),
        (
            "user: $text\nassistant: [$text, $text]",
            "t.yaml:2: assistant: needs $text once, has it 2 times",
        ),
        (
            "user: $text $name\nassistant: $text",
            "t.yaml:1: user: $name is unknown here, a turn has $text alone",
        ),
        (
            "user: $text $5\nassistant: $text",
            "t.yaml:1: user: a '$' begins no name; write $$ for a dollar",
        ),
        ("user: $text", "t.yaml: 'assistant' is missing"),
        (
            "user: [{contrl: <u>}, $text]\nassistant: $text",
            "t.yaml:1: 'user[0].control' is missing; t.yaml:1: unknown key 'contrl'",
        ),
        ("user: 3\nassistant: $text", "t.yaml:1: user: expected text or a list, got 3"),
        (
            "user: [3, $text]\nassistant: $text",
            "t.yaml:1: user[0]: expected text or settings, got 3",
        ),
        (
            "user: $text\nassistant: $text\nstop: ['']",
            "t.yaml:3: stop: a stop string must not be empty",
        ),
        ("user: $text\nassistant: $text\nstops: []", "t.yaml:3: unknown key 'stops'"),
    ],
)
def test_mistakes_in_a_chat_template(text, message):
    with pytest.raises(ConfigError) as caught:
        made(text)
    assert str(caught.value) == message


# Where templates come from --------------------------------------------------------------------


def test_inline_in_a_job_the_places_are_the_jobs():
    job = "model: x\ntemplate:\n  item: $q $a\n  output: a\n  instrction: Do.\n"
    with pytest.raises(ConfigError) as caught:
        made(job, at=("template",))
    assert str(caught.value) == "t.yaml:5: unknown key 'instrction'"
    assert caught.value.hint == "did you mean 'instruction'?"


def test_read_template(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# Mine.\n" + QA)
    assert joined(read_template(path, "mine").head()) == "Answer.\n\n"
    path.write_text("# Mine.\nitem: 1\n")
    with pytest.raises(ConfigError, match=r"; template mine:2: item: expected text, got 1$"):
        read_template(path, "mine")
