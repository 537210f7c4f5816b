"""Stages that look at the text so far, against brute force, tables by hand, and transformers."""

import pickle
import random
import time

import numpy as np
import pytest
import torch

from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Request, Stops, resolve_chain, resolve_stops
from gptkit.errors import ConfigError, RequestError
from gptkit.plugin_api import Params, RequestView
from gptkit.plugin_host import registry
from gptkit_plugins.samplers.bad_words import BadWords
from gptkit_plugins.samplers.dry import DRY, repeat_lengths
from gptkit_plugins.samplers.logit_bias import LogitBias
from gptkit_plugins.samplers.min_new_tokens import MinNewTokens
from gptkit_plugins.samplers.no_repeat_ngram import NoRepeatNgram
from gptkit_plugins.samplers.penalties import Penalties
from tests.fakes import ByteTokenizer, FlatModel, byte_config
from tests.plugins import history_oracle as oracle

NO = float("-inf")
P4 = np.log([0.1, 0.2, 0.3, 0.4])
LP = [1.0, -1.0, 0.5, 0.0]
REGISTRY = registry()


class Letters:
    """A vocabulary of the letters from `a` on, and what else it is told."""

    def __init__(self, size, eos=(), special=(), more=()):
        self.size, self.eos_ids, self.special_ids = size, frozenset(eos), frozenset(special)
        self.texts = {97 + i: i for i in range(size)} | {ord(c): i for c, i in dict(more).items()}

    def token_bytes(self, token_id):
        return bytes(char for char, i in self.texts.items() if i == token_id)

    def encode(self, text):
        if missing := [c for c in text if ord(c) not in self.texts]:
            raise RequestError(f"no token for {missing[0]!r}")
        return [self.texts[ord(c)] for c in text]


class History:
    """Rows that each have said something."""

    def __init__(self, prompts, outputs, vocab, size):
        self.said = [[*a, *b] for a, b in zip(prompts, outputs, strict=True)]
        self.prompt_len = torch.tensor([len(prompt) for prompt in prompts])
        self.n_out = torch.tensor([len(output) for output in outputs])
        self.R, self.V, self.vocab = len(self.said), size, vocab

    def tokens(self, row):
        return self.said[row]


def run(sampler, logits, prompts, outputs=None, *, vocab=None, stop_ids=(), **values):
    """Apply a stage; a value is one for all rows, or a list of one for each."""
    logits = torch.as_tensor(np.atleast_2d(logits), dtype=torch.float32)
    outputs = outputs if outputs is not None else [[] for _ in prompts]
    n, size = logits.shape
    rows = History(prompts, outputs, vocab or Letters(size), size)
    each = [
        {
            key: values[key][i] if isinstance(values.get(key), list) else values.get(key, p.default)
            for key, p in sampler.params.items()
        }
        for i in range(n)
    ]
    views = [RequestView(prompts[i], each[i], rows.vocab, 0, frozenset(stop_ids)) for i in range(n)]
    rows.state = pickle.loads(pickle.dumps([sampler().init_state(view) for view in views]))  # noqa: S301
    columns = {
        key: [one[key] for one in each]
        if p.items or p.kind in (str, dict)
        else torch.tensor([[one[key]] for one in each])
        for key, p in sampler.params.items()
    }
    before = logits.clone()
    out = sampler().apply(logits, Params(columns), rows)
    assert torch.equal(logits, before), "a stage writes into its input"
    assert (out.shape, out.dtype) == (before.shape, torch.float32)
    assert bool((out[before == NO] == NO).all()), "a forbidden token comes back"
    return out


def banned(out):
    return set((out[0] == NO).nonzero()[:, 0].tolist())


def cases(n, seed, size=9, longest=40):
    """Yield batches of rows that repeat themselves: prompts, outputs, logits with ties and bans."""
    rng = random.Random(seed)
    for batch in range(n):
        letters = rng.randint(1, size)
        texts = [
            [rng.randrange(letters) for _ in range(rng.randrange(longest))]
            if rng.random() < 0.6
            else [rng.randrange(letters) for _ in range(rng.randint(1, 6))] * rng.randint(1, 7)
            for _ in range(16)
        ]
        cuts = [rng.randint(0, len(text)) for text in texts]
        logits = np.random.default_rng(seed * 1000 + batch).standard_normal((16, size)) * 3
        logits = logits.round(1).astype(np.float32)
        for row in logits[::3]:
            row[rng.sample(range(size), rng.randrange(size - 1))] = NO
        yield (
            [text[:cut] for text, cut in zip(texts, cuts, strict=True)],
            [text[cut:] for text, cut in zip(texts, cuts, strict=True)],
            logits,
            rng,
        )


def check(out, wants):
    for got, want in zip(out.numpy(), wants, strict=True):
        assert np.allclose(got, want, atol=1e-5, rtol=1e-5), (got, want)


# penalties ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "prompt", "output", "values", "want"),
    [
        (LP, [0, 1, 3], [], {"repeat": 2.0}, [0.5, -2, 0.5, 0]),
        (np.add(LP, 3), [0, 1, 3], [], {"repeat": 2.0}, [2, 1, 3.5, 1.5]),  # the gauge counts
        (LP, [], [0, 0, 1], {"frequency": 0.5, "presence": 0.25}, [-0.25, -1.75, 0.5, 0]),
        (LP, [0, 0, 1], [], {"frequency": 0.5, "presence": 0.25}, LP),  # a prompt is no output
        (LP, [0], [1], {"repeat": 2.0, "scope": "output"}, [1, -2, 0.5, 0]),
        (LP, [0, 1], [2], {"repeat": 2.0, "window": 2}, [1, -2, 0.25, 0]),
        (LP, [], [0, 2, 2], {"frequency": 1.0, "window": 1}, [1, -1, -0.5, 0]),
        (LP, [], [0], {"repeat": 2.0, "frequency": 0.5, "presence": 1.0}, [-1, -1, 0.5, 0]),
    ],
)
def test_penalties_by_hand(logits, prompt, output, values, want):
    out = run(Penalties, logits, [prompt], [output], **values)
    assert out[0].tolist() == pytest.approx(want, abs=1e-6)


def test_penalties_of_probabilities_do_not_depend_on_the_gauge():
    low = run(Penalties, LP, [[0, 1, 3]], repeat=2.0, normalize=True)
    high = run(Penalties, np.add(LP, 3), [[0, 1, 3]], repeat=2.0, normalize=True)
    assert torch.allclose(low, high, atol=1e-6)


def test_penalties_equal_the_definition():
    for prompts, outputs, logits, rng in cases(100, seed=1):
        values = {
            "repeat": [rng.choice([0.5, 1.0, 1.3]) for _ in prompts],
            "frequency": [rng.uniform(-2, 2) for _ in prompts],
            "presence": [rng.uniform(-2, 2) for _ in prompts],
            "scope": [rng.choice(["all", "output"]) for _ in prompts],
            "window": [rng.choice([0, 1, 5, 30]) for _ in prompts],
            "normalize": [rng.random() < 0.3 for _ in prompts],
        }
        out = run(Penalties, logits, prompts, outputs, **values)
        wants = [
            oracle.penalties(
                logits[i], prompts[i], outputs[i], **{key: v[i] for key, v in values.items()}
            )
            for i in range(16)
        ]
        check(out, wants)


# dry ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "history", "multiplier", "breakers", "want"),
    [
        (4, [0, 1, 2, 0, 1], 1.0, (), [0.296923, 0.296923, 0.109232, 0.296923]),
        (5, [0, 1, 2, 0, 1], 2.0, (), [0.241818, 0.241818, 0.032727, 0.241818, 0.241818]),
        (5, [0, 1, 3, 4, 0, 1], 1.0, ("d",), [0.2] * 5),  # d is token 3, which came after 0 1
    ],
)
def test_dry_by_hand(n, history, multiplier, breakers, want):
    """llama.cpp's own test vectors."""
    logits = np.log([1 / n] * n)
    out = run(DRY, logits, [history], multiplier=multiplier, base=1.1, breakers=breakers)
    assert out[0].softmax(-1).tolist() == pytest.approx(want, abs=1e-5)


def test_dry_finds_the_longest_repeat_before_each_token():
    history = [ord(char) - 97 for char in "abccbcyabc"]
    lengths = repeat_lengths(history, 1, ((), frozenset()), Letters(26))
    assert {chr(97 + token): n for token, n in lengths.items()} == {"c": 3, "b": 1, "y": 2}


def test_dry_equals_the_definition():
    for prompts, outputs, logits, rng in cases(150, seed=2):
        values = {
            "multiplier": [rng.choice([0.5, 1.0]) for _ in prompts],
            "base": [rng.choice([1.0, 1.2]) for _ in prompts],
            "allowed": [rng.randint(1, 4) for _ in prompts],
            "last_n": [rng.choice([0, 0, 1, 7, 20]) for _ in prompts],
            "breakers": [tuple(rng.sample("abcdefgh", rng.randrange(3))) for _ in prompts],
        }
        out = run(DRY, logits, prompts, outputs, **values)
        wants = [
            oracle.dry(
                logits[i],
                prompts[i] + outputs[i],
                **{key: v[i] for key, v in values.items() if key != "breakers"},
                breakers=[ord(text) - 97 for text in values["breakers"][i]],
            )
            for i in range(16)
        ]
        check(out, wants)


def test_a_breaker_is_any_token_that_contains_it_and_any_control_token():
    class Words:
        """Token 1 is `."`, token 2 ends the answer."""

        size, eos_ids, special_ids = 5, frozenset(), frozenset({2})
        token_bytes = staticmethod([b"a", b'."', b"", b"b", b"c"].__getitem__)

        @staticmethod
        def encode(text):
            raise RequestError("no such token")  # as of a closed vocabulary

    flat = np.zeros(5)
    for breaker in (1, 2):
        crossed = [0, breaker, 3, 4, 0, breaker, 3]
        assert run(DRY, flat, [crossed], vocab=Words, multiplier=1.0).tolist() == [[0] * 5]
        followed = [0, 3, breaker, 4, 0, 3]
        assert run(DRY, flat, [followed], vocab=Words, multiplier=1.0).tolist() == [[0] * 5]
    assert run(DRY, flat, [[0, 3, 4, 0, 3]], vocab=Words, multiplier=1.0)[0, 4] == -1


def test_a_breaker_of_several_tokens_breaks_at_its_last():
    crossed = [0, 1, 2, 3, 0, 1, 2]
    assert run(DRY, np.zeros(4), [crossed], multiplier=1.0, breakers=("ab",))[0, 3] == 0
    assert run(DRY, np.zeros(4), [crossed], multiplier=1.0, breakers=())[0, 3] == -1.75


def test_dry_stays_finite_and_linear_in_a_long_loop():
    start = time.perf_counter()
    out = run(DRY, np.zeros(3), [[0] * 30_000], multiplier=100.0, base=100.0)
    assert time.perf_counter() - start < 2  # a quadratic way takes minutes
    assert bool(out.isfinite().all())
    assert out[0].argmin() == 0 and out[0, 0] < -1e29


# no_repeat_ngram ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "history", "want"),
    [(2, [1, 2, 3, 1], {2}), (1, [1, 2], {1, 2}), (5, [1, 1, 1], set()), (2, [1, 1], {1})],
)
def test_no_repeat_ngram_by_hand(size, history, want):
    assert banned(run(NoRepeatNgram, np.zeros(4), [history], size=size)) == want


def test_no_repeat_ngram_equals_the_definition():
    for prompts, outputs, logits, rng in cases(150, seed=3):
        sizes = [rng.randint(0, 5) for _ in prompts]
        out = run(NoRepeatNgram, logits, prompts, outputs, size=sizes)
        said = zip(logits, prompts, outputs, sizes, strict=True)
        check(out, [oracle.no_repeat_ngram(r, a + b, n) if n else r for r, a, b, n in said])


# logit_bias, bad_words, min_new_tokens --------------------------------------------------------


def test_logit_bias_by_hand():
    out = run(LogitBias, P4, [[]], bias={"0": float(np.log(4))})
    assert out.softmax(-1)[0].tolist() == pytest.approx(
        [0.307692, 0.153846, 0.230769, 0.307692], abs=1e-5
    )


def test_logit_bias_by_text_and_by_row():
    out = run(LogitBias, [LP, LP], [[], []], bias=[{"b": 2.0, "3": -100.0}, {}])
    assert out.tolist() == [[1, 1, 0.5, -100], LP]


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"4": 1.0}, "logit_bias: token id 4 is not in the vocabulary of 4"),
        ({"ab": 1.0}, "logit_bias: 'ab' is 2 tokens, not one"),
        ({"": 1.0}, "logit_bias: '' is 0 tokens, not one"),
        ({"é": 1.0}, "logit_bias: 'é' is no token: no token for 'é'"),
        ({"0": 1.0, "a": 2.0}, "logit_bias: '0' and 'a' are the same token"),
    ],
)
def test_logit_bias_names_what_is_no_token(bias, message):
    with pytest.raises(ConfigError) as error:
        run(LogitBias, LP, [[]], bias=bias)
    assert str(error.value) == message and error.value.hint


@pytest.mark.parametrize(
    ("words", "prompt", "output", "want"),
    [
        (("b",), [], [], {1}),
        (("ab",), [], [0], {1}),
        (("ab",), [0], [], set()),  # a prompt may begin what it likes
        (("ab",), [], [0, 1], set()),
        ((" ab",), [3], [0], {1}),  # the space is on and off by itself
        (("abc", "cb"), [], [2], {1}),
    ],
)
def test_bad_words_by_hand(words, prompt, output, want):
    vocab = Letters(4, more={" ": 3})
    assert banned(run(BadWords, LP, [prompt], [output], vocab=vocab, words=words)) == want


def test_bad_words_that_the_vocabulary_lacks_are_named():
    with pytest.raises(RequestError, match=r"^bad_words: 'né' can't be written: no token for 'n'$"):
        run(BadWords, LP, [[]], words=("né",))


def test_bad_words_equal_the_definition():
    for prompts, outputs, logits, rng in cases(100, seed=4):
        words = [
            tuple(
                "".join(rng.choices("abcde", k=rng.randint(1, 3))) for _ in range(rng.randint(0, 4))
            )
            for _ in prompts
        ]
        out = run(BadWords, logits, prompts, outputs, words=words)
        runs = [[[ord(c) - 97 for c in word] for word in one] for one in words]
        check(out, map(oracle.bad_words, logits, outputs, runs))


def test_min_new_tokens_forbids_the_ends_until_they_may_come():
    outputs = [[1], [1, 1], [1], []]
    out = run(MinNewTokens, [LP] * 4, [[3]] * 4, outputs, n=[2, 2, 0, 9], stop_ids=(0, 2))
    assert [set((row == NO).nonzero()[:, 0].tolist()) for row in out] == [
        {0, 2},
        set(),
        set(),
        {0, 2},
    ]


# All of them ----------------------------------------------------------------------------------


SETTINGS = {
    Penalties: {"repeat": 1.3, "frequency": 0.3, "presence": -0.7, "normalize": True},
    DRY: {"multiplier": 0.8, "allowed": 1},
    NoRepeatNgram: {"size": 2},
    LogitBias: {"bias": {"a": 0.3, "7": -4.0}},
    BadWords: {"words": ("ab", "c")},
    MinNewTokens: {"n": 8, "stop_ids": (1, 5)},
}


@pytest.mark.parametrize("sampler", SETTINGS)
def test_each_row_is_alone_bit_for_bit(sampler):
    for prompts, outputs, logits, rng in cases(20, seed=5):
        together = run(sampler, logits, prompts, outputs, **SETTINGS[sampler])
        order = rng.sample(range(16), 16)
        moved = run(
            sampler,
            logits[order],
            [prompts[i] for i in order],
            [outputs[i] for i in order],
            **SETTINGS[sampler],
        )
        assert torch.equal(moved, together[order])
        for i in range(16):
            alone = run(sampler, logits[i], [prompts[i]], [outputs[i]], **SETTINGS[sampler])
            assert torch.equal(alone[0], together[i])


def test_equal_transformers_where_the_definitions_agree():
    hf = pytest.importorskip("transformers")
    rng = np.random.default_rng(6)
    for trial in range(40):
        n = int(rng.integers(1, 30))
        ids = torch.as_tensor(rng.integers(0, 12, (8, n)))
        logits = torch.as_tensor(rng.standard_normal((8, 12)), dtype=torch.float32)
        outputs = ids.tolist()
        none = [[] for _ in outputs]
        pairs = [
            (hf.RepetitionPenaltyLogitsProcessor(1.3), Penalties, {"repeat": 1.3}),
            (hf.SequenceBiasLogitsProcessor([[[3], -2.5], [[7], 1.5]]), LogitBias,
             {"bias": {"3": -2.5, "7": 1.5}}),
            (hf.NoBadWordsLogitsProcessor([[1], [2, 3], [4, 4, 5]]), BadWords,
             {"words": ("b", "cd", "eef")}),
            (hf.MinNewTokensLengthLogitsProcessor(0, 11, [2, 9]), MinNewTokens,
             {"n": 11, "stop_ids": (2, 9)}),
        ]  # fmt: skip
        if trial % 4:
            theirs = hf.NoRepeatNGramLogitsProcessor(trial % 4)
            pairs.append((theirs, NoRepeatNgram, {"size": trial % 4}))
        for theirs, sampler, values in pairs:
            want = theirs(ids, logits.clone())
            assert torch.equal(run(sampler, logits, none, outputs, **values), want), sampler


# In the engine --------------------------------------------------------------------------------

TOKENIZER = ByteTokenizer(("<end>",))
END = TOKENIZER.special["<end>"]


def generate(items, prompt=b"ab", new=12, **stops):
    chain = resolve_chain([*items, "greedy"], REGISTRY)
    engine = Engine(FlatModel(byte_config(TOKENIZER)), TOKENIZER, frozenset({END}))
    request = Request(tuple(prompt), chain, Stops(max_new_tokens=new, **stops), seed=1)
    return list(engine.stream(request))


def said(events):
    return bytes(e.token_id for e in events if e.token_id is not None and e.token_id < 256)


def test_the_engine_runs_them_as_one_chain():
    """A flat model says the lowest token that is left: bans show as a count."""
    assert said(generate([{"no_repeat_ngram": 1}], b"\x00\x02", new=4)) == b"\x01\x03\x04\x05"
    assert said(generate([{"penalties": {"presence": 0.5}}], new=3)) == b"\x00\x01\x02"
    assert said(generate([{"logit_bias": {"x": 1, 122: 2}}], new=2)) == b"zz"
    assert said(generate([{"logit_bias": {"x": 1}}, {"bad_words": ["xx"]}], new=4)) == b"x\x00x\x00"
    assert said(generate([{"logit_bias": {"x": 1}}, {"dry": 0.8}], new=6)) == b"xxxx\x00x"


def test_min_new_tokens_waits_with_stop_tokens_and_stop_texts():
    for chain, n in (([], 1), ([{"min_new_tokens": 3}], 4)):
        events = generate([{"logit_bias": {str(END): 1}}, *chain])
        assert (len(events), events[-1].finish_reason) == (n, "eos")
    for chain, n in (([], 1), ([{"min_new_tokens": 3}], 3)):
        criteria = resolve_stops({"strings": ["x"]}, REGISTRY).criteria
        events = generate([{"logit_bias": {"x": 1}}, *chain], criteria=criteria)
        assert (len(events), events[-1].finish_reason) == (n, "stop_string")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"logit_bias": {999: 1}}, "logit_bias: token id 999 is not in the vocabulary of 257"),
        ({"logit_bias": {"no such": 1}}, "logit_bias: 'no such' is 7 tokens, not one"),
    ],
)
def test_the_engine_refuses_such_a_request_in_one_line(item, message):
    engine = Engine(FlatModel(byte_config(TOKENIZER)), TOKENIZER)
    chain = resolve_chain([item], REGISTRY)
    with pytest.raises(ConfigError) as error:
        engine.add(Request((1,), chain, Stops(), 0))
    assert str(error.value) == message
    assert not engine.busy
