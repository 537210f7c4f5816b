import json

import pytest

from gptkit.config import read_yaml
from gptkit.errors import ConfigError, ResourceError
from gptkit.jobs.spec import JobSettings
from tests.chat.talk import say, session


@pytest.fixture
def talk():
    made = session(["hello", "a\nb"], items=[{"temperature": 0.7}, {"top_p": 0.9}])
    say(made, "hi")
    say(made, "/system be brief")
    return made


def saved(talk, path):
    said = say(talk, f"/save {path}")
    assert said.errors == []
    assert said.notes == [f"saved {path}"]
    return path.read_text()


def test_settings_are_saved_as_a_job(talk, tmp_path):
    say(talk, '/set stop ["\\nYou:"]')
    say(talk, "/set top_p off")
    path = tmp_path / "talk.yaml"
    text = saved(talk, path)
    job = read_yaml(path).build(JobSettings)
    assert (job.model, job.template, job.system) == ("fake", "marked", "be brief")
    assert job.sampling.seed == 1
    assert job.sampling.chain == ({"temperature": 0.7}, "sample")  # and not what is off
    assert job.stop == {"max_new_tokens": 128, "strings": ["\nYou:"]}
    assert text.startswith("# gptkit run talk.yaml --input ROWS.jsonl")


def test_a_conversation_is_saved_for_readers(talk, tmp_path):
    for event in talk.handle("more"):
        if getattr(event, "text", "") == "a":
            talk.interrupt()
    text = saved(talk, tmp_path / "talk.md")
    assert text.endswith(
        "## You\n\nhi\n\n## fake\n\nhello\n\n## You\n\nmore\n\n## fake\n\na\n\n*[interrupted]*\n"
    )


def test_a_conversation_is_saved_for_programs(talk, tmp_path):
    lines = [json.loads(line) for line in saved(talk, tmp_path / "talk.jsonl").splitlines()]
    assert lines[0] == {"role": "system", "content": "be brief"}
    assert lines[1] == {"role": "user", "content": "hi"}
    assert lines[2]["content"] == "hello"
    assert lines[2]["finish_reason"] == "stop_token"
    assert lines[2]["seed"] == talk.engine.requests[0].seed


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("", ConfigError, "needs a file name"),
        ("talk", ConfigError, "the name tells what to write"),
        ("talk.txt", ConfigError, "the name tells what to write"),
        ("there.md", ConfigError, "exists already"),
        ("nowhere/talk.md", ResourceError, "No such file or directory"),
    ],
)
def test_what_can_not_be_saved_is_said_and_harms_nothing(talk, tmp_path, name, error, words):
    (tmp_path / "there.md").write_text("mine")
    (got,) = say(talk, f"/save {tmp_path / name}" if name else "/save").errors
    assert isinstance(got, error)
    assert words in str(got)
    assert [path.name for path in tmp_path.iterdir()] == ["there.md"]
    assert (tmp_path / "there.md").read_text() == "mine"
