"""Sources: conversations and rows become documents in the form that a prompt will have."""

from __future__ import annotations

import pytest

from gptkit.errors import ConfigError
from gptkit.training.recipe import SourceSettings
from gptkit.training.sources import documents, read_text
from tests.training.fakes import registry, tiny

CHAT = """\
lists: {pet: [cat, dog]}
conversations:
- ["{Hi|Hello}, $pet!", "I am a $pet."]
"""
ROWS = """\
rows:
- {question: "one {or|and} one", answer: two}
- {question: up, answer: down}
- {question: red, answer: blue}
"""


@pytest.fixture
def made(tmp_path):
    recipe = tiny(tmp_path)

    def make(name, content, **source):
        (tmp_path / name).write_text(content)
        settings = SourceSettings.model_validate(source)
        return list(documents(settings, recipe, registry(), "0"))

    return make


def shown(document):
    return "".join(segment.text for segment in document)


def test_a_conversation_has_the_turns_of_the_template_and_control_tokens(made):
    found = made("c.yaml", CHAT, conversations="c.yaml", template="chat", expand=40)
    assert len(found) == 40
    assert {shown(document) for document in found} == {
        f"<|user|>{hi}, {pet}!<|assistant|>I am a {pet}.<|end|>"
        for hi in ("Hi", "Hello")
        for pet in ("cat", "dog")
    }
    assert [s.text for s in found[0] if s.control] == ["<|user|>", "<|assistant|>", "<|end|>"]


def test_conversations_may_follow_one_another_and_have_a_system_turn(made):
    found = made(
        "c.yaml",
        "conversations: [[a, b], [c, d]]",
        conversations="c.yaml",
        template="chat",
        expand=100,
        join=[1, 2],
        system=["Be kind."],
    )
    one, other = "<|user|>a<|assistant|>b<|end|>", "<|user|>c<|assistant|>d<|end|>"
    said = [one, other, *(first + second for first in (one, other) for second in (one, other))]
    told = {shown(document) for document in found}
    assert told == {start + text for start in ("", "<|system|>Be kind.") for text in said}
    opened = sum(shown(document).startswith("<|system|>") for document in found)
    assert 30 <= opened <= 70  # a quarter of 200
    assert all(shown(document).count(one) for document in found[:100])  # its own is there


def test_without_expand_the_text_is_as_it_stands(made):
    (found,) = made("c.yaml", CHAT, conversations="c.yaml", template="chat")
    assert "{Hi|Hello}, $pet!" in shown(found)


def test_files_that_are_not_ours_are_read_leniently(made):
    other = """\
categories: [x]
conversations:
- - What is 2 + 2?
  - 4
  - And now?
- - Question: of a kind
  - two  spaces
- - only one
- - null
  - x
- just text
"""
    found = made("c.yml", other, conversations="c.yml", template="chat")
    assert [shown(document) for document in found] == [
        "<|user|>What is 2 + 2?<|assistant|>4<|end|>",
        "<|user|>Question: of a kind<|assistant|>two spaces<|end|>",
    ]


def test_a_row_comes_after_k_other_rows_and_ends_with_the_separator(made):
    found = made("r.yaml", ROWS, rows="r.yaml", template="qa", expand=30, k=[0, 2])
    head = "Answer each question in a few words.\n\n"
    counts = set()
    for document in found:
        text = shown(document)
        assert text.startswith(head) and text.endswith("\n\n")
        items = text[len(head) : -2].split("\n\n")
        assert len(set(items)) == len(items)
        counts.add(len(items) - 1)
    assert counts == {0, 1, 2}
    assert shown(found[-1]).endswith("Question: red\nAnswer: blue\n\n")
    assert {"one or one", "one and one"} <= {
        line[10:] for document in found for line in shown(document).split("\n")
    }


def test_rows_of_jsonl(made):
    lines = '{"question": "a", "answer": 1, "id": 7}\n\n{"question": "b", "answer": 2}\n'
    found = made("r.jsonl", lines, rows="r.jsonl", template="qa")
    assert [shown(d).split("\n\n", 1)[1] for d in found] == [
        "Question: a\nAnswer: 1\n\n",
        "Question: b\nAnswer: 2\n\n",
    ]


def test_documents_are_the_same_every_time(made):
    source = {"rows": "r.yaml", "template": "qa", "expand": 5, "k": [0, 2]}
    assert made("r.yaml", ROWS, **source) == made("r.yaml", ROWS, **source)


@pytest.mark.parametrize(
    ("name", "content", "source", "message"),
    [
        ("c.yaml", "a: 1", {"conversations": "c.yaml", "template": "chat"}, "no list conv"),
        ("r.yaml", "a: 1", {"rows": "r.yaml", "template": "qa"}, "no list rows"),
        ("c.yaml", CHAT, {"conversations": "c.yaml", "template": "qa"}, "qa is no chat template"),
        ("r.yaml", ROWS, {"rows": "r.yaml", "template": "chat"}, "chat is a chat template"),
        ("r.yaml", ROWS, {"rows": "r.yaml", "template": "qa", "k": [0, 3]}, "3 rows are too few"),
        ("r.yaml", "rows: [3]", {"rows": "r.yaml", "template": "qa"}, "row 0: expected fields"),
        ("r.yaml", "rows: [{x: y}]", {"rows": "r.yaml", "template": "qa"}, "there is: x"),
        ("r.jsonl", "{", {"rows": "r.jsonl", "template": "qa"}, "r.jsonl:1: not valid JSON"),
        (
            "c.yaml",
            'conversations: [["{a", b]]',
            {"conversations": "c.yaml", "template": "chat", "expand": 1},
            "c.yaml: a '{' is never closed in '{a'",
        ),
    ],
)  # fmt: skip
def test_mistakes_name_the_file(made, name, content, source, message):
    with pytest.raises(ConfigError, match=message):
        made(name, content, **source)


def test_text_that_is_not_utf8_is_told_with_its_offset(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(ConfigError, match="is not UTF-8: byte 0xe9 at offset 3"):
        read_text(path)


def test_text_without_bom_and_carriage_returns(tmp_path):
    path = tmp_path / "dos.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_text(path) == "a\nb"
