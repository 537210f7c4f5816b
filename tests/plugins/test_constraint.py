"""The constraint against brute force over a small vocabulary, and what it writes against its spec.

llguidance by itself allows, where the grammar leaves one text only, nothing but the tokens that
the tokenizer would cut that text into. Our grammars say `no_forcing`, so the masks here are not a
subset of the brute force but equal to it.
"""

import json
import pickle
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import regex
import torch

from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Request, parse_stage, resolve_chain, resolve_stops
from gptkit.errors import ConfigError, PluginError
from gptkit.plugin_api import Observed, Params, RequestView
from gptkit.plugin_host import registry
from gptkit_plugins.samplers import grammar
from gptkit_plugins.samplers.constraint import Constraint
from tests.fakes import ByteTokenizer, FlatModel, byte_config

REGISTRY = registry()
NO = float("-inf")
WORDS = """yes no may be maybe 12 99 .5 0. ab aa ba "a b" ", ": a, true false null {" "} [] ][
3.1 -1 e9 x= (1 1) +1 好 é 👍 name age tags ( ) (( )) ()""".split()
PARTS = ["好".encode()[:2], "好".encode()[2:] + "é".encode()[:1], b"\xf0\x9f", b"\x91\x8d\xf0"]
SPACED = [b" a", b"a b", b"  ", b"\n", b"ab", b"12"]  # the last two are there already
TEXTS = [bytes([i]) for i in range(256)] + [word.encode() for word in WORDS] + PARTS + SPACED
TOKENS = [*TEXTS, b"", b"<end>", b"<user>"]
SIZE = len(TOKENS)
END, USER = SIZE - 2, SIZE - 1
IDS = {text: i for i, text in reversed(list(enumerate(TOKENS)))}


class SmallVocab:
    """A bit over 300 tokens: all bytes, words, parts of characters, two alike, one without text."""

    size = SIZE
    eos_ids = frozenset({END})
    special_ids = frozenset({END, USER})

    def token_bytes(self, token_id):
        return TOKENS[token_id]

    def encode(self, text):
        raise AssertionError("a constraint encodes nothing")


VOCAB = SmallVocab()


def start(ends=frozenset({END}), vocab=VOCAB, **values):
    """Return the stage and its state before the first token."""
    params = {key: values.get(key, p.default) for key, p in Constraint.params.items()}
    return Constraint(), Constraint().init_state(RequestView((), params, vocab, 0, ends))


def allowed(*states, size=SIZE):
    """Return which tokens the stage leaves in a row for each state."""
    logits = torch.randn(len(states), size)
    before = logits.clone()
    rows = SimpleNamespace(R=len(states), V=size, state=list(states), device="cpu")
    out = Constraint().apply(logits, Params({}), rows)
    assert torch.equal(logits, before), "a stage writes into its input"
    assert torch.equal(out[out > NO], before[out > NO])
    return [set((row > NO).nonzero()[:, 0].tolist()) for row in out]


def after(state, token):
    return Constraint().advance(state, Params({}), Observed(token, 0, 0, *[float("nan")] * 3))


def walk(state, rng, steps, prefer=()):
    """Yield each state and the bytes so far, taking allowed tokens at random, to the end."""
    text = b""
    for _ in range(steps):
        yield state, text
        (open_,) = allowed(state)
        if Constraint().is_done(state):
            assert open_ <= {END}
            return
        inner = sorted(open_ - {END})
        liked = [token for token in inner if TOKENS[token] in prefer]
        token = rng.choice(liked if liked and rng.random() < 0.8 else inner)
        state, text = after(state, token), text + TOKENS[token]
    yield state, text


# Masks ------------------------------------------------------------------------------------------

CHARACTER = (  # one character of UTF-8, byte by byte (RFC 3629)
    r"(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    r"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}"
    r"|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})"
)
PATTERNS = [
    (pattern, pattern.encode())
    for pattern in (
        r"[0-9]{1,3}(\.[0-9]{1,2})?",
        "yes|no|maybe",
        '"[a-z ]{2,12}"',
        "(é|好|👍){2,3}",
        "(a|b)*abb",
        "(ab?)+c{0,2}",
        r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[0-9]+)?",
        r"a/b|a\\\n",
        r"[\r\n]+x",
    )
] + [
    ('"[^"]{2,5}"', f'"(?:(?!"){CHARACTER}){{2,5}}"'.encode("latin-1")),
    ("(?s:.*)", f"{CHARACTER}*".encode("latin-1")),
    ("(?s:.{3})x", f"{CHARACTER}{{3}}x".encode("latin-1")),
]


def brute_force(pattern, text):
    """Return the tokens after which the text can still be completed, and the end where it is."""
    may = {i for i, t in enumerate(TOKENS[:END]) if t and pattern.fullmatch(text + t, partial=True)}
    return may | ({END} if pattern.fullmatch(text) else set())


@pytest.mark.parametrize("written, by_bytes", PATTERNS, ids=[p for p, _ in PATTERNS])
def test_regex_masks_equal_brute_force(written, by_bytes):
    rng, pattern, known = random.Random(written), regex.compile(by_bytes), {}
    for _ in range(6):
        for state, text in walk(start(regex=written)[1], rng, 20):
            if text not in known:
                known[text] = brute_force(pattern, text)
            (open_,) = allowed(state)
            assert open_ == known[text], text
            for token in rng.sample(range(END), 20):  # advance agrees with the mask
                assert (after(state, token) is not None) == (token in open_)


def test_choice_equals_brute_force():
    texts = ("yes", "yes, maybe", "y", 'a "b" \\ /', "好", "é\n", "no")
    pattern = regex.compile("|".join(map(regex.escape, texts)).encode())
    rng = random.Random(2)
    said = set()
    for _ in range(40):
        for state, text in walk(start(choice=texts)[1], rng, 30):
            assert allowed(state) == [brute_force(pattern, text)]
            if END in allowed(state)[0]:
                said.add(text.decode())
    assert said == set(texts)


def test_lark_equals_brute_force():
    lark = 'start: pair*\npair: "(" start ")"'

    def depths(text):
        depth, least = 0, 0
        for byte in text:
            depth += {40: 1, 41: -1}.get(byte, -10_000)
            least = min(least, depth)
        return depth, least

    rng = random.Random(3)
    for _ in range(20):
        for state, text in walk(start(lark=lark)[1], rng, 25):
            want = {i for i, t in enumerate(TOKENS[:END]) if t and depths(text + t)[1] >= 0}
            assert allowed(state) == [want | ({END} if depths(text)[0] == 0 else set())]


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": -5, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "size": {"anyOf": [{"type": "null"}, {"type": "number", "exclusiveMinimum": 0}]},
    },
    "required": ["name", "age", "tags", "size"],
    "additionalProperties": False,
}


def is_valid(data):
    """Return whether data is what SCHEMA describes."""
    number = type(data["size"]) in (int, float) and data["size"] > 0
    return (
        set(data) == set(SCHEMA["properties"])
        and type(data["name"]) is str
        and len(data["name"]) <= 6
        and type(data["age"]) is int
        and -5 <= data["age"] <= 120
        and len(data["tags"]) <= 3
        and set(data["tags"]) <= {"a", "b"}
        and (data["size"] is None or number)
    )


def test_random_walks_through_a_schema_parse_and_are_valid(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA, indent=2))
    closing = (b'"', b"}", b"]", b"null")
    rng = random.Random(4)
    ended = 0
    for i in range(20):
        _, first = start(json_schema=json.dumps(SCHEMA) if i % 2 else str(path))
        *_, (state, text) = walk(first, rng, 400, prefer=closing)
        if END in allowed(state)[0]:
            ended += 1
            assert is_valid(json.loads(text.decode())), text
    assert ended > 15


@pytest.mark.parametrize(
    "options, texts",
    [
        ({}, {"[1,2]", "[1, 2]", "[\n 1,\n 2\n]"}),
        ({"whitespace_flexible": False}, {"[1,2]"}),
        ({"whitespace_pattern": ""}, {"[1,2]"}),
        (
            {"whitespace_pattern": r"\s*"},
            {"[1,2]", "[1, 2]", "[\n 1,\n 2\n]", "[1,  2]", "[1,\n\n2]"},
        ),
    ],
)
def test_json_has_a_little_white_space_unless_the_schema_says_otherwise(options, texts):
    schema = {"type": "array", "items": {"type": "integer"}, "x-guidance": options}
    _, first = start(json_schema=json.dumps(schema))
    for text in ("[1,2]", "[1, 2]", "[\n 1,\n 2\n]", "[1,  2]", "[1,\n\n2]"):
        state = first
        for byte in text.encode():
            state = after(state, byte)
        assert (state is not None and END in allowed(state)[0]) == (text in texts), text


# The end ----------------------------------------------------------------------------------------


def test_stop_tokens_are_allowed_where_the_text_may_end_and_nowhere_else():
    comma = IDS[b","]
    _, state = start(frozenset({END, comma}), regex="[a,]{2,3}")
    assert END not in allowed(state)[0]
    assert comma not in allowed(state)[0], "it would end the text too early"
    two = after(after(state, IDS[b"a"]), IDS[b"a"])
    assert {END, comma} <= allowed(two)[0]
    assert not Constraint().is_done(two)
    three = after(two, IDS[b"a"])
    assert allowed(three) == [{END, comma}]
    assert Constraint().is_done(three)
    assert after(three, END) == three


def test_without_stop_tokens_a_complete_text_allows_nothing_and_is_done():
    _, state = start(frozenset(), regex="ab")
    done = after(state, IDS[b"ab"])
    assert allowed(done) == [set()]
    assert Constraint().is_done(done)
    assert not Constraint().is_done(state)
    assert not Constraint().is_done(None)


def generate(chain, stops, vocab_size=256, special=(), **values):
    """Return text and finish reason of a model that likes every token alike."""
    tokenizer = ByteTokenizer(special)
    eos = frozenset(tokenizer.special.values())
    stages = resolve_chain([{"constraint": values}, *chain], REGISTRY)
    model = FlatModel(byte_config(tokenizer))
    stops = resolve_stops(stops, REGISTRY)
    events = list(Engine(model, tokenizer, eos).stream(Request((1,), stages, stops, seed=5)))
    return "".join(event.text for event in events), events[-1]


def test_a_model_without_stop_tokens_ends_by_the_grammar():
    text, last = generate([], {}, regex="[ab]{4}")
    assert regex.fullmatch("[ab]{4}", text)
    assert (last.finish_reason, last.error) == ("constraint_done", None)


def test_a_text_that_may_go_on_is_ended_by_the_model_or_its_length():
    text, last = generate([], {"max_new_tokens": 200}, special=("<end>",), regex="[ab]*c?")
    assert last.finish_reason in ("eos", "constraint_done")
    assert regex.fullmatch("[ab]*c?", text)
    text, last = generate([], {"max_new_tokens": 3}, regex="[ab]{9}")
    assert (len(text), last.finish_reason) == (3, "length")


def test_what_the_vocabulary_cannot_say_ends_with_an_error():
    class Letters(SmallVocab):
        size = 256

        def token_bytes(self, token_id):
            return b"ab"[token_id % 2 :][:1]

    _, state = start(vocab=Letters(), regex="abc")
    dead = after(after(state, 0), 1)
    assert allowed(dead, size=256) == [set()]
    assert not Constraint().is_done(dead)
    with pytest.raises(ConfigError, match="no token of this vocabulary can begin"):
        start(vocab=Letters(), regex="cab")


def test_a_model_with_more_ids_than_the_vocabulary_and_one_with_fewer():
    _, state = start(regex="(?s:.*)")
    assert allowed(state, size=512) == allowed(state)
    assert allowed(state, size=100)[0] == {i for i in allowed(state)[0] if i < 100}


# The state --------------------------------------------------------------------------------------


def test_a_state_stays_as_it_is_and_forks():
    _, state = start(regex="[a-z]+[0-9]")
    before = allowed(state)
    one, two = after(state, IDS[b"a"]), after(state, IDS[b"x"])
    again = after(after(one, IDS[b"b"]), IDS[b"1"])
    assert Constraint().is_done(again)
    assert allowed(state) == before
    assert allowed(one, two) == [allowed(one)[0], allowed(two)[0]]
    assert one != two
    assert one == after(state, IDS[b"a"])


def test_a_state_pickles_and_goes_on_from_there():
    rng = random.Random(6)
    for values in ({"regex": "[a-z]{2,9}"}, {"lark": 'start: ("ab" | "(" start ")")+'}):
        for state, _ in walk(start(**values)[1], rng, 8):
            read = pickle.loads(pickle.dumps(state))  # noqa: S301  # just made
            assert read == state
            assert allowed(read) == allowed(state)
            assert Constraint().is_done(read) == Constraint().is_done(state)


def test_a_state_pickles_into_a_process_that_has_never_seen_the_vocabulary():
    state = after(start(regex="yes|no|maybe")[1], IDS[b"may"])
    code = (
        "import pickle, sys; s = pickle.load(sys.stdin.buffer);"
        "may = [i for i in range(len(s.allowed) * 8) if s.allowed[i // 8] >> i % 8 & 1];"
        "print([i for i in may if s.after(i).is_done])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(state), capture_output=True, check=True
    )
    assert json.loads(out.stdout) == [IDS[b"be"]]


def test_a_token_that_the_grammar_refuses_leads_nowhere_and_constrains_nothing():
    _, state = start(regex="[0-9]+")
    gone = after(state, IDS[b"a"])
    assert gone is None
    assert after(gone, IDS[b"1"]) is None
    assert allowed(gone) == [set(range(SIZE))]


def test_a_token_that_was_allowed_and_then_refused_is_a_failure_not_silence():
    _, state = start(regex="[0-9]+")
    lying = grammar.Walk(
        state.grammar, (), b"\xff" * len(state.allowed), is_done=False, matcher=state.matcher
    )
    with pytest.raises(PluginError, match=f"refuses token {IDS[b'a']} after allowing it"):
        lying.after(IDS[b"a"])


def test_table_and_grammar_are_made_once():
    class Same(SmallVocab):
        pass

    table = grammar.table_of(VOCAB)
    assert grammar.table_of(VOCAB) is table
    assert grammar.table_of(Same()) is table, "the same bytes are the same table"
    one, two = start(regex="[a-f]+")[1], start(regex="[a-f]+")[1]
    assert one.grammar is two.grammar
    assert start(frozenset(), regex="[a-f]+")[1].grammar is not one.grammar


def test_rows_are_off_or_have_grammars_of_their_own():
    digits, letters = start(regex="[0-9]+")[1], start(regex="[a-z]+")[1]
    assert start()[1] is None
    rows = allowed(digits, None, letters)
    assert rows == [allowed(digits)[0], set(range(SIZE)), allowed(letters)[0]]


# What users write -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, message, hint",
    [
        ({"regex": "["}, r"regex: .*unclosed character class$", None),
        ({"regex": "a(?=b)"}, r"regex: .*look-around, .* is not supported$", None),
        ({"regex": "a{0}"}, r"regex: no text but the empty one fits$", None),
        ({"json_schema": '{"type": "objekt"}'}, r"json_schema: .*Invalid type: objekt$", None),
        ({"json_schema": '{"enum": []}'}, r"json_schema: .*Unsatisfiable schema", None),
        (
            {"json_schema": '{"a": 1,\n "b"}'},
            r"json_schema: not JSON \(.* in line 2, column 5\)$",
            None,
        ),
        (
            {"json_schema": "no/such.json"},
            r"json_schema: can't read no/such.json: No such file or directory$",
            "a schema in place begins with {",
        ),
        ({"lark": "start: foo"}, r'lark: at 1\(8\): unknown name: "foo"$', None),
        ({"lark": "no/such.lark"}, r"lark: can't read no/such.lark: No such file", None),
        ({"regex": "a", "lark": 'start: "a"'}, r"regex and lark", "an answer has one form"),
    ],
)
def test_errors_are_one_line_that_names_the_parameter(values, message, hint):
    with pytest.raises(ConfigError, match=message) as caught:
        start(**values)
    assert str(caught.value).startswith("constraint")
    assert "\n" not in str(caught.value)
    assert caught.value.hint == hint


def test_bad_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{'a': 1}")
    with pytest.raises(ConfigError, match=r"a\.json: not JSON"):
        start(json_schema=str(tmp_path / "a.json"))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json: nested too deeply"):
        start(json_schema=str(tmp_path / "deep.json"))
    (tmp_path / "a.lark").write_bytes(b'start: "\xff"')
    with pytest.raises(ConfigError, match=r"a\.lark is not UTF-8 at byte 8"):
        start(lark=str(tmp_path / "a.lark"))
    (tmp_path / "b.lark").write_text('start: "ab"\n')
    assert allowed(start(lark=str(tmp_path / "b.lark"))[1])[0] == {
        i for i, t in enumerate(TOKENS) if t in (b"a", b"ab")
    }


@pytest.mark.parametrize(
    "item",
    [
        {"constraint": "[0-9]{1,3}"},
        {"constraint": {"choice": ["yes", "no", "off"]}},
        {"constraint": {"json_schema": '{"type": "array", "maxItems": 2}'}},
        {"constraint": "off"},
    ],
)
def test_a_chain_with_a_constraint_survives_being_written_and_read(item):
    chain = resolve_chain([item], REGISTRY)
    assert resolve_chain([stage.as_item() for stage in chain], REGISTRY) == chain
    assert resolve_chain([parse_stage(str(stage)) for stage in chain], REGISTRY) == chain
    assert chain[0].is_off == (item["constraint"] == "off")


def test_it_joins_a_chain_before_temperature():
    base = resolve_chain([{"temperature": 0.5}], REGISTRY)
    chain = resolve_chain([{"constraint": "a+"}], REGISTRY, base=base)
    assert [stage.label for stage in chain] == ["constraint", "temperature", "sample"]


def test_without_llguidance_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match="needs llguidance, which is not installed") as caught:
        start(regex="never seen before")
    assert caught.value.hint == "pip install 'gptkit[constraints]'"


def test_nothing_heavy_is_imported_before_a_constraint_is_used():
    code = (
        "import sys; import gptkit_plugins.samplers.constraint, gptkit_plugins.stopping;"
        "print({'llguidance', 'numpy', 'torch', 'regex'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"


def test_files_are_read_once_from_a_folder_and_serve_as_if_in_place(tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "a.lark").write_text('start: "ab"\n')
    values = {key: one.default for key, one in Constraint.params.items()}
    read = Constraint.read_files({**values, "json_schema": "schema.json"}, tmp_path)
    again = Constraint.read_files({**values, "json_schema": json.dumps(SCHEMA)}, tmp_path)
    assert read == again and read["json_schema"].startswith("{")
    assert Constraint.read_files(read, tmp_path / "elsewhere") == read
    read = Constraint.read_files({**values, "lark": "a.lark"}, tmp_path)
    assert read["lark"] == 'start: "ab"\n'
    assert Constraint.read_files(values, tmp_path) == values
    with pytest.raises(ConfigError, match="constraint.json_schema: can't read .*none.json"):
        Constraint.read_files({**values, "json_schema": "none.json"}, tmp_path)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="list.json: a schema is an object"):
        Constraint.read_files({**values, "json_schema": "list.json"}, tmp_path)
