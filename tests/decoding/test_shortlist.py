"""Chains over the best tokens alone: what they pick is what the chain over all tokens picks."""

import itertools
import math

import numpy as np
import pytest
import torch

from gptkit.assembly import engine, load_model, open_model
from gptkit.decoding import shortlist
from gptkit.decoding.chain import ChainRunner
from gptkit.decoding.comparison import Place
from gptkit.decoding.engine import TokenizerVocab
from gptkit.decoding.presets import PRESETS
from gptkit.decoding.request import Draft, Request, Stage, Stops, parse_stage, resolve_chain
from gptkit.decoding.sequence import first_states
from gptkit.errors import NonFiniteLogits
from gptkit.plugin_api import PluginError, Sampler, param
from gptkit.plugin_host import registry
from gptkit_plugins.drafters.prompt_lookup import PromptLookup
from tests.fakes import ByteTokenizer

REGISTRY = registry()
VOCAB = TokenizerVocab(ByteTokenizer(), frozenset())
NO = float("-inf")


def places_of(chains, n, start=0, **asked):
    """Return n positions, of these chains by turns, each with a seed and a length of its own."""
    places = []
    for i in range(n):
        chain = chains[i % len(chains)]
        request = Request((1, 2, 3), chain, Stops(), start + i, **asked)
        places.append(Place(request, [1, 2, 3] + [7] * (i % 5), first_states(request, VOCAB)))
    return places


def rows_of(n, size, seed=0):
    """Return logits [n, size]: ordinary, flat, rounded so that many are equal, mostly forbidden."""
    made = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, size, generator=made) * 3
    rows[1::5] *= 0.01
    rows[2::5] = (rows[2::5] * 4).round() / 4
    rows[3::5] = rows[3::5].masked_fill(torch.rand(rows[3::5].shape, generator=made) < 0.95, NO)
    rows[3::5, size // 2] = 1.0
    rows[4::5] = rows[4::5].bfloat16().float()
    return rows


class Counting(ChainRunner):
    """Counts the rows that were run over all tokens."""

    n_whole = 0

    def _run(self, logits, positions, vocab):
        self.n_whole += len(positions)
        return super()._run(logits, positions, vocab)


def same(chains, logits, start=0):
    """Compare both ways; return the share of rows that were picked by their best alone."""
    runner, places = Counting(chains[0]), places_of(chains, len(logits), start)
    by_best = runner.pick(logits, places, VOCAB)
    n_whole = runner.n_whole
    by_all = runner.run(logits, places, VOCAB)
    assert [one.error for one in by_best] == [None] * len(logits)
    assert [one.token for one in by_best] == [one.token for one in by_all]
    assert [one.states for one in by_best] == [one.states for one in by_all]
    return 1 - n_whole / len(logits)


STAGES = {"temperature": [0.7, 1.3], "top_k": [1, 5, 40], "top_p": [0.3, 0.95], "min_p": [0.02]}


@pytest.mark.parametrize("names", [*itertools.permutations(STAGES)], ids="-".join)
def test_any_order_of_stages(names):
    shares = []
    for trial, values in enumerate(itertools.product(*(STAGES[name] for name in names))):
        chain = resolve_chain([{n: v} for n, v in zip(names, values, strict=True)], REGISTRY)
        shares.append(same([chain], rows_of(10, 3000, seed=trial), start=100 * trial))
    assert min(shares) == 1.0 or names.index("top_p") < names.index("top_k")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_chains_of_other_engines(preset):
    chain = resolve_chain(PRESETS[preset].chain, REGISTRY)
    for cold in ("temperature=0.8", "temperature=0", "temperature=30"):
        over = resolve_chain([parse_stage(cold)], REGISTRY, base=chain)
        share = same([over], rows_of(20, 5000, seed=3))
        assert share > 0.5 or preset in ("vllm", "openai")  # these cut to no number of tokens


@pytest.mark.parametrize("size", [1, 2, 40, 41, 42, 257])
def test_few_tokens_in_all(size):
    chain = resolve_chain([{"temperature": 0.7}, {"top_k": 40}, {"top_p": 0.9}], REGISTRY)
    share = same([chain], rows_of(20, size).nan_to_num(neginf=-9.0))
    assert share == 1.0 or share == 0.8 and size == 257  # where -9 is among the 48 best
    assert same([resolve_chain(["greedy"], REGISTRY)], rows_of(10, size)) == 1.0


def test_rows_with_values_of_their_own_one_of_them_off():
    chains = [
        resolve_chain([{"temperature": t}, {"top_k": k}, {"top_p": p}], REGISTRY)
        for t, k, p in [(0.5, 3, 0.9), (1.0, 60, 1.0), (0.0, 7, 0.2), (2.0, 1, "off")]
    ]
    assert same(chains, rows_of(40, 2000)) == 1.0
    chains.append(resolve_chain([{"temperature": 0.9}, {"top_k": "off"}, {"top_p": 0.8}], REGISTRY))
    assert same(chains, rows_of(40, 2000)) == 0.0  # one that is not cut: then none is


def test_stages_that_look_further_come_first():
    chain = resolve_chain(
        [{"logit_bias": {"7": 30.0}}, {"penalties": {"repeat": 1.4}}, {"top_k": 9}], REGISTRY
    )
    rows = rows_of(30, 900)
    assert same([chain], rows) == 1.0
    picked = Counting(chain).pick(rows, places_of([chain], 30), VOCAB)
    assert sum(one.token == 7 for one in picked) > 15


def test_quotients_that_round_to_equals_are_left_to_the_whole_row():
    """The order is that of the ids then, and the cut with it."""
    row = np.full(500, -5.0, np.float32)
    row[100:120] = np.float32(32_715_570) + np.arange(0, 40, 2, dtype=np.float32)
    chain = resolve_chain([{"temperature": 1.9}, {"top_k": 7}], REGISTRY)
    assert len(set((row[100:120] / np.float32(1.9)).tolist())) < len(set(row[100:120].tolist()))
    assert same([chain], torch.as_tensor(np.stack([row] * 30))) == 0.0


@pytest.mark.parametrize("n_equal", [1, 2])
@pytest.mark.parametrize("cut", [["greedy"], [{"top_k": 1}], [{"top_k": 2}, {"top_p": 0.6}]])
def test_a_token_that_is_not_on_the_list_may_become_the_equal_of_its_last(cut, n_equal):
    """Two neighbours that make one quotient, the lower one first by its id."""
    values = np.float32(32_715_570) + np.arange(0, 2000, 2, dtype=np.float32)
    rows = np.full((len(values) - 1, 300), -5.0, np.float32)
    rows[:, 7] = values[:-1]
    rows[:, 100 : 100 + n_equal] = values[1:, None]
    chain = resolve_chain([{"temperature": 1.9}, *cut], REGISTRY)
    merged = (rows[:, 7] / np.float32(1.9)) == (rows[:, 100] / np.float32(1.9))
    assert merged.mean() > 0.3
    same([chain], torch.as_tensor(rows))


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
@pytest.mark.parametrize("value", [1e-50, 1e-40, 1e-30, 1.0])
def test_values_that_are_nothing_in_float32(name, value):
    same([resolve_chain([{"top_k": 9}, {name: value}], REGISTRY)], rows_of(20, 500))
    same([resolve_chain([{name: value}, {"top_k": 9}], REGISTRY)], rows_of(20, 500))


def test_rows_with_what_is_no_number_are_left_to_the_whole_chain():
    """A drafter's model may make them; the engine's own are not even asked about."""
    rows = rows_of(3, 50)
    rows[1] = math.nan
    for spec in (["greedy"], [{"top_k": 5}]):
        chain = resolve_chain(spec, REGISTRY)
        runner, places = ChainRunner(chain), places_of([chain], 3)
        picked, whole = (run(rows, places, VOCAB) for run in (runner.pick, runner.run))
        assert [(one.token, str(one.error)) for one in picked] == [
            (one.token, str(one.error)) for one in whole
        ]


@pytest.mark.parametrize(
    "change", [torch.Tensor.double, lambda rows: rows.requires_grad_()], ids=["float64", "gradient"]
)
def test_logits_that_a_strategy_has_made_may_be_of_any_sort(change):
    """Two tokens whose float64 logits are one number in float32: the second one is better."""
    chain = resolve_chain([{"top_k": 1}, {"temperature": 0.5}], REGISTRY)
    rows = change(rows_of(3, 300))
    if rows.dtype == torch.float64:
        rows[:, 5], rows[:, 9] = 50.0, 50.0 + 1e-12
    runner, places = Counting(chain), places_of([chain], 3)
    picked = runner.pick(rows, places, VOCAB)
    assert runner.n_whole >= 3
    assert [(one.token, str(one.error)) for one in picked] == [
        (one.token, str(one.error)) for one in runner.run(rows, places, VOCAB)
    ]


def test_nobody_takes_a_short_way_who_asks_for_more():
    chain = resolve_chain([{"top_k": 5}], REGISTRY)
    rows = rows_of(4, 300)
    for asked in ({"trace": True}, {"logprobs": 2, "logprobs_of": "final"}):
        runner, places = Counting(chain), places_of([chain], 4, **asked)
        picked = runner.pick(rows, places, VOCAB)
        assert runner.n_whole == 4 and all(one.final is not None for one in picked)
    runner = Counting(chain)
    runner.pick(rows, places_of([chain], 4, logprobs=2), VOCAB)
    assert runner.n_whole == 0


# What a plugin can do wrong ---------------------------------------------------------------------


class Cut(Sampler):
    """Keep some."""

    name = "cut"
    n = param(0, ge=0, off=0, help="how many")
    answer = None

    def apply(self, logits, p, rows):
        return logits

    def most_left(self, p):
        return 3

    def shorten(self, short, p):
        return self.answer(short, p)


def picked_by(answer, n=1):
    """Return what comes of a stage that answers like that, for rows of which the first has n=0."""
    kind = type("Answering", (Cut,), {"answer": staticmethod(answer), "__doc__": "Keep some."})
    sample = resolve_chain(["sample"], REGISTRY)[0]
    chains = [(Stage("cut", kind, {"n": i + 1}), sample) for i in range(n)]
    return ChainRunner(chains[0]).pick(rows_of(n, 50), places_of(chains, n), VOCAB)


@pytest.mark.parametrize(
    "answer, said",
    [
        (lambda short, p: [*short.logits, 1.0], "no part of it"),
        (lambda short, p: tuple(short.logits), "no part of it"),
        (lambda short, p: 1, "no part of it"),
        (lambda short, p: 0, "no part of it"),
        (lambda short, p: "", "no part of it"),
        (lambda short, p: 1 / 0, "sampler 'cut' failed: ZeroDivisionError"),
    ],
)
def test_an_answer_that_can_not_be_is_the_plugin_s_error(answer, said):
    (one,) = picked_by(answer)
    assert isinstance(one.error, PluginError) and said in str(one.error)


def test_only_the_rows_at_fault_fail():
    def answer(short, p):
        if p.n == 2:
            raise ValueError("not this one")
        return short.logits[:1]

    picked = picked_by(answer, n=3)
    assert [one.error is None for one in picked] == [True, False, True]


def test_where_a_stage_leaves_nothing_the_whole_row_decides():
    (one,) = picked_by(lambda short, p: [])
    assert one.error is None and one.final is not None


@pytest.mark.parametrize("most", ["3", (3,), -5, 0, 2.5, True, None])
def test_how_many_are_left_is_the_plugin_s_word(monkeypatch, most):
    monkeypatch.setattr(Cut, "most_left", lambda self, p: 1 / 0 if most is None else most)
    (one,) = picked_by(lambda short, p: short.logits[:1])
    said = "leaves at most" if most is not None else "failed: ZeroDivisionError: division by zero"
    assert isinstance(one.error, PluginError)
    assert str(one.error).startswith(f"sampler 'cut' {said}")


def test_a_picker_picks_though_its_values_are_off():
    class Offish(Sampler):
        """Pick the best, or the last."""

        name = "offish"
        phase = "pick"
        n = param(0, ge=0, off=0, help="nothing")

        def apply(self, logits, p, rows):
            return logits.argmax(-1)

    top_k = resolve_chain([{"top_k": 5}], REGISTRY)[0]
    chain = (top_k, Stage("offish", Offish, {"n": 0}))
    rows = rows_of(4, 50)
    picked = ChainRunner(chain).pick(rows, places_of([chain], 4), VOCAB)
    assert [one.token for one in picked] == rows.argmax(-1).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, NO])
def test_numbers_that_are_not_finite_are_left_to_the_whole_row(bad):
    (one,) = picked_by(lambda short, p: [bad] * len(short.logits))
    assert one.error is None and one.token >= 0


def test_a_picker_must_pick_one_of_them():
    class Beyond(Sampler):
        """Pick what is not there."""

        name = "beyond"
        phase = "pick"

        def apply(self, logits, p, rows):
            return logits.argmax(-1)

        def most_left(self, p):
            return 1

        def shorten(self, short, p):
            return at

    chain = (Stage("beyond", Beyond, {}),)
    for at in (5, -1, True, "0", 0.0):  # noqa: B007  # what the picker says
        (one,) = ChainRunner(chain).pick(rows_of(1, 50), places_of([chain], 1), VOCAB)
        assert str(one.error) == "picker 'beyond' picked no token of its row"


def test_a_long_shortlist_is_none():
    chain = resolve_chain([{"top_k": shortlist.LONGEST - shortlist.SPARE + 1}], REGISTRY)
    assert same([chain], rows_of(3, 3000)) == 0.0
    chain = resolve_chain([{"top_k": shortlist.LONGEST - shortlist.SPARE}], REGISTRY)
    assert same([chain], rows_of(3, 3000)) == 1.0


# What the kernels found -------------------------------------------------------------------------


def streams(model, chains, drafts=(None,)):
    """Return the tokens and texts of some requests at once, of the best of each step's logits."""
    eng = engine(model, n_slots=5)
    ids = model.tokenizer.encode_ordinary("who are you? who are")
    for i, (chain, draft) in enumerate(itertools.product(chains, drafts)):
        eng.add(Request((model.bos_id, *ids[: 3 + i]), chain, Stops(25), i, draft=draft))
    seen = {}
    while eng.busy:
        for id, event in eng.step():
            seen.setdefault(id, []).append((event.token_id, event.text, event.finish_reason))
    return seen


def mini(monkeypatch):
    pytest.importorskip("numba", reason="the kernels need the extra `fast`")
    model = load_model(open_model("mini"), REGISTRY, backend="cpu", device="cpu", dtype="float32")
    real, looked = model.forward.step_ranked, []

    def ranked(*step):
        looked.append(step[-1])
        return real(*step)

    monkeypatch.setattr(model.forward, "step_ranked", ranked)
    return model, looked


def test_the_engine_takes_the_best_from_the_kernels(monkeypatch):
    model, looked = mini(monkeypatch)
    spec = [["greedy"], [{"temperature": 0.9}, {"top_k": 20}, {"top_p": 0.9}], [{"top_k": 300}]]
    chains = [resolve_chain(one, REGISTRY) for one in spec]
    drafts = (None, Draft(PromptLookup, 4, {"k": 4, "max_ngram": 3, "min_ngram": 1}))
    whole = streams(model, chains, drafts)
    assert 28 in looked and set(looked) <= {0, 1, 28}  # nobody asks for 308
    with monkeypatch.context() as patch:
        patch.setattr(model.forward, "ranks", False)
        assert streams(model, chains, drafts) == whole


def test_what_is_no_number_among_the_best_ends_the_request(monkeypatch):
    model, _ = mini(monkeypatch)
    real = model.forward.step_ranked

    def spoiled(*step):
        logits, found = real(*step)
        found.scores[0, 0] = math.nan
        return logits, found

    monkeypatch.setattr(model.forward, "step_ranked", spoiled)
    (*_, last) = engine(model).stream(
        Request((model.bos_id,), resolve_chain(["greedy"], REGISTRY), Stops(5), 0)
    )
    assert isinstance(last.error, NonFiniteLogits)
