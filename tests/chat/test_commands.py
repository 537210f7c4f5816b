import pytest

from gptkit.chat.commands import ELSEWHERE, OWN, usage
from gptkit.chat.events import Copied, EditWanted, Heading, Probed, Prompted, Tree
from gptkit.decoding.noise import derive
from gptkit.decoding.presets import PRESET_NAMES
from gptkit.plugin_api import Command, Say, hookimpl
from tests.chat.talk import prompt, say, session, sort


def cells(said):
    return {row[0]: row for row in said.rows}


def only(events, kind):
    """Return the one event of a kind."""
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def texts(talk):
    return [turn.text for turn in talk.conversation.path()]


def test_the_commands_are_these():
    assert " ".join(OWN) == (
        "help undo retry continue edit multi branch tree goto reset exit "
        "set chain preset seed max stop system template model trace "
        "show probs compare prompt markdown file save copy"
    )


@pytest.mark.parametrize("name", OWN)
def test_every_command_says_what_it_does(name):
    written, does = usage(session(), name)
    assert written.startswith(f"/{name}")
    assert does.endswith(".") and does[0].isupper()
    assert ": " not in written


def test_help_is_made_of_the_docstrings():
    said = say(session(), "/help")
    assert usage(session(), "set") in said.rows
    assert said.rows[-1][0] == "//TEXT"
    assert "top_p off" in str(say(session(), "/help set").rows)
    assert "top_p off" in str(say(session(), "/help /set").rows)
    (error,) = say(session(), "/help sett").errors
    assert error.hint == "did you mean '/set'?"


def test_what_other_chats_call_a_command_is_a_hint():
    (error,) = say(session(), "/quit").errors
    assert str(error) == "unknown command '/quit'"
    assert error.hint == "here it is '/exit'; // begins a message with a slash"
    assert set(ELSEWHERE.values()) <= set(OWN) and not set(ELSEWHERE) & set(OWN)


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
    assert rows["turns"][1] == "1 message, 1 answer"


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


# Moving in the conversation -------------------------------------------------------------------


def test_undo_goes_back_and_loses_nothing():
    talk = session(["one", "two", "three"])
    for line in ("a", "b", "c"):
        say(talk, line)
    assert "it goes on after: two" in say(talk, "/undo").notes[0]
    assert texts(talk) == ["a", "one", "b", "two"]
    say(talk, "/undo 2")
    assert texts(talk) == [] and len(talk.conversation.turns) == 6
    (error,) = say(talk, "/undo").errors
    assert "the talk begins here" in str(error)
    say(talk, "/goto 6")
    assert texts(talk)[-1] == "three"


def test_retry_writes_other_answers_with_seeds_of_their_own():
    talk = session(["one", "two"], seed=7)
    say(talk, "a")
    said = say(talk, "/retry 2")
    assert said.errors == [] and len(said.answers) == 2
    answers = talk.conversation.children(talk.conversation.find(1))
    assert [turn.seed for turn in answers] == [derive(7, 0, i) for i in range(3)]
    assert talk.conversation.cursor is answers[2]
    assert [prompt(talk, i) for i in range(3)] == ["<u>a<a>"] * 3


def test_branch_lists_the_ways_and_takes_one():
    talk = session(["one", "two", "three"])
    say(talk, "a")
    say(talk, "/retry")
    say(talk, "b")
    shown = only(talk.handle("/branch"), Tree)
    assert [lead for lead, _ in shown.rows] == ["1: turn ", "2: turn "]
    assert shown.here is shown.rows[1][1]
    say(talk, "/branch 1")
    assert texts(talk) == ["a", "one"]
    say(talk, "/branch 2")
    assert texts(talk)[2] == "b"  # to where that way has led
    (error,) = say(talk, "/branch 3").errors
    assert "from 1 to 2" in str(error)


def test_branch_lists_what_followed_the_place_where_the_talk_is():
    """After going back to a message with two answers, it said that there were none."""
    talk = session(["one", "two"])
    say(talk, "a")
    say(talk, "/retry")
    say(talk, "/goto 1")
    shown = only(talk.handle("/branch"), Tree)
    assert [turn.number for _, turn in shown.rows] == [2, 3] and shown.here is None
    say(talk, "/branch 1")
    assert talk.conversation.cursor.number == 2


def test_at_the_beginning_of_a_talk_that_has_been_had():
    talk = session(["one"])
    say(talk, "a")
    say(talk, "/undo")
    for line in ("/undo", "/edit"):
        (error,) = say(talk, line).errors
        assert str(error) == "the talk begins here" and "/tree" in error.hint
    (error,) = say(talk, "/goto").errors
    assert str(error) == "/goto needs the number of a turn"
    assert say(talk, "/goto 0").notes == ["at turn 0; the talk begins anew"]


def test_tree_shows_all_and_where_the_talk_is():
    talk = session(["one"])
    say(talk, "a")
    say(talk, "/retry")
    shown = only(talk.handle("/tree"), Tree)
    assert [lead for lead, _ in shown.rows] == ["", "├─ ", "└─ "]
    assert shown.here.number == 3


def stopped(talk, line, n):
    """Say a line and stop after n events of the answer."""
    events = []
    for event in talk.handle(line):
        events.append(event)
        if len(events) == n:
            talk.interrupt()
    return sort(events)


def test_continue_goes_on_where_the_answer_was_stopped():
    talk = session(["hello there"])
    stopped(talk, "hi", 4)
    assert texts(talk)[-1] == "hell"
    half = talk.conversation.cursor
    said = say(talk, "/continue")
    assert texts(talk) == ["hi", "hello there"]
    assert said.text == "hello there"
    assert prompt(talk) == "<u>hi<a>hell"
    assert talk.engine.requests[1].seed == half.seed
    assert half in talk.conversation.turns and half.is_partial
    (error,) = say(talk, "/continue").errors
    assert "complete" in str(error)


def test_continue_gives_the_answer_that_was_interrupted(monkeypatch):
    """With the noise of its places: the same tokens as if nobody had stopped it."""
    from tests.fakes import FlatModel, chat_model

    def fresh():
        model = chat_model([])
        object.__setattr__(model, "forward", FlatModel(model.config))
        return session(model=model, stop={"max_new_tokens": 30}, seed=5)

    whole = fresh()
    say(whole, "hi")
    talk = fresh()
    stopped(talk, "hi", 10)
    say(talk, "/set max_new_tokens 20")
    say(talk, "/continue")
    want, got = (one.conversation.cursor.made.token_ids for one in (whole, talk))
    assert len(want) == 30 and got == want


def test_edit_asks_for_the_text_and_makes_a_branch():
    talk = session(["one", "two"])
    say(talk, "a")
    wanted = only(talk.handle("/edit"), EditWanted)
    assert wanted.turn.text == "a"
    assert sort(talk.edit(wanted.turn, "better")).notes == ["said: better"]
    assert texts(talk)[0] == "better" and prompt(talk) == "<u>better<a>"
    wanted = only(talk.handle("/edit 2"), EditWanted)
    said = sort(talk.edit(wanted.turn, "half an answ"))
    assert "in the place of 2" in said.notes[0]
    assert texts(talk) == ["a", "half an answ"] and talk.conversation.cursor.edited
    say(talk, "/continue")
    assert prompt(talk) == "<u>a<a>half an answ"


def test_another_token_makes_a_branch_from_there():
    talk = session(["hello"])
    say(talk, "hi")
    turn = talk.conversation.cursor
    said = sort(talk.choose(turn, 2, ord("X")))
    assert prompt(talk) == "<u>hi<a>heX"
    assert said.text.startswith("heX")
    assert [turn.parent.text for turn in talk.conversation.children(turn.parent)] == ["hi", "hi"]
    looks = talk.looks[talk.conversation.cursor.number]
    assert [look.token_id for look in looks[:3]] == list(b"heX")
    assert looks[0].alternatives and looks[2].alternatives and not looks[2].trace


def test_probs_has_each_token_with_what_might_have_been():
    talk = session(["hello"])
    assert "no answer" in str(say(talk, "/probs").errors[0])
    say(talk, "hi")
    turn = only(talk.handle("/probs"), Probed).turn
    looks = talk.looks[turn.number]
    assert bytes(look.token_id for look in looks[:5]) == b"hello"
    assert looks[0].logprob == 0.0 and len(looks[0].alternatives) == 10
    assert looks[0].trace == ()
    say(talk, "/trace on")
    say(talk, "/retry")
    looks = talk.looks[talk.conversation.cursor.number]
    assert [stage.label for stage in looks[0].trace] == ["model"]


# Tuning ---------------------------------------------------------------------------------------


def test_chain_shows_the_stages_in_order_and_moves_them():
    talk = session(items=[{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": "off"}])
    assert [row[0] for row in say(talk, "/chain").rows] == [
        "temperature=0.7",
        "top_p=0.9",
        "?top_k=off",
        "sample",
    ]
    rows = say(talk, "/chain top_p before temperature").rows
    assert [row[0] for row in rows][:2] == ["top_p=0.9", "temperature=0.7"]
    (error,) = say(talk, "/chain top_b before temperature").errors
    assert error.hint == "did you mean 'top_p'?"
    (error,) = say(talk, "/chain sample before top_p").errors
    assert "nothing can follow it" in str(error)


def test_short_ways_to_set():
    talk = session(["hello"])
    assert say(talk, "/seed 9").notes == ["seed=9"]
    assert say(talk, "/max 3").notes == ["max_new_tokens=3"]
    assert say(talk, "/stop l").notes == ["stop: ['l']"]
    assert say(talk, '/stop "quoted"').notes == ["stop: ['l', '\"quoted\"']"]
    assert say(talk, "hi").text == "he"
    assert say(talk, "/stop off").notes == ["stop: off"]
    assert say(talk, "/preset nanogpt").notes[0].startswith("preset nanogpt: ")
    assert [row[0] for row in say(talk, "/preset").rows] == list(PRESET_NAMES)


def test_template_changes_and_shows_the_exact_prompt():
    talk = session(["hello"])
    say(talk, "hi <e>")
    shown = only(talk.handle("/template show"), Prompted)
    assert shown.pieces == (
        ("<u>", True),
        ("hi <e>", False),
        ("<a>", True),
        ("hello", False),
        ("<e>", True),
        ("<a>", True),
    )
    assert say(talk, "/template dialogue").notes == ["template: dialogue"]
    (error,) = say(talk, "/template qa").errors
    assert "no chat template" in str(error)


def test_another_model_goes_on_with_the_talk():
    from gptkit.decoding.engine import Engine
    from tests.fakes import chat_model

    def load(name):
        model = chat_model(["other", "other"])
        return model, Engine(model.forward, model.tokenizer, model.eos_ids)

    talk = session(["hello"])
    assert "can't load" in str(say(talk, "/model x").errors[0])
    talk._load = load
    say(talk, "hi")
    assert say(talk, "/model new").notes[-1].startswith("model: fake")
    assert say(talk, "and?").text == "other"
    assert talk.conversation.cursor.made.model == "new"


def test_compare_answers_by_each_chain():
    talk = session(["one"])
    say(talk, "a")
    events = list(talk.handle("/compare temperature=0.2+top_k=3 hf"))
    names = [event.text for event in events if isinstance(event, Heading)]
    assert names == ["temperature=0.2+top_k=3", "hf"]
    ways = talk.conversation.children(talk.conversation.find(1))
    assert [turn.made.chain[0] for turn in ways[1:]][0] == "temperature=0.2"
    assert talk.conversation.cursor is ways[0]
    assert ways[1].seed == ways[2].seed
    (error,) = say(talk, "/compare hf").errors
    assert "two chains" in str(error)


# Files ----------------------------------------------------------------------------------------


def test_a_file_is_said_behind_a_text(tmp_path):
    path = tmp_path / "my notes.txt"
    path.write_text("line one\nline two\n")
    talk = session(["ok"])
    say(talk, f'/file "{path}" What is this?')
    assert prompt(talk) == "<u>What is this?\n\nline one\nline two<a>"
    path.write_bytes(b"\0\1")
    assert "no text file" in str(say(talk, f'/file "{path}"').errors[0])
    assert "No such file" in str(say(talk, "/file nowhere.txt").errors[0])


def test_copy_gives_the_last_answer():
    talk = session(["hello"])
    assert "no answer" in str(say(talk, "/copy").errors[0])
    say(talk, "hi")
    assert only(talk.handle("/copy"), Copied).text == "hello"


# Plugins --------------------------------------------------------------------------------------


class Count(Command):
    """Count the turns, or ask about them."""

    name = "count"
    arguments = "[ask]"

    def run(self, chat, rest):
        if rest == "ask":
            yield Say(f"are {len(chat.turns)} turns many?")
        elif rest == "fail":
            raise KeyError("oops")
        else:
            yield f"{len(chat.turns)} turns"


class Module:
    @staticmethod
    @hookimpl
    def gptkit_commands():
        yield Count


class Tree2(Count):
    """Draw another tree."""

    name = "tree"


class Others:
    @staticmethod
    @hookimpl
    def gptkit_commands():
        yield from (Count, Tree2)


def test_a_name_that_is_taken_is_written_in_full():
    """One name twice made /help and completion fail; a name of ours hid the plugin's silently."""
    talk = session(["one"], plugins=[Module, Others])
    shown = [row[0] for row in say(talk, "/help").rows]
    assert {"/dist0/count [ask]", "/dist1/count [ask]", "/dist1/tree [ask]"} <= set(shown)
    assert "/count [ask]" not in shown
    assert say(talk, "/dist1/count").notes == say(talk, "/dist1/tree").notes == ["0 turns"]
    (error,) = say(talk, "/count").errors
    assert error.hint == "write 'dist0/count' or 'dist1/count'"
    say(talk, "hi")
    assert only(talk.handle("/tree"), Tree).here.number == 2


def test_a_plugins_command_shows_and_says():
    talk = session(["one", "two"], plugins=[Module])
    say(talk, "hi")
    assert say(talk, "/count").notes == ["2 turns"]
    say(talk, "/count ask")
    assert texts(talk)[2] == "are 2 turns many?"
    assert say(talk, "/count ask").notes == ["said: are 4 turns many?"]
    assert ("/count [ask]", "Count the turns, or ask about them.") in say(talk, "/help").rows
    (error,) = say(talk, "/count fail").errors
    assert "command '/count' failed: KeyError" in str(error)
