"""Criteria against brute force, cut into tokens at random; nothing is held back in vain."""

import itertools
import math
import pickle
import random
import re

import pytest
import regex

from gptkit.decoding.request import Request, resolve_stops
from gptkit.decoding.stopping import Stopper
from gptkit.errors import ConfigError, RequestError
from gptkit.plugin_api import RequestView, Stop
from gptkit.plugin_host import registry
from gptkit.text.stream import TextStream
from gptkit_plugins.stopping.entropy import Entropy
from gptkit_plugins.stopping.regex import Regex
from gptkit_plugins.stopping.repeat import Repeat
from gptkit_plugins.stopping.sentences import Sentences
from gptkit_plugins.stopping.strings import Automaton, Strings
from gptkit_plugins.stopping.tokens import Tokens


def start(criterion, **values):
    """Return a criterion and its first state."""
    params = {key: values.get(key, p.default) for key, p in criterion.params.items()}
    one = criterion()
    return one, one.init_state(RequestView((), params, None, 0))


def cut(data, rng, n=6):
    """Return the bytes in n pieces and one, cut anywhere; some may be empty."""
    cuts = sorted(rng.randint(0, len(data)) for _ in range(n))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def stream(criterion, state, pieces):
    """Return the texts that a user is shown, as the engine does it, and the reason at the end."""
    shown, text = [], TextStream()
    for n, piece in enumerate(pieces, start=1):
        state, stop = criterion.push(state, 0, piece, n)
        hold = max(stop.hold_bytes, stop.cut_bytes) if stop else 0
        shown.append(text.push(piece, hold=hold))
        if stop and stop.reason:
            return [*shown, text.finish(cut=stop.cut_bytes)], stop.reason
    return [*shown, text.finish()], None


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
        assert feed(strings, cut(text, rng)) == brute_force(text, [s.encode() for s in strings])


def test_what_is_shown_is_the_text_in_whole_characters():
    rng = random.Random(2)
    for _ in range(2_000):
        strings = ["".join(rng.choices("aé好👍", k=rng.randint(1, 4))) for _ in range(2)]
        text = "".join(rng.choices("aé好👍 ", k=rng.randint(0, 20)))
        shown, reason = stream(*start(Strings, strings=strings), cut(text.encode(), rng, 12))
        want, stopped = brute_force(text.encode(), [s.encode() for s in strings])
        assert "".join(shown) == want.decode()
        assert reason == ("stop_string" if stopped else None)
        assert "\ufffd" not in "".join(shown)


def test_bytes_that_are_no_text_are_shown_as_such():
    rng = random.Random(3)
    for _ in range(2_000):
        text = bytes(rng.choices(b"ab\xe5\xa5\xbd\xff", k=rng.randint(0, 15)))
        shown, _ = stream(*start(Strings, strings=["ab"]), cut(text, rng))
        assert "".join(shown) == brute_force(text, [b"ab"])[0].decode("utf-8", "replace")


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


# Patterns ---------------------------------------------------------------------------------------

PATTERNS = ["ab", "a+b", "(a|bc)+c", "[ab]c?b", "b(a|c)*b", "cc|abc", "a{2,3}c", "(?:ab)?c"]
TAILS = ["".join(t) for n in range(1, 4) for t in itertools.product("abc", repeat=n)]


def first_match(pattern, text):
    """Return where the first match ends, and where the longest that ends there begins."""
    for end in range(1, len(text) + 1):
        for begin in range(end):
            if pattern.fullmatch(text, begin, end):
                return begin, end
    return None


def may_become(pattern, text):
    """Return how many characters at the end can be made a match by up to three more."""
    for begin in range(len(text)):
        if any(pattern.fullmatch(text[begin:] + tail) for tail in TAILS):
            return len(text) - begin
    return 0


def test_regex_equals_brute_force_however_the_text_is_cut():
    rng = random.Random(4)
    for _ in range(1_500):
        pattern = re.compile(rng.choice(PATTERNS))
        text = "".join(rng.choices("abc ", weights=(3, 3, 3, 1), k=rng.randint(0, 14)))
        include = rng.random() < 0.3
        criterion, state = start(Regex, pattern=pattern.pattern, include=include)
        seen, got = "", None
        for n, piece in enumerate(cut(text, rng), start=1):
            seen += piece
            state, stop = criterion.push(state, 0, piece.encode(), n)
            if stop and stop.reason:
                got = seen[: len(seen) - stop.cut_bytes]
                break
            hold = stop.hold_bytes if stop else 0
            assert hold == (0 if include else may_become(pattern, seen)), (pattern, seen)
        found = first_match(pattern, text)
        assert got == (found and text[: found[1 if include else 0]]), (pattern, text)


def test_regex_shows_whole_characters_and_never_part_of_a_match():
    rng = random.Random(5)
    for _ in range(1_000):
        written = rng.choice(["好+é", "[👍é]a", r"\p{Han}{2}", "é.é"])
        text = "".join(rng.choices("aé好👍 ", k=rng.randint(0, 16)))
        shown, reason = stream(*start(Regex, pattern=written), cut(text.encode(), rng, 12))
        found = first_match(regex.compile(written), text)
        assert "".join(shown) == (text[: found[0]] if found else text), (written, text)
        assert reason == ("stop_regex" if found else None)


@pytest.mark.parametrize(
    "pattern, text, shown",
    [
        (r"\n\s*\n", "one\n \ntwo", "one"),
        (r"(?i)the end", "at THE END of", "at "),
        (r"\bend\b", "a bend ending", "a bend "),  # tried before what follows is known
        (r"^end", "no end", "no end"),
        (r"(?m)^end", "no\nend", "no\n"),
        (r"(?<=\.) ", "A dog. Then", "A dog."),
        (r"\d+", "room 101", "room "),
    ],
)
def test_regex_by_hand(pattern, text, shown):
    for pieces in ([text.encode()], [bytes([b]) for b in text.encode()]):
        assert "".join(stream(*start(Regex, pattern=pattern), pieces)[0]) == shown


def test_regex_looks_no_farther_back_than_its_window():
    for size, shown in ((8, "x"), (7, "x(aaaaaa)")):
        pieces = [bytes([b]) for b in b"x(aaaaaa)"]
        criterion, state = start(Regex, pattern=r"\(.*\)", max_window=size)
        assert "".join(stream(criterion, state, pieces)[0]) == shown
    criterion, state = start(Regex, pattern="^b", max_window=2)
    assert stream(criterion, state, [b"aaaa", b"b"])[1] is None, "that is no beginning"


def test_regex_goes_on_after_a_match_that_may_not_end_it():
    criterion, state = start(Regex, pattern="^a|ab")
    state, stop = criterion.push(state, 0, b"a", 1)
    assert stop.reason == "stop_regex"
    state, stop = criterion.push(state, 0, b"a", 2)
    assert stop.hold_bytes == 1
    assert criterion.push(state, 0, b"b", 3)[1].cut_bytes == 2


def test_regex_state_is_a_value_that_pickles():
    criterion, state = start(Regex, pattern="é(a|b)")
    after, _ = criterion.push(state, 0, "xé".encode()[:2], 1)
    for one in (after, pickle.loads(pickle.dumps(after))):  # noqa: S301
        _, stop = criterion.push(one, 0, "é".encode()[1:] + b"b", 2)
        assert (stop.reason, stop.cut_bytes) == ("stop_regex", 3)
    assert criterion.push(state, 0, b"", 1) == (state, None)


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("", "stop regex '' matches the empty text, so it would end at once"),
        ("a*", r"stop regex 'a\*' matches the empty text"),
        ("(", r"stop regex '\(': missing \) at position 1"),
    ],
)
def test_regex_refuses(pattern, message):
    with pytest.raises(ConfigError, match=message):
        start(Regex, pattern=pattern)


def test_a_pattern_that_takes_too_long_ends_the_request(monkeypatch):
    monkeypatch.setattr("gptkit_plugins.stopping.regex.TIMEOUT_S", 0.05)
    criterion, state = start(Regex, pattern=r"(x+x+)+y\1z", max_window=4096)
    with pytest.raises(RequestError, match=r"took more than 0\.05 s") as caught:
        criterion.push(state, 0, b"x" * 4000, 1)
    assert "nested repetitions" in caught.value.hint


# Sentences --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, ends",
    [
        ("It rained. We stayed! Why? Ask.", ["It rained.", " We stayed!", " Why?"]),
        ("It rained.\nand then.\n\nMore", ["It rained.", "\nand then."]),
        ("Pi is 3.14 or so. See v1.2 at x.com now.", ["Pi is 3.14 or so."]),
        ("Dr. Lee met J. K. Moss. They left.", ["Dr. Lee met J. K. Moss."]),
        (
            "Some, e.g. Ann, i.e. Ann B., left. So did I. Then",
            ["Some, e.g. Ann, i.e. Ann B., left.", " So did I."],
        ),
        ('"Stop!" he said. "No." She ran.', ['"Stop!" he said.', ' "No."']),
        ("Wait... what? Well... No.", ["Wait... what?", " Well..."]),
        ("(It was late.) All slept.\n", ["(It was late.)", " All slept."]),
        ("Steps:\n1. Wash it. 2. Dry it.\n3. Go. ", ["Steps:\n1. Wash it.", " 2. Dry it."]),
        ("It was 1999. Then 2000 came.", ["It was 1999."]),
        ("你好。他说：“走吧！”我不走。", ["你好。", "他说：“走吧！”"]),
        ("好！？真的？！Yes. No", ["好！？", "真的？！", "Yes."]),
        ("Really?! Yes…  Fine", ["Really?!", " Yes…"]),
        ("no end here", []),
        ("A line without a point\n\nAnother", []),
    ],
)
def test_sentences_by_hand(text, ends):
    rng = random.Random(6)
    data = text.encode()
    for n in range(1, len(ends) + 2):
        want = "".join(ends[:n]) if n <= len(ends) else text
        for pieces in ([data], [bytes([b]) for b in data], *(cut(data, rng, 8) for _ in range(20))):
            shown, reason = stream(*start(Sentences, n=n), pieces)
            assert "".join(shown) == want
            assert reason == ("sentences" if n <= len(ends) else None)


def test_sentences_are_the_same_however_the_text_is_cut():
    rng = random.Random(8)
    pieces = [
        *'.!?…。"”)* \n1a é好',
        ". ",
        ".\n",
        "12. ",
        " Dr.",
        " e.g",
        " A.",
        " I.",
        " so",
        " " * 9,
    ]
    for _ in range(2_000):
        data = "".join(rng.choices(pieces, k=rng.randint(1, 120))).encode()
        n = rng.randint(1, 9)
        whole = stream(*start(Sentences, n=n), [data])
        parts = stream(*start(Sentences, n=n), cut(data, rng, rng.randint(1, 60)))
        assert ("".join(parts[0]), parts[1]) == ("".join(whole[0]), whole[1]), data


def test_sentences_hold_back_only_the_space_that_may_be_cut():
    criterion, state = start(Sentences, n=1)
    holds = []
    for piece in (b"It is 3", b".", b"5 so", b".", b" ", b" ", b"it", b" is", b".", b" "):
        state, stop = criterion.push(state, 0, piece, 1)
        holds.append(stop.hold_bytes if stop else 0)
    assert holds == [0, 0, 0, 0, 1, 2, 0, 0, 0, 1]
    assert criterion.push(state, 0, b"A", 1)[1] == Stop("sentences", cut_bytes=2)


def test_a_sentence_longer_than_what_is_kept_still_ends():
    text = "word " * 50 + "end. Next"
    pieces = [text[i : i + 3].encode() for i in range(0, len(text), 3)]
    shown, reason = stream(*start(Sentences), pieces)
    assert ("".join(shown), reason) == (text[:-5], "sentences")


# Loops and certainty ----------------------------------------------------------------------------


def naive_loop(tokens, count, period, least):
    """Return whether the tokens end in `count` copies of a block, of `least` tokens together."""
    for p in range(1, period + 1):
        n = max(count * p, least)
        if n <= len(tokens) and all(tokens[-1 - i] == tokens[-1 - i - p] for i in range(n - p)):
            return True
    return False


def test_repeat_equals_a_naive_detector():
    rng = random.Random(7)
    n_found = 0
    for _ in range(300):
        values = {
            "count": rng.randint(2, 4),
            "period": rng.randint(1, 6),
            "tokens": rng.choice([0, 7, 12]),
        }
        criterion, state = start(Repeat, **values)
        tokens = []
        for n in range(60):
            fresh = rng.random() < 0.4 or len(tokens) < 3
            tokens.append(rng.randint(0, 1) if fresh else tokens[-3])
            state, stop = criterion.push(state, tokens[-1], b"", n + 1)
            found = naive_loop(tokens, values["count"], values["period"], values["tokens"])
            assert (stop == Stop("repeat")) == found, (tokens, values)
            n_found += found
    assert n_found > 1_000


def test_repeat_waits_for_its_tokens():
    criterion, state = start(Repeat)
    for n in range(1, 100):
        state, stop = criterion.push(state, n % 3, b"", n)
        assert (stop is not None) == (n >= 48)
    assert hash(state) == hash(pickle.loads(pickle.dumps(state)))  # noqa: S301


@pytest.mark.parametrize(
    "below, tokens, entropies, ends",
    [
        (0.5, 2, [1.0, 0.4, 0.6, 0.4, 0.49], 5),
        (0.5, 1, [0.5, 0.499], 2),
        (0.5, 2, [0.4, math.nan, 0.4], None),
        (0.0, 1, [0.0, 0.0], None),
        (0.1, 3, [0.05, 0.0, 0.09], 3),
    ],
)
def test_entropy_by_hand(below, tokens, entropies, ends):
    criterion, state = start(Entropy, below=below, tokens=tokens)
    for n, entropy in enumerate(entropies, start=1):
        state, stop = criterion.push(state, 0, b"x", n, entropy=entropy)
        assert stop == (Stop("entropy") if n == ends else None)
        if stop:
            return
    assert ends is None


# Together ---------------------------------------------------------------------------------------


class Bytes:
    size, eos_ids, special_ids = 257, frozenset({256}), frozenset({256})

    def token_bytes(self, token_id):
        return bytes([token_id]) if token_id < 256 else b""

    def encode(self, text):
        return list(text.encode())


def test_the_first_reason_in_the_order_of_the_ranks_counts():
    block = {
        "entropy": {"below": 9.0, "tokens": 1},
        "repeat": {"count": 2, "tokens": 0},
        "sentences": 1,
        "regex": "xA",
        "strings": ["A"],
        "tokens": [65],
        "max_new_tokens": 3,
    }
    order = ["stop_token", "stop_string", "stop_regex", "sentences", "repeat", "entropy", "length"]
    names = ["tokens", "strings", "regex", "sentences", "repeat", "entropy", None]
    for reason, name in zip(order, names, strict=True):
        stops = resolve_stops(block, registry())
        stopper = Stopper(Request((1,), (), stops, 0), Bytes(), 100)
        text = b".\nA" if reason == "sentences" else b"AAA" if reason == "repeat" else b"xxA"
        said = [stopper.push(t, bytes([t]), n, 1.0).reason for n, t in enumerate(text, start=1)]
        assert reason in said, (reason, said)
        block.pop(name, None)
