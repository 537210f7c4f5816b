"""The token view against the model's own logits."""

import io
import math

import pytest
import torch
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_cwidth

from gptkit.chat import probs_view
from gptkit.chat.probs import LEVELS, Cell, Probs, shown
from gptkit.chat.probs_view import draw, percent
from gptkit.errors import Terminated
from tests.chat.talk import say, session, sort
from tests.fakes import FlatModel, chat_model


class Leaning(FlatModel):
    """Its logits depend on the last token."""

    def logits(self, tokens):
        ids = torch.arange(self.config.vocab_size)
        return torch.sin(ids * 0.7 + tokens[-1]) * 3


def talk_with_an_answer(**settings):
    model = chat_model([])
    object.__setattr__(model, "forward", Leaning(model.config))
    talk = session(model=model, stop={"max_new_tokens": 12}, **settings)
    assert say(talk, "hi").errors == []
    return talk


def last(talk):
    return Probs(talk, talk.conversation.cursor)


def test_cells_have_the_probabilities_of_the_model():
    talk = talk_with_an_answer()
    probs = last(talk)
    assert len(probs.cells) == 12
    request = talk.engine.requests[0]
    tokens = list(request.prompt_ids)
    for cell in probs.cells:
        p = talk.model.forward.logits(tokens).softmax(-1)
        assert cell.p == pytest.approx(float(p[cell.token_id]), rel=1e-5)
        best = p.topk(10)
        assert [o.token_id for o in cell.options] == best.indices.tolist()
        assert [o.p for o in cell.options] == pytest.approx(best.values.tolist(), rel=1e-5)
        tokens.append(cell.token_id)


def test_levels_split_at_their_bounds():
    talk = talk_with_an_answer()
    for cell in last(talk).cells:
        assert cell.level == len([b for b in LEVELS if cell.p < b])


def test_moving_about():
    probs = last(talk_with_an_answer())
    probs.move(-1)
    assert probs.at == 0
    probs.move(99)
    assert probs.at == 11
    probs.move_to_unlikely()
    unlikely = [i for i, cell in enumerate(probs.cells) if cell.p < 0.2]
    assert probs.at == unlikely[0]
    probs.point(99)
    assert probs.option is probs.cell.options[-1]
    probs.point(-99)
    assert probs.option is probs.cell.options[0]


@pytest.mark.parametrize(
    "items",
    [
        [{"temperature": 0.8}, {"top_k": 20}, {"top_p": 0.9}],
        [{"mirostat": 2.0}],
        [{"penalties": {"presence": 2.0, "scope": "output"}}, {"temperature": 0.8}],
        [{"min_new_tokens": 3}, {"top_k": 20}],
    ],
    ids=str,
)
def test_a_trace_is_that_of_the_answer_itself(items):
    """A stage that looks back saw the answer as a part of the prompt, and had forgotten."""
    talk = talk_with_an_answer(items=items)
    traced = talk_with_an_answer(items=items)
    say(traced, "/trace on")
    traced.go_to(None)
    say(traced, "hi")
    assert [c.token_id for c in last(traced).cells] == [c.token_id for c in last(talk).cells]
    n_turns = len(talk.conversation.turns)
    for at in range(12):
        one, other = last(talk), last(traced)
        one.move(at)
        other.move(at)
        assert one.trace() == other.trace()
        assert [stage.label for stage in one.trace()] == ["model", *(next(iter(i)) for i in items)]
    assert len(talk.conversation.turns) == n_turns


def test_an_answer_that_goes_on_with_another_token():
    talk = talk_with_an_answer()
    before = last(talk)
    option = before.cells[4].options[3]
    sort(talk.choose(talk.conversation.cursor, 4, option.token_id))
    probs = last(talk)
    assert [c.token_id for c in probs.cells[:5]] == [
        *(c.token_id for c in before.cells[:4]),
        option.token_id,
    ]
    assert probs.cells[4].p == pytest.approx(option.p)
    assert probs.cells[2] == before.cells[2]
    probs.move(6)
    assert probs.trace()[0].p_after == pytest.approx(probs.cells[6].p, rel=1e-4)


def test_what_a_stage_remembered_of_an_answer_that_goes_on_is_not_known():
    """Of its first half; what it did from there on is."""
    talk = talk_with_an_answer(items=[{"mirostat": 2.0}])
    option = last(talk).cells[4].options[3]
    sort(talk.choose(talk.conversation.cursor, 4, option.token_id))
    probs = last(talk)
    assert "remembered" in probs.trace()
    probs.move(6)
    assert [stage.label for stage in probs.trace()] == ["model", "mirostat"]


def test_tokens_are_shown_on_one_line():
    talk = session()
    tokenizer = talk.model.tokenizer
    assert shown(tokenizer, ord("a")) == "a"
    assert shown(tokenizer, ord("\n")) == "⏎"
    assert shown(tokenizer, 0xC3) == "\\xc3"
    assert shown(tokenizer, 0x1B) == "␛"
    assert shown(tokenizer, tokenizer.special["<e>"]) == "<e>"
    assert math.isclose(sum(len(shown(tokenizer, i)) > 0 for i in range(256)), 256)


# The screen -----------------------------------------------------------------------------------


def texts(lines):
    return ["".join(text for _, text in line) for line in lines]


@pytest.mark.parametrize("columns, lines", [(40, 12), (80, 24), (120, 40), (20, 5)])
def test_the_screen_fits_and_has_the_token_on_it(columns, lines):
    talk = talk_with_an_answer(items=[{"temperature": 0.8}, {"top_k": 20}])
    probs = last(talk)
    for _ in range(12):
        screen = draw(probs, columns, lines)
        assert len(screen) <= max(lines, 6)
        here = [text for line in screen for style, text in line if style == "class:here"]
        assert probs.cell.text in here
        if lines >= 24:
            assert any(text.startswith("top_k") or "top_k" in text for text in texts(screen))
            assert f"token {probs.at + 1} of 12" in "\n".join(texts(screen))
        probs.move(1)


@pytest.mark.parametrize("lines", [8, 12, 24])
@pytest.mark.parametrize("columns", [20, 41, 80])
def test_in_a_small_window_the_option_pointed_to_is_there_with_its_probability(columns, lines):
    probs = last(talk_with_an_answer())
    for i in range(len(probs.cell.options)):
        probs.pointed = i
        screen = draw(probs, columns, lines)
        assert max(map(get_cwidth, texts(screen)[:-2])) <= columns
        (row,) = [
            line
            for line, text in zip(screen, texts(screen), strict=True)
            if line[0][0] == "class:here" and "%" in text
        ]
        assert row[0][1].split()[0].lstrip("•") == str(i + 1) or row[0][1].split()[1] == str(i + 1)


@pytest.mark.parametrize(
    ("p", "said"), [(1.0, "100.0%"), (0.0012, "0.1%"), (2e-5, "0.0020%"), (1e-9, "<0.0001%")]
)
def test_small_probabilities_tell_each_other_apart(p, said):
    assert percent(p) == said


def test_a_token_wider_than_the_window_goes_over_several_lines():
    probs = last(talk_with_an_answer())
    probs.cells = [Cell(0, "x" * 25, 0.5, ()), Cell(1, "y", 0.5, ())]
    assert texts(draw(probs, 10, 24))[:3] == ["x" * 10, "x" * 10, "xxxxxy"]


def test_wide_characters_count_double_where_lines_break():
    probs = last(talk_with_an_answer())
    probs.cells = [Cell(i, "漢字", 0.5, ()) for i in range(9)]
    screen = draw(probs, 10, 24)
    widths = [get_cwidth(text) for text in texts(screen)[:5]]
    assert widths == [8, 8, 8, 8, 4]


def test_without_a_screen_it_is_a_table():
    talk = talk_with_an_answer()
    shown = last(talk).rows()
    assert shown[0] == ("token", "p", "else") and len(shown) == 13
    assert shown[1][1] == f"{last(talk).cells[0].p:.3f}"


def test_an_end_that_comes_in_the_first_drawing_leaves_the_screen(monkeypatch):
    """The cursor once stayed hidden, and the screen the other one."""

    def ended(*_):
        raise Terminated

    monkeypatch.setattr(probs_view, "draw", ended)
    talk, written = talk_with_an_answer(), io.StringIO()
    output = Vt100_Output(written, lambda: Size(24, 80), term="xterm")
    with (
        create_pipe_input() as keys,
        create_app_session(keys, output),
        pytest.raises(Terminated),
    ):
        probs_view.look(talk, talk.conversation.cursor)
    said = written.getvalue()
    assert said.index("\x1b[?1049h") < said.index("\x1b[?1049l")
    assert said.rindex("\x1b[?25h") > said.rfind("\x1b[?25l")
