from gptkit.chat.conversation import Conversation


def texts(conversation):
    return [turn.text for turn in conversation.path()]


def test_a_new_conversation_is_empty():
    assert Conversation().path() == ()


def test_path_leads_from_the_first_turn_to_the_cursor():
    talk = Conversation()
    talk.add("user", "a")
    talk.add("assistant", "b", finish_reason="eos", seed=7)
    assert texts(talk) == ["a", "b"]
    assert [turn.role for turn in talk.path()] == ["user", "assistant"]
    assert talk.cursor.seed == 7


def test_going_back_branches_and_keeps_what_was_said():
    talk = Conversation()
    first = talk.add("user", "a")
    talk.add("assistant", "b")
    talk.go_to(first)
    talk.add("assistant", "c")
    assert texts(talk) == ["a", "c"]
    assert [turn.text for turn in talk.turns] == ["a", "b", "c"]
    talk.go_to(None)
    talk.add("user", "d")
    assert texts(talk) == ["d"]


def test_equal_turns_are_not_the_same_turn():
    talk = Conversation()
    first = talk.add("user", "hi")
    talk.go_to(None)
    assert talk.add("user", "hi") != first


def test_an_answer_that_was_stopped_is_partial():
    talk = Conversation()
    assert talk.add("assistant", "b", finish_reason="cancelled").is_partial
    assert talk.add("assistant", "b", finish_reason="error").is_partial
    assert not talk.add("assistant", "b", finish_reason="length").is_partial
