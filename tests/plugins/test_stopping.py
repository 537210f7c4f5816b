"""Stop strings against brute force, cut into tokens at random; nothing is held back in vain."""

import pickle
import random

import pytest

from gptkit.errors import ConfigError
from gptkit.plugin_api import RequestView
from gptkit_plugins.stopping.strings import Automaton, Strings
from gptkit_plugins.stopping.tokens import Tokens


def start(criterion, **values):
    """Return a criterion and its first state."""
    params = {key: values.get(key, p.default) for key, p in criterion.params.items()}
    one = criterion()
    return one, one.init_state(RequestView((), params, None, 0))


def feed(strings, pieces, include=False):
    """Return what may be shown after each piece, and whether a stop was met."""
    criterion, state = start(Strings, strings=strings, include=include)
    seen = b""
    for n, piece in enumerate(pieces, start=1):
        seen += piece
        state, stop = criterion.push(state, 0, piece, n)
        if stop and stop.reason:
            return seen[: len(seen) - stop.cut_bytes], True
        hold = stop.hold_bytes if stop else 0
        ends = [s.encode()[:d] for s in strings for d in range(1, len(s.encode()))]
        assert hold == max((len(e) for e in ends if seen.endswith(e)), default=0)
    return seen, False


def brute_force(text, strings):
    """Return the text before the stop with the earliest end, the longest of those."""
    found = [(text.find(s) + len(s), text.find(s)) for s in strings if s in text]
    return (text[: min(found)[1]], True) if found else (text, False)


def test_equals_brute_force_however_the_bytes_are_cut():
    rng = random.Random(1)
    for _ in range(20_000):
        letters = rng.choice(["ab", "abc"])
        strings = [
            "".join(rng.choice(letters) for _ in range(rng.randint(1, 5)))
            for _ in range(rng.randint(1, 4))
        ]
        text = "".join(rng.choice(letters + "x") for _ in range(rng.randint(0, 25))).encode()
        cuts = sorted(rng.randint(0, len(text)) for _ in range(6))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert feed(strings, pieces) == brute_force(text, [s.encode() for s in strings])


def test_a_stop_that_overlaps_its_own_beginning_is_found():
    assert feed(["aab"], [b"aa", b"ab!"]) == (b"a", True)
    assert feed(["1,1,2"], [b"1,1,1,2"]) == (b"1,", True)


def test_a_character_split_over_tokens_is_found():
    wanted = "。".encode()
    assert feed(["。"], ["好".encode(), wanted[:2], wanted[2:]]) == ("好".encode(), True)


def test_include_keeps_the_stop_and_cuts_what_follows():
    criterion, state = start(Strings, strings=["END"], include=True)
    state, stop = criterion.push(state, 0, b"the EN", 1)
    assert stop is None
    _, stop = criterion.push(state, 0, b"D and more", 2)
    assert (stop.reason, stop.cut_bytes) == ("stop_string", len(" and more"))


def test_state_is_a_value_that_pickles():
    criterion, state = start(Strings, strings=["stop"])
    after, _ = criterion.push(state, 0, b"sto", 1)
    again, _ = criterion.push(pickle.loads(pickle.dumps(state)), 0, b"sto", 1)  # noqa: S301
    assert after == again
    assert state[1] == 0


def test_depth_is_the_longest_beginning_of_a_stop():
    automaton = Automaton.build((b"abcd", b"bcx"))
    node = 0
    for byte, depth in zip(b"abcxbc", (1, 2, 3, 3, 1, 2), strict=True):
        node = automaton.after(node, byte)
        assert automaton.depth[node] == depth


def test_tokens_stop_and_are_cut():
    criterion, state = start(Tokens, ids=(7, 9))
    assert criterion.push(state, 8, b"x", 1)[1] is None
    stop = criterion.push(state, 9, b"xy", 2)[1]
    assert (stop.reason, stop.cut_bytes) == ("stop_token", 2)


def test_an_empty_stop_is_refused():
    with pytest.raises(ConfigError, match="strings must not be empty"):
        Strings.params["strings"].check("strings", [""])
