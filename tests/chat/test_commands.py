import pytest

from gptkit.chat.commands import COMMANDS, usage
from tests.chat.talk import say, session


def cells(said):
    return {row[0]: row for row in said.rows}


def test_the_commands_are_these():
    assert list(COMMANDS) == ["help", "reset", "set", "show", "system", "save", "exit"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name):
    written, does = usage(name)
    assert written.startswith(f"/{name}")
    assert does.endswith(".")


def test_help_is_made_of_the_docstrings():
    said = say(session(), "/help")
    assert said.rows[2] == usage("set")
    assert said.rows[-1][0] == "//TEXT"
    assert "top_p off" in str(say(session(), "/help set").rows)
    assert "top_p off" in str(say(session(), "/help /set").rows)
    (error,) = say(session(), "/help sett").errors
    assert error.hint == "did you mean 'set'?"


def test_reset_starts_anew_with_the_same_settings():
    talk = session(["a", "b"])
    say(talk, "/set temperature 0.5")
    say(talk, "x")
    say(talk, "/reset")
    assert talk.conversation.path() == ()
    assert talk.n_used == 0
    assert str(talk.settings.chain[0]) == "temperature=0.5"


def test_set_changes_the_next_answer_and_alone_lists():
    talk = session(["hello"])
    assert say(talk, "/set max_new_tokens 2").notes == ["max_new_tokens=2"]
    assert say(talk, "hi").text == "he"
    assert cells(say(talk, "/set"))["max_new_tokens"][1] == "2"
    (error,) = say(talk, "/set top_p 1.5").errors
    assert "above 1" in str(error)


def test_show_tells_what_is_in_force_and_where_it_came_from():
    talk = session(["hello"], items=[{"temperature": 0.7}], system="be brief")
    say(talk, "hi")
    say(talk, "/set top_p 0.9")
    said = say(talk, "/show")
    rows = cells(said)
    assert rows["template"] == ("template", "marked", "model")
    assert rows["system"] == ("system", "be brief", "command line")
    assert rows["chain"] == ("chain", "temperature=0.7", "command line")
    assert ("", "top_p=0.9", "/set") in said.rows
    assert ("", "sample", "default") in said.rows
    assert rows["stop"] == ("stop", "max_new_tokens=128", "default")
    assert ("", "'<e>'", "template") in said.rows
    assert rows["seed"] == ("seed", "1", "command line")
    # <s>be brief<u>hi<a> and hello<e>
    assert rows["context"][1] == "19 of 128 tokens used, 109 left"
    assert rows["turns"][1] == "2"


def test_system_is_shown_set_and_removed():
    talk = session()
    assert say(talk, "/system").notes == ["system: off"]
    assert say(talk, "/system be  brief").notes == ["system: be  brief"]
    assert say(talk, "/system off").notes == ["system: off"]


def test_exit_leaves():
    assert say(session(), "/exit").left
    assert not say(session(), "/reset").left


def test_a_command_is_never_said_to_the_model():
    talk = session()
    for line in ("/", "/ x", "/x", "/help", "/set", "/show"):
        say(talk, line)
    assert talk.engine.requests == []
