"""The model that ships: it fits, it is whole, it answers on topic and ends by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptkit import assembly
from gptkit.checkpoints.library import bundled
from gptkit.decoding.request import Request, resolve_chain, resolve_stops
from gptkit.text.prompting import conversation

FOLDER = dict(bundled())["mini"]


@pytest.fixture(scope="module")
def mini():
    return assembly.load_model(assembly.open_model("mini"), assembly.registry())


@pytest.fixture(scope="module")
def ask(mini):
    registry = assembly.registry()
    template = assembly.template(mini.chat_template, registry)
    stops = resolve_stops(
        assembly.with_template_stops({"max_new_tokens": 100}, template, mini.tokenizer), registry
    )
    chain = resolve_chain(["greedy"], registry)
    engine = assembly.engine(mini)

    def answers(*messages):
        """Return the answers of one conversation, and why each ended."""
        turns, said = [], []
        for message in messages:
            turns.append(("user", message))
            prompt = conversation(template, None, turns, mini.tokenizer, room=400)
            events = list(engine.stream(Request(tuple(prompt.ids), chain, stops, 0)))
            said.append(("".join(e.text for e in events), events[-1].finish_reason))
            turns.append(("assistant", said[-1][0]))
        return said

    return answers


def test_it_fits_in_8_mb_and_is_whole():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 8_000_000
    assembly.open_model("mini").verify()


def test_its_card_says_what_it_is():
    card = (FOLDER / "README.md").read_text()
    for part in ("trained on", "validation loss", "can't", "licence"):
        assert part in card.lower()


@pytest.mark.parametrize(
    "question, about",
    [
        ("Hello!", ""),
        ("How are you?", ""),
        ("What is top-k sampling?", "most likely"),
        ("What does temperature do?", "temperature"),
        ("What is gptkit?", "gptkit"),
        ("How do I start a chat?", "gptkit chat"),
        ("What is a token?", "token"),
        ("What is the capital of France?", "Paris"),
        ("Tell me a joke.", ""),
        ("Goodbye!", ""),
    ],
)
def test_it_answers_on_topic_and_ends_by_itself(ask, question, about):
    ((text, reason),) = ask(question)
    assert reason in ("eos", "stop_token")
    assert text.strip() and text.rstrip()[-1] in ".!?"
    assert about.lower() in text.lower()


def test_it_remembers_what_was_said(ask):
    (_, (text, _)) = ask("My name is Anna.", "What is my name?")
    assert "Anna" in text


def test_summarize_gives_one_sentence_for_each_text(tmp_path, monkeypatch):
    from gptkit.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["run", "summarize"]) == 0
    rows = [json.loads(line) for line in Path("summarize.out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"a{i}" for i in range(1, 13)]
    for row in rows:
        assert row["finish_reason"] == "stop_string"
        assert "\n" not in row["text"] and row["text"].endswith(".")
        assert 3 <= len(row["text"].split()) <= 20
