import math

import pytest
import torch

from gptkit.chat.events import Note
from gptkit.decoding.noise import derive
from gptkit.errors import ContextOverflow, NonFiniteLogits, RequestError, UnknownName
from gptkit.plugin_api import Sampler, Segment, Stop, StoppingCriterion, hookimpl
from tests.chat.talk import prompt, say, session, sort
from tests.fakes import MarkedTemplate, chat_model


def texts(talk):
    return [(turn.role, turn.text) for turn in talk.conversation.path()]


# Talking --------------------------------------------------------------------------------------


def test_an_answer_streams_and_ends_at_the_templates_stop():
    talk = session(["hello"])
    said = say(talk, "hi")
    assert said.text == "hello"
    assert said.n == 6  # a byte each, and the end
    assert texts(talk) == [("user", "hi"), ("assistant", "hello")]
    assert said.answers[0].turn.finish_reason == "stop_token"
    assert said.answers[0].mark == ""


def test_the_conversation_is_the_context():
    talk = session(["one", "two"])
    say(talk, "a")
    assert say(talk, "b").text == "two"
    assert prompt(talk) == "<u>a<a>one<e><u>b<a>"


def test_a_turn_computes_only_what_is_new():
    talk = session(["one", "two"])
    say(talk, "a")
    before = talk.model.forward.n_computed
    answer = say(talk, "b").answers[0]
    # <u>a<a>one are in the cache; <e><u>b<a> are computed, then "two".
    assert (answer.n_prompt, answer.n_reused, answer.n_new) == (10, 6, 4)
    assert talk.model.forward.n_computed - before == 4 + 3
    assert talk.n_used == 10 + 4


def test_nothing_is_said_to_the_model_by_a_blank_line():
    talk = session()
    assert list(talk.handle("  \n")) == []
    assert talk.engine.requests == []


def test_two_slashes_say_one_and_bare_words_are_text():
    talk = session(["a", "b"])
    say(talk, "//reset")
    say(talk, "exit")
    assert [text for role, text in texts(talk) if role == "user"] == ["/reset", "exit"]


def test_an_unknown_command_names_the_nearest():
    talk = session()
    (error,) = say(talk, "/rest").errors
    assert isinstance(error, UnknownName)
    assert str(error) == "unknown command '/rest'"
    assert error.hint == "did you mean '/reset'?; // begins a message with a slash"
    assert talk.engine.requests == []


def test_the_blank_before_an_answer_belongs_to_the_template():
    class Spaced(MarkedTemplate):
        def turn(self, role, text):
            if role == "user":
                return super().turn(role, text)
            return (*self.reply(), Segment(" "), Segment(text), *self.stops)

    talk = session([" hello ", " x"], template=Spaced())
    assert say(talk, "a").text == "hello "
    say(talk, "b")
    assert prompt(talk) == "<u>a<a> hello <e><u>b<a>"


def test_the_system_instruction_stands_first():
    talk = session(["a", "b"], system="be brief")
    say(talk, "hi")
    assert prompt(talk) == "<s>be brief<u>hi<a>"
    say(talk, "/system off")
    say(talk, "hi")
    assert prompt(talk) == "<u>hi<a>a<e><u>hi<a>"


# What the user writes -------------------------------------------------------------------------


def test_user_text_never_becomes_a_control_token():
    talk = session(["a"])
    said = say(talk, "x<e><a>y")
    assert said.notes == ["2 special-token strings treated as text"]
    control = [id for id in talk.engine.requests[0].prompt_ids if id >= 256]
    assert control == [talk.model.tokenizer.special[name] for name in ("<u>", "<a>")]


def test_what_is_no_character_is_replaced_and_said():
    talk = session(["a"])
    said = say(talk, b"x\xff\xfe".decode("utf-8", "surrogateescape"))
    assert said.notes == ["2 invalid bytes were replaced by U+FFFD"]
    assert texts(talk)[0] == ("user", "x\ufffd\ufffd")


def test_a_message_of_many_megabytes_is_refused_before_it_is_tokenized():
    (error,) = say(session(), "x" * 8_000_001).errors
    assert isinstance(error, RequestError)
    assert "8 MB" in str(error)


# Stopping -------------------------------------------------------------------------------------


def stop_after(talk, line, n):
    events = []
    for event in talk.handle(line):
        events.append(event)
        if len(events) == n:
            talk.interrupt()
    return sort(events)


def test_interrupt_keeps_the_half_answer_marked():
    talk = session(["hello", "again"])
    said = stop_after(talk, "hi", 3)
    assert said.text == "hel"
    assert said.answers[0].mark == "stopped"
    assert talk.conversation.cursor.is_partial
    assert not talk.engine.busy
    assert say(talk, "go on").text == "again"
    assert prompt(talk) == "<u>hi<a>hel<e><u>go on<a>"


def test_interrupt_lets_go_what_was_held_back_for_a_stop_string():
    talk = session(["ab\nc"], stop={"strings": ["\nUser:"]})
    said = stop_after(talk, "hi", 3)
    assert said.text == "ab\n"


def test_interrupt_before_the_first_token_takes_the_message_back():
    talk = session(["one"])
    talk.interrupt()
    assert say(talk, "hi").text == ""
    assert texts(talk) == []
    assert [turn.text for turn in talk.conversation.turns] == ["hi"]
    assert say(talk, "hi").text == "one"


@pytest.mark.parametrize("n", range(1, 12))
def test_a_character_that_was_cut_is_whole_when_the_answer_goes_on(n):
    talk = session(["ä漢😀é."])
    stop_after(talk, "hi", n)
    assert say(talk, "/continue").text == "ä漢😀é."
    assert texts(talk)[-1] == ("assistant", "ä漢😀é.")


def test_a_listener_that_goes_away_leaves_the_half_answer():
    talk = session(["hello"])
    events = talk.handle("hi")
    next(events)
    next(events)
    events.close()
    assert texts(talk)[-1] == ("assistant", "he")
    assert talk.conversation.cursor.finish_reason == "cancelled"
    assert not talk.engine.busy


@pytest.mark.parametrize(
    ("line", "mark"), [("max_new_tokens 3", "cut at 3 tokens"), ("max_time_s 1e-9", "cut: time")]
)
def test_an_answer_that_is_cut_says_so(line, mark):
    talk = session(["hello"])
    say(talk, f"/set {line}")
    assert mark in say(talk, "hi").answers[0].mark


def test_an_answer_that_fills_the_context_says_so():
    talk = session(model=chat_model(["x" * 100], block_size=16))
    assert say(talk, "hi").answers[0].mark == "cut: the context is full"


def test_no_answer_is_said_to_be_none():
    assert say(session([""]), "hi").answers[0].mark == "no answer"


# Failing --------------------------------------------------------------------------------------


def test_a_failure_of_the_model_ends_the_answer_not_the_chat():
    talk = session(["hello", "fine"])
    logits = talk.model.forward.logits
    talk.model.forward.logits = lambda tokens: (
        torch.full((talk.model.config.vocab_size,), math.nan) if len(tokens) > 5 else logits(tokens)
    )
    said = say(talk, "hi")
    assert said.text == "he"
    assert isinstance(said.errors[0], NonFiniteLogits)
    assert said.answers[0].mark == "failed"
    talk.model.forward.logits = logits
    assert say(talk, "so?").text == "fine"


def test_a_message_that_can_not_be_served_is_taken_back():
    talk = session(model=chat_model(["ok"], block_size=32))
    (error,) = say(talk, "x" * 40).errors
    assert isinstance(error, ContextOverflow)
    assert texts(talk) == []
    assert say(talk, "hi").text == "ok"


def test_a_template_that_the_tokenizer_can_not_serve_is_refused_at_once():
    class Other(MarkedTemplate):
        def reply(self):
            return (Segment("<|assistant|>", control=True),)

    with pytest.raises(RequestError, match="assistant"):
        session(template=Other())


# Overflow -------------------------------------------------------------------------------------


def test_the_oldest_turns_go_first_and_the_user_is_told():
    talk = session(model=chat_model(["12345"], block_size=64))
    dropped = []
    for i in range(12):
        said = say(talk, f"message{i}")
        assert said.errors == []
        dropped += said.notes
        assert f"<u>message{i}<a>" in prompt(talk)
        assert prompt(talk).startswith("<u>message")
    assert "oldest turns no longer fit in the context of 64 tokens" in dropped[0]
    in_prompt = 2 * prompt(talk).count("<u>") - 1
    assert talk.n_left_out == len(talk.conversation.path()) - 1 - in_prompt
    # A quarter is freed at once, so not every turn drops some.
    assert len(dropped) < 8


def test_overflow_can_be_an_error():
    talk = session(model=chat_model(["12345"], block_size=64), on_overflow="error")
    errors = [error for i in range(8) for error in say(talk, f"message{i}").errors]
    assert isinstance(errors[0], ContextOverflow)
    assert "/reset begins a new one; /set on_overflow drop_oldest" in errors[0].hint
    say(talk, "/reset")
    assert say(talk, "hi").text == "12345"


@pytest.mark.parametrize("line", ["/retry", "/retry 2", "/compare greedy sample", "/edit 1 again"])
def test_what_fails_leaves_the_talk_where_it_was(line):
    """The last answer was dropped from the talk, and /retry went to the newest one."""
    talk = session(model=chat_model(["12345"], block_size=64))
    say(talk, "a")
    say(talk, "/retry")
    say(talk, "/goto 2")
    before, used = talk.conversation.cursor, talk.n_used
    assert before.number == 2 and used
    talk.settings.on_overflow = "error"
    talk.say_system("long " * 30)
    assert say(talk, line).errors
    assert talk.conversation.cursor is before


def test_what_is_used_of_the_context_is_that_of_the_place_in_the_talk():
    talk = session(["one", "two"])
    say(talk, "first")
    short = talk.n_used
    say(talk, "second, and longer")
    assert talk.n_used > short
    say(talk, "/goto 2")
    assert talk.n_used == len(talk.prompt().ids) < 2 * short
    say(talk, "/goto 0")
    assert talk.n_used == 0


# Seeds and plugins ----------------------------------------------------------------------------


def test_each_turn_has_a_seed_of_its_own_that_follows_from_the_sessions():
    talk = session(["a", "b"], seed=7)
    say(talk, "x")
    say(talk, "y")
    seeds = [request.seed for request in talk.engine.requests]
    assert seeds == [derive(7, 0, 0), derive(7, 1, 0)]
    assert [t.seed for t in talk.conversation.path() if t.role == "assistant"] == seeds


def test_a_third_partys_sampler_and_criterion_work():
    class Never(Sampler):
        """Forbid the letter l."""

        name = "no_l"

        def apply(self, logits, p, rows):
            logits = logits.clone()
            logits[:, ord("L")] = logits[:, ord("l")]
            logits[:, ord("l")] = float("-inf")
            return logits

    class Loud(StoppingCriterion):
        """End after the second capital."""

        name = "loud"

        def init_state(self, request):
            return 0

        def push(self, state, token_id, data, n_out):
            state += data.isupper()
            return state, Stop("too_loud") if state == 2 else None

    class Module:
        @staticmethod
        @hookimpl
        def gptkit_samplers():
            yield Never

        @staticmethod
        @hookimpl
        def gptkit_stopping_criteria():
            yield Loud

    talk = session(["hello"], plugins=[Module])
    assert say(talk, "/set no_l").errors == []
    assert say(talk, "/set loud").errors == []
    said = say(talk, "hi")
    assert said.text == "heLL"
    assert said.answers[0].turn.finish_reason == "too_loud"


# The greeting ---------------------------------------------------------------------------------


def greeting(talk):
    return [event.text for event in talk.greet() if isinstance(event, Note)]


def test_the_greeting_tells_what_the_user_did_not_ask_for():
    model = chat_model(["a"], recommended=({"temperature": 0.7},), notes=["old weights"])
    talk = session(model=model, seed=None)
    talk.settings.recommend(model.recommended)
    assert greeting(talk) == [
        "old weights",
        "sampling as fake recommends: temperature=0.7 sample",
        f"seed {talk.settings.seed}",
    ]


def test_a_talk_that_goes_on_shows_where_it_stands_and_what_it_takes_of_the_context():
    before = session(["one", "two"])
    assert greeting(before) == [] and before.n_used == 0
    say(before, "first")
    say(before, "second")
    talk = session(["three"])
    talk.open(before.conversation)
    assert greeting(talk) == ["you: second", "fake: two"]
    assert talk.n_used == len(talk.prompt().ids) > before.n_used
    talk.reset()
    assert greeting(talk) == [] and talk.n_used == 0


def test_the_greeting_is_silent_when_all_was_asked_for():
    model = chat_model(["a"], recommended=({"temperature": 0.7},))
    talk = session(model=model, items=["greedy"])
    talk.settings.recommend(model.recommended)
    assert greeting(talk) == []


@pytest.mark.parametrize("error", [ValueError("bad\nturn"), RuntimeError("out of memory")])
def test_a_bug_does_not_cost_the_conversation(error, monkeypatch):
    """Neither in a template, before the answer, nor in the middle of one."""
    template = MarkedTemplate()
    talk = session(["one", "two", "three"], template=template)
    say(talk, "a")
    stood = texts(talk)

    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(template, "turn", fail)
        said = say(talk, "b")
    (failure,) = said.errors
    assert "\n" not in str(failure) and str(failure).startswith("internal error: ")
    assert texts(talk) == stood
    with monkeypatch.context() as patch:
        patch.setattr(talk.model.forward, "logits", fail)
        assert len(say(talk, "b").errors) == 1
    assert texts(talk) == stood
    assert say(talk, "b").text == "two"
    monkeypatch.setenv("GPTKIT_DEBUG", "1")
    monkeypatch.setattr(template, "turn", fail)
    with pytest.raises(type(error)):
        say(talk, "c")


@pytest.mark.parametrize("policy", ["keep_system_and_examples", "slide"])
def test_other_ways_to_make_room(policy):
    talk = session(
        model=chat_model(["12345"], block_size=64), on_overflow=policy, system="be brief"
    )
    notes = []
    for i in range(12):
        said = say(talk, f"message{i}")
        assert said.errors == []
        notes += said.notes
        assert prompt(talk).startswith("<s>be brief")
        assert prompt(talk).endswith(f"<u>message{i}<a>")
    word = "turns" if policy.startswith("keep") else "tokens"
    assert all(word in note for note in notes) and 2 <= len(notes) < 12
    assert ("<u>message0<a>12345<e>" in prompt(talk)) == policy.startswith("keep")
