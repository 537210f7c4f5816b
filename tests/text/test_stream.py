"""Whole characters from bytes, however they are cut; held and cut bytes are never shown."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gptkit.text.stream import TextStream

TEXTS = [
    "plain words",
    "naïve café, ελληνικά",
    "漢字かな交じり文、한국어",
    "\N{GRINNING FACE}\N{PERSONAL COMPUTER}\N{REGIONAL INDICATOR SYMBOL LETTER G}",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER} e\N{COMBINING ACUTE ACCENT}",
    "a \N{REPLACEMENT CHARACTER} that is meant",
]


def pieces(data, cuts):
    bounds = [0, *sorted(cuts), len(data)]
    return [data[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def test_20000_random_cases():
    """Random bytes and broken texts, random cuts and holds: the same as decoding the whole."""
    rng = random.Random(20)
    for _ in range(20_000):
        data = bytearray(rng.choice(TEXTS).encode() if rng.random() < 0.7 else rng.randbytes(12))
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        if data and rng.random() < 0.2:
            data[rng.randrange(len(data))] = rng.randrange(256)
        stream, shown, hold, seen = TextStream(), "", 0, 0
        for piece in pieces(bytes(data), rng.choices(range(len(data) + 1), k=rng.randrange(6))):
            seen += len(piece)
            hold = rng.randrange(hold + len(piece) + 1)  # never more than was held before and came
            shown += stream.push(piece, hold=hold)
            assert bytes(data[: seen - hold]).decode("utf-8", "replace").startswith(shown)
        cut = rng.randrange(hold + 1)
        shown += stream.finish(cut=cut)
        assert shown == bytes(data[: len(data) - cut]).decode("utf-8", "replace")


def test_200_texts_byte_by_byte():
    rng = random.Random(3)
    for _ in range(200):
        text = "".join(rng.choices("".join(TEXTS), k=60))
        stream = TextStream()
        out = [stream.push(bytes([byte])) for byte in text.encode()]
        assert all("\ufffd" not in piece or "\ufffd" in text for piece in out)
        assert "".join(out) + stream.finish() == text


@given(st.binary(max_size=40), st.integers(0, 40))
def test_finish_cuts_bytes_that_were_not_shown(data, cut):
    stream = TextStream()
    shown = stream.push(data, hold=cut) + stream.finish(cut=cut)
    assert shown == data[: max(len(data) - cut, 0)].decode("utf-8", "replace")


def test_a_stop_string_is_held_and_cut():
    stream = TextStream()
    assert stream.push(b"Hi.\nUs", hold=3) == "Hi."
    assert stream.push(b"er", hold=5) == ""
    assert stream.push(b":", hold=6) == ""
    assert stream.finish(cut=6) == ""


def test_what_was_held_for_nothing_comes():
    stream = TextStream()
    assert stream.push(b"a\n", hold=1) == "a"
    assert stream.push(b"b", hold=0) == "\nb"
    assert stream.finish() == ""


def test_an_emoji_that_max_new_tokens_cuts():
    stream = TextStream()
    assert stream.push(b"ok \xf0\x9f\x98") == "ok "
    assert stream.finish() == "\ufffd"


def test_the_cut_reaches_into_a_character_that_has_not_been_shown():
    stream = TextStream()
    assert stream.push(b"a\xe2\x82") == "a"
    assert stream.finish(cut=2) == ""
