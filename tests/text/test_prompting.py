"""Prompts: control tokens come from templates alone, and what does not fit is left out in order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptkit.config import parse_yaml
from gptkit.errors import ContextOverflow, RequestError
from gptkit.plugin_api import Segment
from gptkit.text.prompting import (
    conversation,
    encode,
    few_shot,
    fit,
    special_strings,
)
from gptkit.text.template import from_document
from tests.fakes import SPECIAL, ByteTokenizer
from tests.text.test_template import DIALOGUE, QA

TOKENIZER = ByteTokenizer()
END = TOKENIZER.special["<|end|>"]
CHAT = """
system: [{control: <|system|>}, $text]
user: [{control: <|user|>}, $text]
assistant: [{control: <|assistant|>}, $text, {control: <|end|>}]
"""


def template(text):
    return from_document(parse_yaml(text, "t.yaml"), "template t")


CHAT_TEMPLATE = template(CHAT)


class Merging(ByteTokenizer):
    """Joins a blank with the letter after it, as byte-level BPE does."""

    name = "fake_merging"

    def encode_ordinary(self, text):
        ids = []
        for byte in text.encode():
            if ids and ids[-1] == 32 and byte > 32:
                ids[-1] = 1000 + byte
            else:
                ids.append(byte)
        return ids


# Encoding -------------------------------------------------------------------------------------

texts = st.lists(st.one_of(st.text(max_size=10), st.sampled_from(SPECIAL)), max_size=8).map("".join)


@settings(max_examples=1000, deadline=None)
@given(texts)
def test_text_never_becomes_a_control_token(text):
    ids = encode([Segment(text)], TOKENIZER)
    assert not set(TOKENIZER.special.values()) & set(ids)
    assert TOKENIZER.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["user", "assistant"]), texts, texts)
def test_the_skeleton_of_a_chat_is_the_same_whatever_is_said(role, text, system):
    def skeleton(turn, instruction):
        turns = [(role, turn), ("user", turn)]
        prompt = conversation(CHAT_TEMPLATE, instruction, turns, TOKENIZER, 10**6)
        return [token for token in prompt.ids if token >= 256]

    assert skeleton(text, system) == skeleton("hello", "be kind")


def test_neighbouring_texts_are_encoded_as_one():
    pieces = [Segment("a "), Segment("b"), Segment("<|end|>", control=True), Segment("c")]
    assert encode(pieces, Merging()) == [97, 1098, END, 99]


def test_a_control_token_that_the_tokenizer_lacks():
    with pytest.raises(RequestError) as caught:
        encode([Segment("<|end|>", control=True)], ByteTokenizer(["<|endoftext|>"]))
    assert str(caught.value) == (
        "the template needs the control token '<|end|>'; the tokenizer has: <|endoftext|>"
    )
    with pytest.raises(RequestError, match="the tokenizer has: none"):
        encode([Segment("<|end|>", control=True)], ByteTokenizer([]))


def test_special_strings_are_counted():
    assert special_strings("x <|endoftext|> <|end|><|end|> <|other|>", TOKENIZER) == 3
    assert special_strings("<|end|>", ByteTokenizer([])) == 0


# Few-shot -------------------------------------------------------------------------------------

EXAMPLES = [{"question": f"{n}+{n}?", "answer": str(2 * n)} for n in range(5)]
FIELDS = {"question": "9+9?"}
HEAD, SHOT, ITEM = len("Answer.\n\n"), len("Q: 1+1?\nA: 2\n\n"), len("Q: 9+9?\nA:")


def test_a_few_shot_prompt_that_fits():
    prompt = few_shot(template(QA), EXAMPLES[:2], FIELDS, TOKENIZER, 1000)
    assert TOKENIZER.decode(prompt.ids) == (
        "Answer.\n\nQ: 0+0?\nA: 0\n\nQ: 1+1?\nA: 2\n\nQ: 9+9?\nA:"
    )
    assert (prompt.n_examples, prompt.n_dropped, prompt.notes) == (2, 0, ())


@pytest.mark.parametrize("kept", range(6))
@pytest.mark.parametrize("spare", [0, 1, SHOT - 1])
def test_the_last_examples_go_first(kept, spare):
    room = HEAD + kept * SHOT + ITEM + (0 if kept == 5 else spare)
    prompt = few_shot(template(QA), EXAMPLES, FIELDS, TOKENIZER, room)
    alone = few_shot(template(QA), EXAMPLES[:kept], FIELDS, TOKENIZER, 10**6)
    assert prompt.ids == alone.ids
    assert (prompt.n_examples, prompt.n_dropped) == (kept, 5 - kept)
    assert prompt.notes == ((f"{5 - kept} of 5 examples left out to fit",) if kept < 5 else ())


def test_the_item_alone_does_not_fit():
    with pytest.raises(ContextOverflow) as caught:
        few_shot(template(QA), EXAMPLES, FIELDS, TOKENIZER, HEAD + ITEM - 3)
    assert str(caught.value) == (
        "prompt has 19 tokens even without examples, 3 more than the 16 that fit before the answer"
    )
    with pytest.raises(ContextOverflow, match=r"^prompt has 19 tokens, 18 more than the 1 that"):
        few_shot(template(QA), [], FIELDS, TOKENIZER, 1)


@pytest.mark.parametrize(
    ("how", "text", "side"),
    [
        ("truncate_left", "\n\nQ: 9+9?\nA:", "start"),
        ("truncate_right", "Answer.\n\nQ: ", "end"),
    ],
)
def test_the_item_alone_is_truncated_where_asked_for(how, text, side):
    prompt = few_shot(template(QA), EXAMPLES, FIELDS, TOKENIZER, 12, how)
    assert TOKENIZER.decode(prompt.ids) == text
    assert prompt.n_examples == 0 and prompt.n_dropped == 5
    assert prompt.notes == (
        "5 of 5 examples left out to fit",
        f"7 tokens cut from the {side} of the prompt",
    )
    prompt = few_shot(template(QA), [], FIELDS, TOKENIZER, 12, how)
    assert prompt.n_dropped == 7


# Conversations --------------------------------------------------------------------------------


def talk(n, length=6):
    """Return n exchanges and a last question."""
    turns = [("assistant" if i % 2 else "user", f"{i:0{length}}") for i in range(2 * n)]
    return [*turns, ("user", "?" * length)]


def test_a_conversation_that_fits():
    prompt = conversation(template(CHAT), "Be kind.", talk(1), TOKENIZER, 100)
    special = TOKENIZER.special
    assert prompt.ids == [
        special["<|system|>"],
        *b"Be kind.",
        special["<|user|>"],
        *b"000000",
        special["<|assistant|>"],
        *b"000001",
        END,
        special["<|user|>"],
        *b"??????",
        special["<|assistant|>"],
    ]
    assert prompt.n_dropped == 0


@pytest.mark.parametrize("text", [CHAT, DIALOGUE])
def test_each_prompt_begins_with_all_of_the_one_before(text):
    """What was computed for a turn serves the next one, the model's own answer included."""
    said = talk(4)
    earlier = []
    for n in range(0, 8, 2):
        prompt = conversation(template(text), "Be kind.", said[: n + 1], Merging(), 10**6).ids
        assert prompt[: len(earlier)] == earlier
        earlier = prompt


EXCHANGE = 7 + 7 + 1  # two turns of a control token and six bytes, and the end
LAST = 7 + 1


@pytest.mark.parametrize("room", range(LAST, 8 * EXCHANGE + LAST + 20, 3))
def test_the_oldest_exchanges_go_until_a_quarter_is_free(room):
    n = 8
    prompt = conversation(template(CHAT), None, talk(n), TOKENIZER, room)
    sizes = {dropped: (n - dropped) * EXCHANGE + LAST for dropped in range(n + 1)}
    if sizes[0] <= room:
        expected = 0
    else:
        free = [dropped for dropped, size in sizes.items() if size <= room - room // 4]
        expected = min(free, default=n)
    assert prompt.n_dropped == 2 * expected
    assert prompt.ids == conversation(
        template(CHAT), None, talk(n)[2 * expected :], TOKENIZER, 10**6
    ).ids  # fmt: skip


def test_turns_after_a_drop_drop_nothing_until_the_room_is_full_again():
    first, drops = 0, []
    for n in range(16):
        prompt = conversation(template(CHAT), None, talk(n), TOKENIZER, 100, first=first)
        assert len(prompt.ids) <= 100
        first += prompt.n_dropped
        drops.append(prompt.n_dropped)
    assert drops == [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 6, 0, 0, 6, 0, 0]


def test_turns_before_first_are_out_of_force():
    kept = conversation(template(CHAT), None, talk(3), TOKENIZER, 100, first=4)
    assert kept == conversation(template(CHAT), None, talk(3)[4:], TOKENIZER, 100)


def test_the_instruction_stays_whatever_is_dropped():
    prompt = conversation(template(CHAT), "Be kind.", talk(9), TOKENIZER, 50)
    assert prompt.n_dropped
    assert TOKENIZER.decode(prompt.ids).startswith("Be kind.")


def test_a_conversation_that_can_not_fit():
    with pytest.raises(ContextOverflow) as caught:
        conversation(template(CHAT), None, talk(3), TOKENIZER, LAST - 1)
    assert str(caught.value) == (
        "message alone makes 8 tokens, 1 more than the 7 that fit before the answer"
    )
    with pytest.raises(ContextOverflow, match=r"^conversation has 53 tokens, 3 more than the 50 "):
        conversation(template(CHAT), None, talk(3), TOKENIZER, 50, on_overflow="error")


def test_the_first_exchange_can_be_kept():
    """As if the turns after it were a conversation of their own, with less room."""
    said, first, kept = talk(9), 0, EXCHANGE
    for n in range(2, 10):
        prompt = conversation(
            template(CHAT),
            None,
            talk(n),
            TOKENIZER,
            100,
            first=first,
            on_overflow="keep_system_and_examples",
        )
        first += prompt.n_dropped
        assert len(prompt.ids) <= 100
        whole = conversation(
            template(CHAT), None, [*said[:2], *talk(n)[2 + first :]], TOKENIZER, 999
        )
        assert prompt.ids == whole.ids
    assert first > 0 and len(prompt.ids) > kept


def test_the_oldest_tokens_can_slide_out():
    cuts = []
    for n in range(16):
        whole = conversation(template(CHAT), "Be kind.", talk(n), TOKENIZER, 10**6).ids
        prompt = conversation(
            template(CHAT), "Be kind.", talk(n), TOKENIZER, 100, on_overflow="slide"
        )
        n_head = len(whole) - len(conversation(template(CHAT), None, talk(n), TOKENIZER, 10**6).ids)
        assert prompt.ids == whole[:n_head] + whole[n_head + prompt.n_cut :]
        assert len(prompt.ids) <= 100 and prompt.n_dropped == 0
        cuts.append(prompt.n_cut)
    assert cuts[0] == 0 and cuts[-1] > 25 and all(cut % 25 == 0 for cut in cuts)
    assert len(set(cuts)) < len(cuts) - 4  # not every turn cuts anew


# Plain prompts --------------------------------------------------------------------------------


def test_fit():
    ids = list(range(10))
    assert fit(ids, 10, "error", context=11, new=5) == ids
    assert fit(ids, 4, "truncate_left", context=5, new=1) == [6, 7, 8, 9]
    assert fit(ids, 4, "truncate_right", context=5, new=1) == [0, 1, 2, 3]
    assert fit(ids, 0, "truncate_left", context=5, new=5) == []
    with pytest.raises(ContextOverflow) as caught:
        fit([0] * 1501, 1023, "error", context=1024, new=64)
    assert str(caught.value) == (
        "prompt has 1,501 tokens, 478 more than fit; "
        "the model's context is 1,024 and 64 new ones were asked for"
    )
    assert caught.value.hint == "--on-overflow truncate_left"
