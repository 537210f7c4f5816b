"""Each bundled stage against its definition, the values worked by hand, and transformers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gptkit.decoding.noise import uniform
from gptkit.plugin_api import Params
from gptkit_plugins.samplers.greedy import Greedy
from gptkit_plugins.samplers.sample import Sample
from gptkit_plugins.samplers.temperature import Temperature
from gptkit_plugins.samplers.top_k import TopK
from gptkit_plugins.samplers.top_p import TopP
from tests.plugins import oracle

NO = float("-inf")
P4 = np.log([0.1, 0.2, 0.3, 0.4])


def run(sampler, logits, **values):
    """Apply one stage to rows with the same values for all of them."""
    logits = torch.as_tensor(np.atleast_2d(logits), dtype=torch.float32)
    n = len(logits)
    columns = {key: torch.tensor([[v]] * n) for key, v in values.items()}
    before = logits.clone()
    out = sampler().apply(logits, Params(columns), SimpleNamespace(R=n, V=logits.shape[1]))
    assert torch.equal(logits, before), "a stage writes into its input"
    return out


def probs(sampler, logits, **values):
    return run(sampler, logits, **values).softmax(-1)[0].tolist()


@pytest.mark.parametrize(
    "t, want",
    [
        (0.0, [0, 0, 0, 1]),
        (0.5, [0.033333, 0.133333, 0.3, 0.533333]),
        (2.0, [0.1627, 0.230093, 0.281805, 0.325401]),
    ],
)
def test_temperature_by_hand(t, want):
    assert probs(Temperature, P4, t=t) == pytest.approx(want, abs=1e-5)


def test_temperature_zero_takes_the_lowest_id_of_equals():
    assert probs(Temperature, [1.0, 3.0, 3.0], t=0.0) == [0, 1, 0]


def test_a_tiny_temperature_stays_finite_and_is_greedy():
    assert probs(Temperature, P4 * 1e4, t=1e-30) == [0, 0, 0, 1]


def test_rows_have_temperatures_of_their_own():
    p = Params({"t": torch.tensor([[0.0], [2.0], [1.0]])})
    logits = torch.tensor(P4, dtype=torch.float32).expand(3, 4)
    out = Temperature().apply(logits, p, None).softmax(-1)
    assert out[0].tolist() == [0, 0, 0, 1]
    assert out[1].tolist() == pytest.approx([0.1627, 0.230093, 0.281805, 0.325401], abs=1e-5)
    assert torch.equal(out[2], logits[2].softmax(-1))


@pytest.mark.parametrize(
    "k, want",
    [(3, [0, 0.222222, 0.333333, 0.444444]), (1, [0, 0, 0, 1]), (9, [0.1, 0.2, 0.3, 0.4])],
)
def test_top_k_by_hand(k, want):
    assert probs(TopK, P4, k=k) == pytest.approx(want, abs=1e-5)


def test_top_k_keeps_exactly_k_by_the_lower_id():
    kept = run(TopK, np.log([0.3, 0.3, 0.2, 0.2]), k=3)[0] > NO
    assert kept.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    "p, kept",
    [
        (0.35, {3}),
        (0.69, {2, 3}),
        (0.71, {1, 2, 3}),
        (0.8, {1, 2, 3}),
        (0.91, {0, 1, 2, 3}),
        (0.0, {3}),
    ],
)
def test_top_p_by_hand(p, kept):
    assert set((run(TopP, P4, p=p)[0] > NO).nonzero()[:, 0].tolist()) == kept


def test_top_p_at_a_tie_keeps_the_lower_ids():
    assert (run(TopP, np.zeros(4), p=0.5)[0] > NO).tolist() == [True, True, False, False]


def test_top_k_then_top_p_is_sequential():
    after = run(TopP, run(TopK, P4, k=2), p=0.5)[0]
    assert (after > NO).tolist() == [False, False, False, True]


def random_rows(n, size, seed):
    """Return rows with ties, forbidden tokens, subnormals and extremes."""
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n, size)) * rng.choice([0.1, 2, 8], (n, 1))).astype(np.float32)
    rows[::3] = np.round(rows[::3], 1)  # ties
    forbidden = rng.random((n, size)) < 0.4
    forbidden[np.arange(n), rng.integers(0, size, n)] = False
    rows[1::3][forbidden[1::3]] = NO
    rows[2::7, 0] = 1e-42
    return rows


@pytest.mark.parametrize("size", [1, 2, 7, 300, 5003])
@pytest.mark.parametrize(
    "name, values", [("top_k", [1, 2, 5, 200]), ("top_p", [0.0, 0.3, 0.9, 0.999])]
)
def test_truncation_equals_the_oracle(size, name, values):
    sampler, key = {"top_k": (TopK, "k"), "top_p": (TopP, "p")}[name]
    rows = random_rows(60, size, seed=size)
    for value in values:
        got = run(sampler, rows, **{key: value}).numpy()
        for row, out in zip(rows, got, strict=True):
            want = getattr(oracle, name)(row, value)
            if not np.array_equal(out, want):  # only where the cut falls on a partial sum
                assert name == "top_p"
                n = min(int((out > NO).sum()), int((want > NO).sum()))
                mass = np.sort(oracle.softmax(row))[::-1][:n].sum()
                assert mass == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [50257, 50304])
def test_truncation_equals_the_oracle_at_full_size(size):
    rows = random_rows(40, size, seed=size)
    for value in (1, 40, 5000):
        got = run(TopK, rows, k=value).numpy()
        for row, out in zip(rows, got, strict=True):
            assert np.array_equal(out, oracle.top_k(row, value))


def test_equals_transformers_where_there_are_no_ties():
    transformers = pytest.importorskip("transformers")
    rows = np.random.default_rng(3).standard_normal((200, 97)).astype(np.float32) * 3
    theirs = torch.as_tensor(rows)
    for k in (1, 5, 50):
        want = transformers.TopKLogitsWarper(k)(None, theirs)
        assert torch.equal(run(TopK, rows, k=k), want)
    for p in (0.2, 0.5, 0.95):
        want = transformers.TopPLogitsWarper(p)(None, theirs)
        assert torch.equal(run(TopP, rows, p=p), want)
    want = transformers.TemperatureLogitsWarper(0.7)(None, theirs)
    assert torch.equal(run(Temperature, rows, t=0.7), want)


def test_each_row_is_alone_bit_for_bit():
    rows = torch.as_tensor(random_rows(32, 3001, seed=5))
    settings = {
        Temperature: {"t": torch.rand(32, 1) + 0.1},
        TopK: {"k": torch.randint(1, 90, (32, 1))},
        TopP: {"p": torch.rand(32, 1)},
    }
    for sampler, columns in settings.items():
        view = SimpleNamespace(R=32, V=3001)
        together = sampler().apply(rows, Params(columns), view)
        for i in range(32):
            one = {key: column[i : i + 1] for key, column in columns.items()}
            alone = sampler().apply(rows[i : i + 1], Params(one), SimpleNamespace(R=1, V=3001))
            assert torch.equal(alone[0], together[i])


class Noisy:
    """Rows with a seed and a position each."""

    def __init__(self, seeds, positions, size):
        self.seeds, self.positions, self.R, self.V = seeds, positions, len(seeds), size

    def noise(self, ids=None, stream=0):
        ids = np.arange(self.V) if ids is None else ids.numpy()
        return torch.as_tensor(uniform(self.seeds, stream, self.positions, ids))


def draw(weights, n, seed=7):
    logits = torch.as_tensor(np.log(weights), dtype=torch.float32).expand(n, -1)
    return Sample().apply(logits, Params({}), Noisy(np.full(n, seed), np.arange(n), len(weights)))


def test_sample_follows_the_distribution():
    """Chi-square over 20 distributions; the bound is that of p = 0.001 for 20 tests together."""
    rng = np.random.default_rng(0)
    n = 20_000
    for trial in range(20):
        size = int(rng.integers(2, 12))
        weights = rng.dirichlet(np.ones(size))
        counts = torch.bincount(draw(weights, n, seed=trial), minlength=size).numpy()
        chi2 = float(((counts - n * weights) ** 2 / (n * weights)).sum())
        assert chi2 < size - 1 + 5 * np.sqrt(2 * (size - 1)) + 8


def test_a_draw_among_few_equals_the_draw_over_all():
    rng = np.random.default_rng(1)
    rows = np.full((50, 400), NO, np.float32)
    for row in rows:
        row[rng.choice(400, 30, replace=False)] = rng.standard_normal(30)
    view = Noisy(np.arange(50), np.arange(50), 400)
    few = Sample().apply(torch.as_tensor(rows), Params({}), view)
    gumbel = -np.log(-np.log1p(-view.noise().double().numpy()))
    assert few.tolist() == (rows + gumbel).argmax(-1).tolist()


def test_a_lone_survivor_is_always_drawn():
    rows = torch.full((1000, 9), NO)
    rows[:, 4] = -50.0
    view = Noisy(np.arange(1000), np.arange(1000), 9)
    assert Sample().apply(rows, Params({}), view).tolist() == [4] * 1000


def test_greedy_takes_the_lowest_id_of_the_best():
    assert Greedy().apply(torch.tensor([[1.0, 5, 5], [2, 1, 0]]), Params({}), None).tolist() == [
        1,
        0,
    ]
