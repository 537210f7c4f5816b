"""What may reach a terminal."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptkit.text.safe import safe, safe_line

ESC, BEL, ST = "\x1b", "\x07", "\x1b\\"
SEQUENCES = [  # CSI, OSC with both ends, DCS, APC, PM, SOS, C1, reset, overwriting, charsets
    *(f"{ESC}[{rest}" for rest in ("2J", "H", "31m", "21t", "6n", "?1049h", "999;999H", "8m")),
    *(
        f"{ESC}]{rest}{end}"
        for rest in (
            "0;title",
            "2;title",
            "52;c;cm0gLXJmIH4=",
            "8;;file:///etc/passwd",
            "1337;File=:AAAA",
            "9;ping",
            "777;notify;a;b",
            "4;1;rgb:ff/00/00",
        )
        for end in (BEL, ST)
    ),
    *(f"{ESC}{kind}payload{ST}" for kind in "PX^_"),
    *("\x9b2J", "\x9d52;c;eA==\x9c", "\x90q\x9c", "\x9e\x9c", "\x9f\x9c", "\x84", "\x85"),
    *(f"{ESC}c", f"{ESC}(0", f"{ESC}#8", f"{ESC}7", "ok\rno", "\b\b\b", "\x7f", BEL * 50, "\0"),
]
BAD = {*range(0x00, 0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)}
BAD |= {*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)}


def test_the_table():
    assert safe("\x1b[2J\r\b\0\x1f") == "␛[2J␍␈␀␟"
    assert safe("\x7f") == "\N{SYMBOL FOR DELETE}"
    assert safe("\x9b31m\x80") == "\\x9b31m\\x80"
    assert safe("a\u202eb\u2069") == "a\\u202eb\\u2069"
    assert safe("\ud800") == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "text",
    [
        "tab\tand\nnewline",
        "[bold] [/foo] [/] [link=x] :smile: [1;31m",
        "e\N{COMBINING ACUTE ACCENT}",
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
        "漢字 العربية ελληνικά",
        "␛ is a picture already",
    ],
)
def test_what_stays_as_it_is(text):
    assert safe(text) == text


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_no_known_sequence_survives(sequence):
    assert not BAD & {ord(char) for char in safe(f"before {sequence} after")}


def test_every_code_point():
    for code in range(0x110000):
        shown = safe(chr(code))
        assert (shown != chr(code)) == (code in BAD), hex(code)
        assert not BAD & {ord(char) for char in shown}
        if shown == chr(code) and unicodedata.category(shown) == "Cc":
            assert shown in "\n\t"


def test_random_bytes_as_a_model_would_write_them():
    rng = random.Random(1)
    for _ in range(5000):
        text = rng.randbytes(rng.randrange(40)).decode("utf-8", "replace")
        assert not BAD & {ord(char) for char in safe(text)}


@given(st.text(alphabet=st.characters(), max_size=30), st.integers(0, 30))
def test_no_split_changes_anything(text, cut):
    assert safe(text[:cut]) + safe(text[cut:]) == safe(text)
    assert safe(safe(text)) == safe(text)


def test_a_line_stays_one_line():
    assert safe_line("a\nb\r\nc\x0bd\u2028e\x85f\x1b[2J") == "a b c d e f\u241b[2J"
    assert safe_line("") == ""
