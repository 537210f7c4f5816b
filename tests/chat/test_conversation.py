from gptkit.chat.conversation import Conversation, drawn


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


def talk_with_a_fork():
    talk = Conversation()
    talk.add("user", "a")
    first = talk.add("assistant", "b")
    talk.add("user", "c")
    talk.add("assistant", "d")
    talk.go_to(first)
    talk.add("user", "e")
    talk.add("assistant", "f")
    return talk


def test_turns_are_numbered_as_they_are_said():
    talk = talk_with_a_fork()
    assert [turn.number for turn in talk.turns] == [1, 2, 3, 4, 5, 6]
    assert talk.find(4).text == "d" and talk.find(7) is None
    assert [turn.text for turn in talk.children(talk.find(2))] == ["c", "e"]
    assert talk.tip(talk.find(3)).text == "d"


def test_going_back_over_exchanges():
    talk = talk_with_a_fork()
    assert talk.before(1).text == "b"
    assert talk.before(2) is None and talk.before(5) is None


def test_a_turn_that_never_was_leaves_its_number_free():
    talk = talk_with_a_fork()
    talk.take_back(talk.add("user", "oops"))
    assert talk.cursor.text == "f"
    assert talk.add("user", "g").number == 7


def test_the_tree_is_drawn_from_the_top():
    lines = [f"{lead}{turn.text}" for lead, turn in drawn(talk_with_a_fork())]
    assert lines == ["a", "b", "├─ c", "│  d", "└─ e", "   f"]


def test_what_ended_from_outside_may_go_on():
    talk = Conversation()
    for reason, may in [("eos", False), ("length", True), ("cancelled", True), ("partial", True)]:
        assert talk.add("assistant", "b", finish_reason=reason).may_go_on is may
