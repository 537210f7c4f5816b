"""No byte steers the terminal of a chat that gptkit did not write, whatever road it tries.

What a model, a user, a file name or an exception says goes in; all the bytes that the
pseudo-terminal received are compared with a list of what gptkit itself sends.
"""

import random
import re

import pytest

from gptkit.text.safe import safe
from tests.text.test_safe import SEQUENCES

# Modes of the keyboard, the cursor, paste and the second screen; moves; erasing; colours; where the
# cursor is; where a word began.
OURS = re.compile(
    rb"\x1b(?:\[\?(?:1|7|12|25|1049|2004)[hl]|\[\d*[ABCDJK]|\[(?:\d+;\d+)?H|\[[0-9;]*m|\[6n|7|8)"
)
PROMPT = re.compile(rb"\x1b\[\?2004h.*?\x1b\[\?2004l", re.DOTALL)
"""While prompt_toolkit has the terminal, it goes a column back by a backspace."""
PASTE_END = "\x1b[201~"
BATCH = 150
"""Bytes of one answer: each is a token of the model."""


BIDI = "\u202eevil\u2066 txet\u2069"
KNOWN = [one.encode() for one in (*SEQUENCES, BIDI)]


def noise(n, seed=11):
    """Return random byte strings with what sequences are made of."""
    chosen = random.Random(seed)
    parts = [b"\x1b", b"[", b"]", b";", b"\x9b", b"\xc2\x9b", b"\x07", b"m", b"31", b"\r", b"\x08"]
    return [
        b"".join(
            chosen.choice(parts) if chosen.random() < 0.5 else chosen.randbytes(1)
            for _ in range(chosen.randint(1, 16))
        )
        for _ in range(n)
    ]


def batches(strings, size=BATCH):
    """Join byte strings to texts of about a size."""
    out = [b""]
    for one in strings:
        if len(out[-1]) + len(one) > size:
            out.append(b"")
        out[-1] += one + b" "
    return out


def check(raw):
    """Check that all control bytes are those of our own sequences, and that all is UTF-8."""
    raw = b"\x1b[?2004h" + raw + b"\x1b[?2004l"  # it begins and ends at a prompt
    raw = PROMPT.sub(lambda found: found[0].replace(b"\b", b""), raw)
    text = OURS.sub(b"", raw).decode()
    assert not [c for c in text if ord(c) < 0x20 and c not in "\t\r\n"]
    assert not [c for c in text if 0x7F <= ord(c) < 0xA0]
    assert not [c for c in text if 0x202A <= ord(c) < 0x202F or 0x2066 <= ord(c) < 0x206A]


def as_line(data):
    """Return bytes as what can be pasted into a line that is one argument, and ends nothing."""
    text = data.decode("utf-8", "replace").replace("\0", "").replace("'", "")
    return " ".join(text.replace(PASTE_END, "").split()) or "x"


def paste(talk, text):
    talk.ask(f"\x1b[200~{text}{PASTE_END}")


def shown(answer):
    """Return an answer as a terminal gets it that is sent no moves."""
    return safe(answer.decode("utf-8", "replace")).replace("\n", "\r\n").encode()


def answers(talk, strings, choose=None):
    """Have the model say them, batch by batch."""
    for batch in batches(strings):
        talk.anew(batch)
        if choose is not None:
            talk.resize(choose.randint(5, 40), choose.randint(20, 120))
        talk.ask("go", "go")
        yield batch, talk.raw


@pytest.fixture(scope="module")
def talk(open_talk):
    return open_talk()


@pytest.fixture(scope="module")
def plain(open_talk):
    return open_talk(NO_COLOR="1")


def check_answers(talk, plain, strings, choose=None):
    for batch, raw in answers(talk, strings, choose):
        check(raw)
        assert raw.decode().count("␛") >= batch.count(b"\x1b")
    talk.resize(24, 100)
    talk.ask("/markdown on")
    talk.ask("/compare scripted=0 scripted=0.001")
    talk.ask("/markdown off")
    talk.type("/probs\r")
    talk.wait("token 1 of")
    for _ in range(9):
        talk.type("\x1b[6~")  # Page Down
        talk._read()
    talk.type("q")
    talk.ask("/tree")
    check(talk.raw)
    for batch, raw in answers(plain, strings):
        check(raw)
        assert shown(batch.rstrip()) in raw.replace(b" [stopped]", b"")


COMMANDS = ("/file", "/model", "/set", "/goto", "/template", "/help", "/compare x", "/stop")
VIEWS = ("/tree", "/prompt", "/show", "/branch")


def check_lines(talk, strings, *, each=8, choose=None):
    """Give the same to the prompt, to commands that say what was wrong, and to an exception."""
    for i, batch in enumerate(batches(strings, 90)):
        line = as_line(batch)
        talk.anew(batch)
        if choose is not None:
            talk.resize(choose.randint(5, 40), choose.randint(20, 120))
        paste(talk, line)
        talk.ask("\x1b[A\x05 more")  # from the input history
        for n in range(i * each, (i + 1) * each):
            paste(talk, f"{COMMANDS[n % len(COMMANDS)]} '{line}'")
        talk.ask("/stop off")
        talk.ask("/set leaves 99")
        talk.ask("go")
        talk.ask("/set leaves off")
        for n in range(i * each, i * each + max(1, each // 2)):
            talk.ask(VIEWS[n % len(VIEWS)])
        check(talk.raw)
        assert talk.raw.decode().count("␛") >= 3 * line.count("\x1b")


def test_what_the_model_says(talk, plain):
    check_answers(talk, plain, KNOWN + noise(40))


@pytest.mark.slow
def test_what_is_typed_named_or_raised(talk):
    check_lines(talk, KNOWN + noise(60), each=3)


@pytest.mark.slow
def test_five_thousand_random_ones_while_the_window_changes(talk, plain):
    choose = random.Random(5)
    strings = KNOWN + noise(5000, seed=7)
    check_lines(talk, strings, each=1, choose=choose)
    check_answers(talk, plain, strings, choose)
