"""`gptkit history` and the chats that it is made of, through the real command line."""

import json
import os
import subprocess
import sys
import time

import pytest

from gptkit.chat.store import Store, StoredTurn
from gptkit.cli import main
from gptkit.config import home


@pytest.fixture
def demo():
    store = Store.open(home() / "history.db")
    ids = []
    for text in ("hello [bold] \x1b[31mworld", "what is top_p?"):
        id = store.begin(model="mini", template="chat", system="be brief", settings={"seed": 3})
        store.save_turn(id, StoredTurn(1, None, "user", text))
        store.save_turn(id, StoredTurn(2, 1, "assistant", "an answer", "eos"))
        store.save_turn(id, StoredTurn(3, 1, "assistant", "half of", "cancelled"))
        ids.append(id)
    store.close()
    return ids


def said(capsys, *argv):
    code = main(["history", *argv])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_list_shows_the_last_first(demo, capsys):
    code, out, _ = said(capsys, "list")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == demo[::-1]
    assert "[bold] ␛[31mworld" in out
    records = json.loads(said(capsys, "list", "--json")[1])
    assert [one["n_turns"] for one in records] == [3, 3]


def test_show_prints_the_way_to_where_the_talk_is(demo, capsys):
    _, out, _ = said(capsys, "show", demo[1][:5])
    assert "## System\n\nbe brief" in out
    assert "half of\n\n*[interrupted]*" in out and "an answer" not in out
    _, out, _ = said(capsys, "show", demo[1], "--tree")
    assert out.splitlines() == [
        "1 you: what is top_p?",
        "├─ 2 model: an answer",
        "└─ 3 model [cancelled] [you are here]: half of",
    ]
    assert json.loads(said(capsys, "show", demo[1], "--json")[1])["turns"][1]["text"] == "an answer"


def test_search(demo, capsys):
    _, out, _ = said(capsys, "search", "TOP_P")
    assert demo[1] in out and demo[0] not in out
    code, out, err = said(capsys, "search", "wha")
    assert (code, out) == (0, "") and "whole words" in err


def test_a_history_in_which_nothing_is(capsys):
    assert said(capsys, "list") == (0, "", "note: there are no conversations yet\n")
    assert said(capsys, "list", "--json")[1] == "[]\n"


def test_export(demo, capsys, tmp_path):
    path = tmp_path / "talk.jsonl"
    assert said(capsys, "export", demo[1], "--output", str(path))[0] == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["role"] for line in lines] == ["system", "user", "assistant"]
    code, _, err = said(capsys, "export", demo[1], "--output", str(path))
    assert code == 2 and "exists already" in err
    code, _, err = said(capsys, "export", demo[1], "--output", str(tmp_path / "talk.doc"))
    assert code == 2 and "neither .md nor .jsonl" in err
    assert said(capsys, "export", demo[1], "--json")[1] == path.read_text()
    assert said(capsys, "export", demo[1])[1] == said(capsys, "show", demo[1])[1]
    code, _, err = said(capsys, "export", demo[1], "--json", "--output", str(tmp_path / "x.jsonl"))
    assert code == 2 and "--json is for stdout" in err


def test_delete_asks(demo, capsys):
    code, _, err = said(capsys, "delete", demo[0])
    assert code == 2 and "nothing was deleted" in err
    assert said(capsys, "delete", demo[0], "--yes")[0] == 0
    assert said(capsys, "show", demo[0])[0] == 2
    assert said(capsys, "delete", "--all", "--yes")[2] == "note: 1 conversation deleted\n"
    assert said(capsys, "delete")[0] == 2


def chat(lines, *argv, **env):
    return subprocess.run(
        [sys.executable, "-m", "gptkit", "chat", "--seed", "1", *argv],
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )


def test_a_chat_goes_on_where_it_was_left():
    assert chat("Hello\nHow are you?\n").returncode == 0
    done = chat("/undo\n/tree\n", "-c")
    assert "goes on after 4 turns" in done.stderr
    assert done.stdout.splitlines()[0].startswith("1 you: Hello")
    (one,) = Store.open(home() / "history.db").conversations()
    done = chat("/tree\n", "--id", one.id[:4])
    assert "goes on after 2 turns" in done.stderr
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.slow
def test_a_chat_without_a_history():
    assert chat("Hello\n", "--no-history").returncode == 0
    assert chat("Hello\n", GPTKIT_HISTORY="off").returncode == 0
    assert not (home() / "history.db").exists()
    done = chat("", "-c", "--no-history")
    assert done.returncode == 2 and "nothing to go on with" in done.stderr
    done = chat("", "-c")
    assert done.returncode == 2 and "no conversation to go on with" in done.stderr


def test_what_was_said_is_there_after_a_kill():
    """The message before the answer begins, the half-answer within a second or so."""
    command = [sys.executable, "-m", "gptkit", "chat", "--seed", "1"]
    endless = ["--stop-when", "ignore_eos", "--max-new-tokens", "400", "--template", "dialogue"]
    run = subprocess.Popen(
        [*command, *endless], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.stdin.write(b"Tell me a story\n")
    run.stdin.flush()
    run.stdout.read(1)
    deadline = time.monotonic() + 120
    turns = ()
    while time.monotonic() < deadline and len(turns) < 2 and run.poll() is None:
        time.sleep(0.1)
        store = Store.open(home() / "history.db")
        if store.latest():
            turns = store.load(store.latest()).turns
        store.close()
    run.kill()
    run.communicate()
    store = Store.open(home() / "history.db")
    turns = store.load(store.latest()).turns
    assert turns[0].text == "Tell me a story"
    assert turns[1].finish_reason in ("partial", "length", "context", "eos", "stop_string")
