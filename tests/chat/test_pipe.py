import io

import pytest

from gptkit.chat.pipe import Pipe
from gptkit.text.safe import safe
from tests.chat.talk import session


def piped(talk, data, shown=str):
    out, said = io.StringIO(), []
    code = Pipe(talk, out, said.append, shown).run(io.BytesIO(data))
    return code, out.getvalue(), said


def test_each_line_is_a_message_and_answers_are_all_there_is():
    code, out, said = piped(session(["one", "two"]), b"a\n\nb")
    assert (code, out, said) == (0, "one\ntwo\n", [])


def test_no_line_no_answer():
    assert piped(session(), b"") == (0, "", [])


def test_the_bytes_of_an_answer_are_exact_in_a_pipe_and_safe_on_a_terminal():
    hostile = "a\x1b]52;c;eA==\x07\r\x9b2J[bold] [/foo] :smile:\tz"
    assert piped(session([hostile]), b"x\n")[1] == hostile + "\n"
    assert piped(session([hostile]), b"x\n", safe)[1] == (
        "a␛]52;c;eA==␇␍\\x9b2J[bold] [/foo] :smile:\tz\n"
    )


def test_commands_work_and_exit_ends():
    code, out, said = piped(session(["hello"]), b"/set max_new_tokens 2\nhi\n/exit\nhi\n")
    assert (code, out) == (0, "he\n")
    assert said == ["note: max_new_tokens=2", "note: cut at 2 tokens"]
    assert "/reset" in piped(session(), b"/help\n")[1]


def test_a_line_that_fails_is_told_and_the_rest_is_answered():
    code, out, said = piped(session(["one"]), b"/rest\nhi\n")
    assert (code, out) == (2, "one\n")
    assert said[0] == "gptkit: error: unknown command '/rest'"
    assert said[1].startswith("  hint: did you mean '/reset'?")


def test_bytes_that_are_no_text_are_replaced_and_told():
    talk = session(["one"])
    code, out, said = piped(talk, b"a\xff\xfeb\r\n")
    assert (code, out) == (0, "one\n")
    assert said == ["note: 2 invalid bytes were replaced by U+FFFD"]
    assert talk.conversation.path()[0].text == "a\ufffd\ufffdb"


def test_an_emoji_that_is_cut_does_not_harm():
    talk = session(["😀"], stop={"max_new_tokens": 2})
    code, out, said = piped(talk, b"x\n")
    assert (code, out) == (0, "\ufffd\n")


@pytest.mark.parametrize("text", ["ä", "日本語", "😀", "e\u0301"])
def test_characters_come_whole(text):
    assert piped(session([text]), b"x\n")[1] == text + "\n"


def test_what_commands_show_is_plain_text():
    talk = session(["one", "two"])
    code, out, said = piped(
        talk, b"hi\n/retry\n/tree\n/prompt\n/edit\n/compare hf nanogpt\n/probs\n"
    )
    assert "1 you: hi\n├─ 2 model: one\n└─ 3 model [you are here]: one\n" in out
    assert "<u>hi<a>one<e><a>\n(" in out
    assert "--- hf\n" in out and "--- nanogpt\n" in out
    assert "token  p" in out
    assert code == 2 and said[-1] == "gptkit: error: that needs a terminal"
