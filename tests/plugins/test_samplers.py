"""Each bundled stage against its definition, the values worked by hand, and transformers."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gptkit.decoding.chain import ChainRunner
from gptkit.decoding.engine import TokenizerVocab
from gptkit.decoding.noise import uniform
from gptkit.decoding.request import Request, Stops, resolve_chain
from gptkit.decoding.rows import LogitStats
from gptkit.errors import ConfigError, RequestError
from gptkit.plugin_api import Observed, Params, RequestView
from gptkit.plugin_host import registry
from gptkit_plugins.samplers import ranking
from gptkit_plugins.samplers.dynamic_temperature import DynamicTemperature
from gptkit_plugins.samplers.epsilon import Epsilon
from gptkit_plugins.samplers.eta import Eta
from gptkit_plugins.samplers.greedy import Greedy
from gptkit_plugins.samplers.min_p import MinP
from gptkit_plugins.samplers.mirostat import Mirostat, zipf_count
from gptkit_plugins.samplers.ranking import keep_best, keep_first
from gptkit_plugins.samplers.sample import Sample
from gptkit_plugins.samplers.smoothing import Smoothing
from gptkit_plugins.samplers.tail_free import TailFree
from gptkit_plugins.samplers.temperature import Temperature
from gptkit_plugins.samplers.top_a import TopA
from gptkit_plugins.samplers.top_k import TopK
from gptkit_plugins.samplers.top_n_sigma import TopNSigma
from gptkit_plugins.samplers.top_p import TopP
from gptkit_plugins.samplers.typical import Typical
from gptkit_plugins.samplers.xtc import XTC
from tests.fakes import ByteTokenizer
from tests.plugins import oracle

REGISTRY = registry()
VOCAB = TokenizerVocab(ByteTokenizer(), frozenset())
NO = float("-inf")
P4 = np.log([0.1, 0.2, 0.3, 0.4])
P8 = np.log([0.35, 0.25, 0.15, 0.1, 0.06, 0.04, 0.03, 0.02])
ALL = {0, 1, 2, 3}
MORE = 1e-6  # where a threshold lies on a sum of probabilities, rounding would decide


class View:
    """Rows with states, coins, seeds and positions of their own."""

    def __init__(self, logits, states=None, coins=0.0):
        self.R, self.V = logits.shape
        self.state = [()] * self.R if states is None else list(states)
        self.coins = torch.as_tensor(coins, dtype=torch.float32).expand(self.R, 1)

    def stats(self, logits):
        return LogitStats(logits)

    def uniform(self, stream=0):
        return self.coins


class Place:
    """One position of a request, as the engine knows it."""

    prompt_len = 1

    def __init__(self, chain, seed, position):
        self.request = Request((1,), chain, Stops(), seed)
        self.tokens = [1] * position
        view = RequestView((1,), {}, VOCAB, seed)
        self.states = [
            stage.sampler().init_state(replace(view, params=stage.values)) for stage in chain
        ]


def gather(sampler, n, values):
    """Return the parameters of n rows, as the engine hands them over."""
    columns = {}
    for key, declared in sampler.params.items():
        value = values.get(key, declared.default)
        several = value if isinstance(value, (list, np.ndarray)) else [value] * n
        plain = declared.kind in (float, int)
        kind = {float: torch.float32, int: torch.int64}.get(declared.kind)
        columns[key] = torch.tensor(np.array(several), dtype=kind)[:, None] if plain else several
    return Params(columns)


def run(sampler, logits, states=None, coins=0.0, **values):
    """Apply one stage to rows; a value is that of all of them, or a list with one for each."""
    logits = torch.as_tensor(np.atleast_2d(logits), dtype=torch.float32)
    if sampler is Mirostat and states is None:
        tau = values.get("tau", 3.0)
        states = [2 * tau] * len(logits)
    before = logits.clone()
    p = gather(sampler, len(logits), values)
    out = sampler().apply(logits, p, View(logits, states, coins))
    assert torch.equal(logits, before), "a stage writes into its input"
    assert out.dtype == torch.float32 and out.shape == logits.shape
    return out


def probs(sampler, logits, **values):
    return run(sampler, logits, **values).softmax(-1)[0].tolist()


def kept(sampler, logits, **values):
    return set((run(sampler, logits, **values)[0] > NO).nonzero()[:, 0].tolist())


# Values worked by hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler, logits, values, want",
    [
        (Temperature, P4, {"t": 0.0}, [0, 0, 0, 1]),
        (Temperature, P4, {"t": 0.5}, [0.033333, 0.133333, 0.3, 0.533333]),
        (Temperature, P4, {"t": 2.0}, [0.1627, 0.230093, 0.281805, 0.325401]),
        (Temperature, [1.0, 3.0, 3.0], {"t": 0.0}, [0, 1, 0]),
        (Temperature, P4 * 1e4, {"t": 1e-30}, [0, 0, 0, 1]),
        (TopK, P4, {"k": 3}, [0, 0.222222, 0.333333, 0.444444]),
        (TopK, P4, {"k": 1}, [0, 0, 0, 1]),
        (TopK, P4, {"k": 9}, [0.1, 0.2, 0.3, 0.4]),
        (TopP, P4, {"p": 0.69}, [0, 0, 0.428571, 0.571429]),
        (XTC, P4, {"probability": 1.0, "threshold": 0.19}, [0.333333, 0.666667, 0, 0]),
        (
            DynamicTemperature,
            P4,
            {"low": 0.5, "high": 1.5},
            [0.134408, 0.218745, 0.290847, 0.356001],
        ),
        (
            DynamicTemperature,
            P4,
            {"low": 0.0, "high": 2.0, "exponent": 2.0},
            [0.150107, 0.22542, 0.285952, 0.33852],
        ),
        (Smoothing, P4, {"factor": 0.25}, [0.177484, 0.254479, 0.281081, 0.286957]),
        (Smoothing, P4, {"factor": 1.0}, [0.054495, 0.230319, 0.342804, 0.372382]),
        (Smoothing, P4, {"factor": 1.0, "curve": 3.0}, [0.025211, 0.259422, 0.353426, 0.361941]),
    ],
)
def test_probabilities_by_hand(sampler, logits, values, want):
    assert probs(sampler, logits, **values) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize(
    "sampler, logits, name, table",
    [
        (TopP, P4, "p", {0.35: {3}, 0.71: {1, 2, 3}, 0.8: {1, 2, 3}, 0.91: ALL, 0.0: {3}}),
        (MinP, P4, "m", {0.24: ALL, 0.26: {1, 2, 3}, 0.49: {1, 2, 3}, 0.51: {2, 3}}),
        (MinP, P4, "m", {0.74: {2, 3}, 0.76: {3}, 1.0: {3}}),
        (TopA, P4, "a", {0.6: ALL, 0.63: {1, 2, 3}, 1.0: {1, 2, 3}}),
        (Typical, np.log([0.97, 0.01, 0.01, 0.01]), "tau", {0.5: {0}}),
        (Typical, np.log([0.4, 0.2, 0.2, 0.2]), "tau", {0.5: {1, 2, 3}, 0.3: {1, 2}}),
        (Typical, P4, "tau", {0.5 + MORE: {1, 2, 3}, 0.9 + MORE: ALL}),
        (Epsilon, P4, "eps", {0.15: {1, 2, 3}, 0.5: {3}}),
        (Eta, P4, "eps", {0.05: ALL, 0.15: {1, 2, 3}, 0.25: {1, 2, 3}, 0.9: {2, 3}}),
        (TopNSigma, P4, "n", {1.0: {2, 3}, 1.3: {2, 3}, 1.5: {1, 2, 3}, 0.5: {3}, 3.0: ALL}),
        (TailFree, P8, "z", {0.3: {0, 1}, 0.6: {0, 1, 2}, 0.9: {*range(5)}, 0.95: {*range(5)}}),
    ],
)
def test_what_stays_by_hand(sampler, logits, name, table):
    for value, want in table.items():
        assert kept(sampler, logits, **{name: value}) == want, value


@pytest.mark.parametrize(
    "threshold, want",
    [(0.09, {0}), (0.1, {0}), (0.19, {0, 1}), (0.29, {0, 1, 2}), (0.39, ALL), (0.5, ALL)],
)
def test_xtc_by_hand(threshold, want):
    assert kept(XTC, P4, probability=1.0, threshold=threshold) == want


def test_figures_by_hand():
    stats = LogitStats(torch.tensor(P4, dtype=torch.float32)[None])
    assert float(stats.entropy) == pytest.approx(1.279854, abs=1e-6)
    assert float(stats.std) == pytest.approx(0.520626, abs=1e-6)
    assert oracle.dynamic_temperature_of(P4, 0.5, 1.5, 1) == pytest.approx(1.423220, abs=1e-6)
    assert oracle.dynamic_temperature_of(P4, 0, 2, 2) == pytest.approx(1.704669, abs=1e-6)


def test_what_is_forbidden_does_not_count_for_sigma():
    masked = [*P4, NO, NO]
    assert kept(TopNSigma, masked, n=1.3) == {2, 3}
    assert kept(TopNSigma, masked, n=1.5) == {1, 2, 3}


@pytest.mark.parametrize("sampler, name", [(MinP, "m"), (TopA, "a"), (Typical, "tau")])
def test_of_equals_at_a_cut(sampler, name):
    """A threshold takes all or none; a mass takes the lower ids."""
    want = {0, 1} if sampler is Typical else ALL
    assert kept(sampler, np.zeros(4), **{name: 0.5}) == want


def test_ties_go_to_the_lower_id():
    assert kept(TopK, np.log([0.3, 0.3, 0.2, 0.2]), k=3) == {0, 1, 2}
    assert kept(TopP, np.zeros(4), p=0.5) == {0, 1}
    assert kept(Epsilon, np.zeros(4), eps=0.5) == {0}
    assert kept(Mirostat, np.zeros(4), tau=0.5) == {0}
    assert kept(XTC, np.log([0.3, 0.3, 0.2, 0.2]), probability=1.0) == {2, 3}


def test_a_flat_row_has_no_tail():
    assert kept(TailFree, np.zeros(9), z=0.5) == set(range(9))
    assert kept(TailFree, np.zeros(1000), z=0.5) == set(range(1000))


def test_top_k_then_top_p_is_sequential():
    assert kept(TopP, run(TopK, P4, k=2), p=0.5) == {3}


def test_smoothing_keeps_order_and_maximum_of_any_finite_row():
    rows = np.array([[3e38, 1.0, -3e38, NO], [-3e38, NO, NO, NO], [0.0, -1e20, -2e20, NO]])
    for curve in (1.0, 2.0, 3.0):
        out = run(Smoothing, rows, factor=100.0, curve=curve)
        assert not out.isnan().any()
        assert out.amax(-1).tolist() == torch.tensor(rows).float().amax(-1).tolist()
        assert torch.equal(out == NO, torch.as_tensor(rows == NO))


def test_smoothing_by_0_is_off_for_it_would_flatten():
    assert Smoothing.params["factor"].check("smoothing", "off") == 0.0
    assert "off" in Smoothing.params["factor"].help
    with pytest.raises(ConfigError) as caught:
        Smoothing.params["factor"].check("smoothing", -1.0)
    assert caught.value.hint == "'off' switches it off"


# Against the definitions ------------------------------------------------------------------------

CASES = {
    # name: stage, what the oracle calls it, values from a generator and a size
    "temperature": (Temperature, "temperature", lambda g, v: {"t": g.choice([0.0, 0.05, 0.7, 3])}),
    "dynamic_temperature": (
        DynamicTemperature,
        "dynamic_temperature",
        lambda g, v: {
            "low": g.choice([0.0, 0.5, 2.0]),
            "high": g.choice([0.1, 1.5, 4.0]),
            "exponent": g.uniform(0.5, 3),
        },
    ),
    "smoothing": (
        Smoothing,
        "smoothing",
        lambda g, v: {"factor": g.uniform(0.01, 4), "curve": g.uniform(1, 3)},
    ),
    "top_k": (TopK, "top_k", lambda g, v: {"k": int(g.choice([1, 2, 5, 40, v, v + 9]))}),
    "top_p": (TopP, "top_p", lambda g, v: {"p": g.choice([0.0, 0.3, 0.9, g.uniform()])}),
    "min_p": (MinP, "min_p", lambda g, v: {"m": g.choice([1.0, 0.1, 1e-3, g.uniform()])}),
    "top_a": (TopA, "top_a", lambda g, v: {"a": g.choice([1.0, 0.1, g.uniform()])}),
    "typical": (Typical, "typical", lambda g, v: {"tau": g.choice([0.01, 0.5, 0.9, g.uniform()])}),
    "epsilon": (Epsilon, "epsilon", lambda g, v: {"eps": g.choice([3e-4, 0.1, g.uniform()])}),
    "eta": (Eta, "eta", lambda g, v: {"eps": g.choice([3e-4, 2e-3, 0.1, g.uniform()])}),
    "top_n_sigma": (TopNSigma, "top_n_sigma", lambda g, v: {"n": g.uniform(0, 3)}),
    "tail_free": (TailFree, "tail_free", lambda g, v: {"z": g.choice([0.0, 0.5, 0.95, 0.99])}),
    "xtc": (XTC, "xtc", lambda g, v: {"threshold": g.choice([0.01, 0.1, g.uniform(0, 0.5)])}),
    "mirostat": (Mirostat, "mirostat", lambda g, v: {"mu": g.uniform(-1, 12)}),
    "mirostat_1": (
        Mirostat,
        "mirostat_1",
        lambda g, v: {"mu": g.uniform(-1, 12), "m": int(g.choice([2, 3, 8, 100]))},
    ),
}
SIZES = {1: 100, 2: 900, 7: 5490, 40: 2500, 300: 900, 2003: 100, 50257: 5, 50304: 5}


def random_rows(n, size, seed):
    """Return rows with ties, forbidden tokens, subnormals, equals and lone survivors."""
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n, size)) * rng.choice([0.1, 2, 8], (n, 1))).astype(np.float32)
    rows[::3] = np.round(rows[::3], 1)  # ties
    forbidden = rng.random((n, size)) < rng.choice([0.4, 0.99], (n, 1))
    forbidden[np.arange(n), rng.integers(0, size, n)] = False
    rows[1::3][forbidden[1::3]] = NO
    rows[2::7, 0] = 1e-42
    rows[5::50] = 1.5
    rows[6::50, 0], rows[6::50, 1:] = -3.0, NO
    return rows


def apply_case(name, rows, values):
    sampler, _, _ = CASES[name]
    columns = {key: [value[key] for value in values] for key in values[0]}
    states = columns.pop("mu", None)
    if name == "xtc":
        columns["probability"] = 1.0
    if sampler is Mirostat:
        columns["version"] = 1 if name == "mirostat_1" else 2
    return run(sampler, rows, states, **columns).numpy()


def compare(name, row, value, out):
    """Compare a row with the oracle; return whether rounding decided otherwise."""
    value = {k: float(np.float32(v)) if type(v) is not int else v for k, v in value.items()}
    want = getattr(oracle, CASES[name][1])(row, **value)
    if isinstance(want, tuple):
        stays, margin = want
        differs = (out > NO) != (stays & (row > NO))
        assert not (differs & (margin >= oracle.CLOSE)).any(), (name, value, row[differs][:5])
        assert np.array_equal(out[out > NO], row[out > NO]), (name, value)
        return bool(differs.any())
    assert np.array_equal(out > NO, want > NO), (name, value)
    there = want > NO
    close = 3e-6 * max(1.0, np.abs(row[row > NO]).max())  # sums cancel
    assert np.allclose(out[there], want[there], rtol=3e-6, atol=close), (name, value)
    return False


@pytest.mark.parametrize("name", CASES)
def test_equals_the_definition(name):
    """10,000 rows, each with values of its own; rounding may decide in next to none."""
    n_different = 0
    for size, n in SIZES.items():
        rows = random_rows(n, size, seed=size)
        rng = np.random.default_rng(size)
        values = [CASES[name][2](rng, size) for _ in rows]
        out = apply_case(name, rows, values)
        n_different += sum(compare(name, *one) for one in zip(rows, values, out, strict=True))
    assert n_different <= 30


def test_figures_of_rows_equal_the_definition():
    rows = np.concatenate([random_rows(300, 700, seed=1), 1e4 * random_rows(60, 700, seed=2)])
    stats = LogitStats(torch.as_tensor(rows))
    for i, row in enumerate(rows):
        there = row[row > NO].astype(float)
        assert float(stats.support[i]) == len(there)
        assert float(stats.std[i]) == pytest.approx(there.std(), rel=1e-6, abs=1e-9)
        want = oracle.entropy(oracle.softmax(row))
        assert float(stats.entropy[i]) == pytest.approx(want, rel=1e-6, abs=1e-12)


# Against transformers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler, name, warper, values",
    [
        (Temperature, "t", "TemperatureLogitsWarper", (0.3, 0.7, 1.9)),
        (TopK, "k", "TopKLogitsWarper", (1, 5, 50)),
        (TopP, "p", "TopPLogitsWarper", (0.2, 0.5, 0.95)),
        (MinP, "m", "MinPLogitsWarper", (0.02, 0.3, 0.9)),
        (Typical, "tau", "TypicalLogitsWarper", (0.1, 0.5, 0.9)),
        (Epsilon, "eps", "EpsilonLogitsWarper", (3e-4, 0.02, 0.4)),
        (Eta, "eps", "EtaLogitsWarper", (3e-4, 0.02, 0.4)),
    ],
)
def test_equals_transformers_where_there_are_no_ties(sampler, name, warper, values):
    transformers = pytest.importorskip("transformers")
    rows = np.random.default_rng(3).standard_normal((200, 97)).astype(np.float32) * 3
    theirs = torch.as_tensor(rows)
    for value in values:
        want = getattr(transformers, warper)(value)(None, theirs)
        assert torch.equal(run(sampler, rows, **{name: value}), want)


# Properties -------------------------------------------------------------------------------------

ANY = {
    Temperature: {"t": 0.7},
    DynamicTemperature: {"low": 0.5, "high": 1.5, "exponent": 1.3},
    Smoothing: {"factor": 0.4, "curve": 2.0},
    TopK: {"k": 40},
    TopP: {"p": 0.9},
    MinP: {"m": 0.1},
    TopA: {"a": 0.3},
    Typical: {"tau": 0.8},
    Epsilon: {"eps": 0.01},
    Eta: {"eps": 0.01},
    TopNSigma: {"n": 1.5},
    TailFree: {"z": 0.9},
    XTC: {"probability": 1.0, "threshold": 0.05},
    Mirostat: {"tau": 3.0},
}
TRUNCATIONS = [sampler for sampler in ANY if sampler.phase == "truncate"]


@pytest.mark.parametrize("sampler", ANY, ids=lambda s: s.name)
def test_one_token_alone_stays(sampler):
    assert run(sampler, [[2.5]], **ANY[sampler]).softmax(-1).tolist() == [[1.0]]
    assert probs(sampler, [NO, -7.0, NO], **ANY[sampler]) == [0, 1, 0]
    if sampler is Mirostat:
        assert kept(sampler, [NO, -7.0, NO], version=1, tau=3.0) == {1}
        assert kept(sampler, [2.5], version=1, tau=3.0) == {0}


@pytest.mark.parametrize("sampler", ANY, ids=lambda s: s.name)
def test_nothing_comes_back_and_something_stays(sampler):
    rows = random_rows(120, 500, seed=9)
    out = run(sampler, rows, **ANY[sampler]).numpy()
    assert (out[rows == NO] == NO).all()
    assert (out > NO).any(-1).all()
    assert not np.isnan(out).any() and not (out == np.inf).any()


@pytest.mark.parametrize("sampler", ANY, ids=lambda s: s.name)
def test_a_row_that_is_off_stays_as_it_is_beside_one_that_is_on(sampler):
    on = {
        key: bool(v) if sampler.params[key].kind is bool else v for key, v in ANY[sampler].items()
    }
    off = {key: "off" for key, declared in sampler.params.items() if declared.off is not None}
    chains = [resolve_chain([{sampler.name: values}], REGISTRY) for values in (on, off)]
    assert [chain[0].is_off for chain in chains] == [False, True]
    places = [Place(chain, seed=3, position=9) for chain in chains]
    logits = torch.as_tensor(random_rows(2, 500, seed=11))
    out = ChainRunner(chains[0]).process(logits, places, VOCAB)
    assert torch.equal(out[1], logits[1])
    assert sampler is XTC or not torch.equal(out[0], logits[0])


@pytest.mark.parametrize(
    "sampler, key, values",
    [
        (TopK, "k", (1, 3, 17, 200)),
        (TopP, "p", (0.0, 0.3, 0.9, 0.999)),
        (MinP, "m", (1.0, 0.3, 0.01, 1e-4)),
        (TopA, "a", (1.0, 0.3, 0.01)),
        (Typical, "tau", (0.1, 0.3, 0.9)),
        (Epsilon, "eps", (0.5, 0.1, 1e-3)),
        (Eta, "eps", (0.5, 0.1, 1e-3)),
        (TopNSigma, "n", (0.1, 1.0, 2.5)),
        (TailFree, "z", (0.0, 0.5, 0.9)),
        (Mirostat, "tau", (0.5, 1.0, 4.0)),
    ],
)
def test_a_weaker_value_keeps_what_a_stronger_one_keeps(sampler, key, values):
    rows = random_rows(150, 400, seed=4)
    stays = [run(sampler, rows, **{key: value}) > NO for value in values]
    for less, more in itertools.pairwise(stays):
        assert not (less & ~more).any()


@pytest.mark.parametrize("one, other", list(itertools.combinations((TopK, MinP, TopNSigma), 2)))
def test_stages_that_commute(one, other):
    """Where each cuts by the logits, the row's maximum, or figures of the row before both."""
    rows = random_rows(150, 400, seed=6)
    first, second = run(one, rows, **ANY[one]), run(other, rows, **ANY[other])
    both = torch.as_tensor(rows).masked_fill((first == NO) | (second == NO), NO)
    if TopNSigma not in (one, other):
        assert torch.equal(run(other, first, **ANY[other]), both)
        assert torch.equal(run(one, second, **ANY[one]), both)
    else:
        last = one if other is TopNSigma else other
        before = second if other is TopNSigma else first
        assert torch.equal(run(last, before, **ANY[last]), both)


@pytest.mark.parametrize("t", [0.25, 0.7, 3.0])
@pytest.mark.parametrize("sampler", [TopNSigma, TopK], ids=lambda s: s.name)
def test_temperature_before_or_after_is_the_same(sampler, t):
    rows = random_rows(150, 400, seed=8)
    before = run(sampler, run(Temperature, rows, t=t), **ANY[sampler])
    after = run(Temperature, run(sampler, rows, **ANY[sampler]), t=t)
    assert torch.equal(before, after)


def test_temperature_changes_what_top_p_keeps():
    assert kept(TopP, P4, p=0.69) != kept(TopP, run(Temperature, P4, t=2.0), p=0.69)


@pytest.mark.parametrize("sampler", ANY, ids=lambda s: s.name)
@pytest.mark.parametrize("threads", [1, 2])
def test_each_row_is_alone_bit_for_bit(sampler, threads):
    """At GPT-2's size, where sums of a lone row are split among threads."""
    rows = torch.as_tensor(random_rows(9, 50257, seed=5))
    values = {**ANY[sampler]}
    states = [2.0 * i for i in range(9)] if sampler is Mirostat else None
    if sampler is Mirostat:
        values["version"] = [1 + i % 2 for i in range(9)]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = run(sampler, rows, states, **values)
        for i in range(len(rows)):
            one = {key: v[i] if isinstance(v, list) else v for key, v in values.items()}
            alone = run(sampler, rows[i : i + 1], states and states[i : i + 1], **one)
            assert torch.equal(alone[0], together[i])
    finally:
        torch.set_num_threads(n_threads)


def test_rows_have_values_of_their_own():
    out = run(Temperature, np.stack([P4] * 3), t=[0.0, 2.0, 1.0]).softmax(-1)
    assert out[0].tolist() == [0, 0, 0, 1]
    assert out[1].tolist() == pytest.approx([0.1627, 0.230093, 0.281805, 0.325401], abs=1e-5)
    assert out[2].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=1e-6)


def test_an_added_constant_changes_nothing():
    rows = np.round(random_rows(100, 200, seed=2) * 8) / 8  # exact in float32, shifted too
    for sampler in TRUNCATIONS:
        here = run(sampler, rows, **ANY[sampler]) > NO
        assert torch.equal(here, run(sampler, rows + 64, **ANY[sampler]) > NO), sampler.name


# The order of the best --------------------------------------------------------------------------


def test_a_cut_inside_a_tie_is_found_however_wide_it_is():
    """The 100th of a row is one of 4,000 equals: the lowest ids of them stay."""
    row = np.full(9000, -1.0, np.float32)
    row[::100] = 1.0
    row[3000:7000] = np.where(row[3000:7000] > 0, 1.0, 0.0)
    best = [*range(0, 9000, 100)]
    equals = [i for i in range(3000, 7000) if row[i] == 0.0]
    out = run(TopK, row, k=100)[0]
    assert (out > NO).nonzero()[:, 0].tolist() == sorted(best + equals[:10])


def test_only_rows_that_need_it_are_looked_at_more_widely():
    given = np.random.default_rng(0).standard_normal((6, 4000)).astype(np.float32)
    rows = torch.as_tensor(given)
    wanted = np.array([1, 63, 64, 200, 1, 999])
    seen = []

    def count(rows, ids, scores):
        assert np.array_equal(scores, given[rows[:, None], ids])
        seen.append((rows.tolist(), ids.shape[-1]))
        return wanted[rows]

    out = keep_first(rows, count)
    assert (out > NO).sum(-1).tolist() == wanted.tolist()
    assert seen == [([0, 1, 2, 3, 4, 5], 64), ([2, 3, 5], 256), ([5], 4000)]


def test_what_a_stage_found_changes_no_bit_for_the_next(monkeypatch):
    """Survivors that top_k has noted, and those that the next stages look for themselves."""
    rows = random_rows(12, 3000, seed=3)
    rows[2, 70:] = NO  # few from the start
    for names in itertools.permutations(["top_k", "top_p", "min_p"]):
        values = {"top_k": 90, "top_p": 0.97, "min_p": 0.001}
        chain = resolve_chain([{name: values[name]} for name in names], REGISTRY)
        places = [Place(chain, seed, 5 + seed) for seed in range(len(rows))]
        runner, logits = ChainRunner(chain), torch.as_tensor(rows)
        noted = runner.run(logits, places, VOCAB)
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "_note", lambda logits, ids, kept: None)
            alone = runner.run(logits, places, VOCAB)
        assert [one.token for one in noted] == [one.token for one in alone]
        assert all(torch.equal(a.final, b.final) for a, b in zip(noted, alone, strict=True))


def test_what_was_found_is_forgotten_when_somebody_writes_to_the_logits():
    out = keep_best(torch.as_tensor(random_rows(3, 3000, seed=1)), torch.full((3, 1), 5))
    assert ranking.survivors(out)[0].shape == (3, 6)
    out[0, 17] = 100.0
    assert ranking.survivors(out) is None
    assert kept(TopP, out[0], p=0.5) == {17}


@pytest.mark.parametrize("n", [2, 40, 63, 64, 65, 300])
def test_the_mass_of_a_row_does_not_depend_on_who_asks(n):
    """A row that has few tokens left: alone, among others, and as top_k leaves it."""
    rows = torch.as_tensor(random_rows(6, 3000, seed=n))
    cut = torch.full((6, 1), n)
    left = keep_best(rows, cut)
    for p in (0.1, 0.5, 0.9, 0.999):
        noted = TopP().apply(left, gather(TopP, 6, {"p": p}), None)
        for i in range(6):
            one = left[i : i + 1].clone()
            alone = TopP().apply(one, gather(TopP, 1, {"p": p}), None)
            assert torch.equal(noted[i : i + 1], alone)
            mixed = torch.cat((rows, one))
            among = TopP().apply(mixed, gather(TopP, 7, {"p": p}), None)
            assert torch.equal(among[6:], alone)


# XTC --------------------------------------------------------------------------------------------


def test_xtc_acts_where_the_coin_is_below_the_probability():
    rows = np.stack([P4] * 4)
    coins = torch.tensor([[0.1], [0.5], [0.3], [0.9]])
    out = run(XTC, rows, coins=coins, probability=[0.5, 0.5, 0.3, 1.0], threshold=0.15)
    acted = (out == NO).any(-1).tolist()
    assert acted == [True, False, bool(coins[2] < torch.tensor(0.3)), True]


def test_xtc_leaves_a_row_alone_that_would_lose_a_protected_token():
    rows = np.stack([P4] * 3)
    out = run(XTC, rows, [(3, 0), (0, 1), ()], probability=1.0, threshold=0.15)
    assert (out > NO).sum(-1).tolist() == [4, 2, 2]


class Lines:
    """A vocabulary of bytes, with one token for an empty line."""

    size, eos_ids, special_ids = 300, frozenset({299}), frozenset({299})

    def encode(self, text):
        if text == "\n\n":
            return [298]
        if "é" in text:
            raise RequestError("no token for 'é'")
        return list(text.encode())


def test_xtc_protects_what_ends_the_answer_and_the_newline():
    def state(stop_ids=(299,), **params):
        values = {"protect": XTC.params["protect"].default, **params}
        return XTC().init_state(RequestView((1,), values, Lines(), 7, frozenset(stop_ids)))

    assert state() == (10, 298, 299)
    assert state(protect=()) == (299,)
    assert state(protect=("a", "bc", "é"), stop_ids=()) == (97, 99)
    assert state(stop_ids=(10**6,)) == (10, 298)


def test_xtc_asks_a_coin_of_its_own_in_each_row():
    """Half of the rows act, each by its seed and position, wherever it stands in the batch."""
    n = 4000
    chain = resolve_chain([{"xtc": {"probability": 0.5, "threshold": 0.15}}], REGISTRY)
    places = [Place(chain, seed, 1 + at) for seed in range(40) for at in range(n // 40)]
    row = np.full(VOCAB.size, NO)
    row[100:104] = P4
    logits = torch.tensor(row, dtype=torch.float32).expand(n, -1)
    runner = ChainRunner(chain)
    acted = runner.process(logits, places, VOCAB)[:, 103] == NO
    assert abs(float(acted.float().mean()) - 0.5) < 4 * 0.5 / math.sqrt(n)
    backwards = runner.process(logits, places[::-1], VOCAB)
    assert torch.equal(backwards[:, 103] == NO, acted.flip(0))


# Mirostat ---------------------------------------------------------------------------------------


def observed(logprob, token=0):
    return Observed(token, 5, 2, logprob, math.nan, math.nan)


@pytest.mark.parametrize(
    "tau, mu, token, n_kept, surprise, new_mu",
    [(3.0, 6.0, 1, 8, 2.0, 6.1), (1.0, 2.0, 0, 2, 0.777608, 2.022239)],
)
def test_mirostat_by_hand(tau, mu, token, n_kept, surprise, new_mu):
    out = run(Mirostat, P8, [mu], tau=tau)[0]
    assert int((out > NO).sum()) == n_kept
    logprob = float(out.log_softmax(-1)[token])
    assert -logprob / math.log(2) == pytest.approx(surprise, abs=1e-5)
    p = Params({"tau": tau, "eta": 0.1, "version": 2, "m": 100})
    assert Mirostat().advance(mu, p, observed(logprob, token)) == pytest.approx(new_mu, abs=1e-5)


def test_mirostat_1_by_hand():
    s, k = oracle.zipf_count(P8, 2.0, 8)
    assert (s, k) == pytest.approx((0.989615, 1.915789), abs=1e-6)
    row = torch.tensor(P8, dtype=torch.float32)[None]
    mu, m = torch.tensor([[2.0 * math.log(2)]]).double(), torch.tensor([[8]])
    assert zipf_count(row, mu, m).tolist() == [[1]]
    assert kept(Mirostat, P8, states=[2.0], tau=1.0, version=1, m=8) == {0}
    bits = 2.0 + s * math.log2(4.5 / k)
    assert kept(Mirostat, P8, states=[bits], tau=1.0, version=1, m=8) == {0, 1, 2, 3}


def test_both_versions_in_one_batch():
    rows = np.stack([P8] * 3)
    out = run(Mirostat, rows, [2.0, 2.0, 3.5], tau=1.0, version=[1, 2, 1], m=8)
    k = int(oracle.zipf_count(P8, 3.5, 8)[1])
    assert k > 3
    assert (out > NO).sum(-1).tolist() == [1, 2, k]


def test_mirostat_begins_at_twice_tau():
    view = RequestView((1,), {"tau": 2.5}, Lines(), 7, frozenset())
    state = Mirostat().init_state(view)
    assert type(state) is float and state == 5.0
    assert Mirostat.state_from == "sample"


def test_mirostat_holds_the_surprise():
    """Over 3,000 tokens of one distribution the mean surprise comes to tau."""
    row = np.random.default_rng(0).standard_normal(2000) * 2.5
    p = Params({"tau": 4.0, "eta": 0.1, "version": 2, "m": 100})
    mu, total = 8.0, 0.0
    for i in range(3000):
        out = run(Mirostat, row, [mu], tau=4.0)
        token = int(Sample().apply(out, Params({}), Noisy([1], [i], 2000)))
        logprob = float(out.log_softmax(-1)[0, token])
        mu = Mirostat().advance(mu, p, observed(logprob, token))
        total += -logprob / math.log(2)
    assert total / 3000 == pytest.approx(4.0, abs=0.05)


# Pickers ----------------------------------------------------------------------------------------


class Noisy:
    """Rows with a seed and a position each."""

    def __init__(self, seeds, positions, size):
        self.seeds, self.positions, self.R, self.V = seeds, positions, len(seeds), size

    def noise(self, ids=None, stream=0):
        ids = np.arange(self.V) if ids is None else ids.numpy()
        return torch.as_tensor(uniform(self.seeds, stream, self.positions, ids))


def draw(weights, n, seed=7):
    logits = torch.as_tensor(np.log(weights), dtype=torch.float32).expand(n, -1)
    return Sample().apply(logits, Params({}), Noisy([seed] * n, range(n), len(weights)))


@pytest.mark.parametrize("trial", range(20))
def test_sample_follows_the_distribution(trial):
    """Chi-square of 200,000 draws, tokens that would come less than 10 times counted together."""
    rng = np.random.default_rng(trial)
    n, size = 200_000, int(rng.integers(2, 30))
    weights = np.sort(rng.dirichlet(np.full(size, rng.choice([0.2, 1.0, 10.0]))))
    counts = torch.bincount(draw(weights, n, seed=trial), minlength=size).numpy()
    rare = int((n * weights < 10).sum())
    want, got = n * weights, counts
    if rare:
        want = np.array([want[: rare + 1].sum(), *want[rare + 1 :]])
        got = np.array([got[: rare + 1].sum(), *got[rare + 1 :]])
    if len(want) > 1:
        chi2 = float(((got - want) ** 2 / want).sum())
        half = torch.tensor([(len(want) - 1) / 2, chi2 / 2], dtype=torch.float64)
        assert float(torch.special.gammaincc(half[0], half[1])) > 0.001


@pytest.mark.parametrize("n", [1, 30, 64, 65, 99, 300])
def test_a_draw_among_few_equals_the_draw_over_all(n):
    rng = np.random.default_rng(1)
    rows = np.full((50, 400), NO, np.float32)
    for row in rows:
        row[rng.choice(400, n, replace=False)] = rng.standard_normal(n)
    view = Noisy(range(50), range(50), 400)
    few = Sample().apply(torch.as_tensor(rows), Params({}), view)
    gumbel = -np.log(-np.log1p(-view.noise().double().numpy()))
    assert few.tolist() == (rows + gumbel).argmax(-1).tolist()


def test_a_lone_survivor_is_always_drawn():
    rows = torch.full((1000, 9), NO)
    rows[:, 4] = -50.0
    view = Noisy(range(1000), range(1000), 9)
    assert Sample().apply(rows, Params({}), view).tolist() == [4] * 1000


def test_greedy_takes_the_lowest_id_of_the_best():
    assert Greedy().apply(torch.tensor([[1.0, 5, 5], [2, 1, 0]]), Params({}), None).tolist() == [
        1,
        0,
    ]
