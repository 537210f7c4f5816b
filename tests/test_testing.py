"""The conformance kit: the bundled plugins pass it, and plugins with a real bug each do not."""

import pytest
import torch

from gptkit.plugin_api import Sampler, param
from gptkit.plugin_host import OURS, registry
from gptkit.testing import examine

REGISTRY = registry()
NO = float("-inf")
SEEDS = range(1, 6)


def bundled(kind):
    return [offer.value for offer in REGISTRY.offers(kind) if offer.source.distribution == OURS]


def codes(report):
    return {finding.code for finding in report.findings}


# Samplers with a bug that was seen in the wild ---------------------------------------------------


class Base(Sampler):
    """Keep tokens near the best, or so."""

    a = param(0.0, ge=0, le=1, off=0.0, help="how much of it")


class InPlace(Base):
    """Write into the input."""

    name = "in_place"

    def apply(self, logits, p, rows):
        logits[logits < logits.amax(-1, keepdim=True) + p.a.log()] = NO
        return logits


class BatchCoupled(Base):
    """Sum the entropy over the batch, as text-generation-webui's dynamic temperature did."""

    name = "batch_coupled"
    phase = "scale"

    def apply(self, logits, p, rows):
        probs = logits.softmax(-1)
        return logits / (1 + p.a * -(probs * probs.clamp_min(1e-30).log()).sum())


class FirstRowParam(Base):
    """Take the first row's parameter for all."""

    name = "first_row_param"

    def apply(self, logits, p, rows):
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + p.a[0].log(), NO)


class GlobalRng(Base):
    """Draw from the generator of everybody, as text-generation-webui's XTC did."""

    name = "global_rng"

    def apply(self, logits, p, rows):
        best = logits == logits.amax(-1, keepdim=True)
        many = (logits > NO).sum(-1, keepdim=True) > rows.V // 2
        return logits.masked_fill((torch.rand(rows.R, 1) < p.a) & best & many, NO)


class OneCoin(Base):
    """Throw one coin for the batch, as mlx-lm's XTC did."""

    name = "one_coin"

    def apply(self, logits, p, rows):
        below = logits < logits.amax(-1, keepdim=True)
        return logits.masked_fill((rows.uniform(1)[:1] < p.a) & below, NO)


class NanEntropy(Base):
    """Multiply 0 by -inf, as llama.cpp's typical did after a stage that forbids."""

    name = "nan_entropy"
    phase = "scale"

    def apply(self, logits, p, rows):
        lp = logits.log_softmax(-1)
        entropy = -(lp.exp() * lp).sum(-1, keepdim=True)
        return torch.where(p.a > 0, logits / (1 + entropy), logits)


class Resurrect(Base):
    """Take -1e4 for low enough."""

    name = "resurrect"

    def apply(self, logits, p, rows):
        return logits.clamp_min(-1e4)


class RawThreshold(Base):
    """Compare logits with a number."""

    name = "raw_threshold"

    def apply(self, logits, p, rows):
        low = (logits < p.a) & (logits < logits.amax(-1, keepdim=True))
        return logits.masked_fill(low, NO)


class Remembering(Base):
    """Keep fewer tokens by a number in the state."""

    state_from = "token"

    def init_state(self, request):
        return {"n": 1}

    def apply(self, logits, p, rows):
        reach = torch.tensor([[float(state["n"])] for state in rows.state])
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - reach, NO)

    def advance(self, state, p, observed):
        return {"n": 1 + observed.token % 5}


class StateInApply(Remembering):
    """Change the state while applying, as llama.cpp's mirostat did."""

    name = "state_in_apply"

    def apply(self, logits, p, rows):
        for state in rows.state:
            state["n"] += 1
        return super().apply(logits, p, rows)


class StateMutated(Remembering):
    """Change the old state, so that nobody can go back to it."""

    name = "state_mutated"

    def advance(self, state, p, observed):
        state["n"] = 1 + observed.token % 5
        return state


class SelfState(Base):
    """Count on the instance, which all requests share (vLLM 5329)."""

    name = "self_state"
    phase = "scale"

    def __init__(self):
        self.n = 0

    def apply(self, logits, p, rows):
        self.n += 1
        return logits / (1 + 0.1 * self.n * p.a)


class SlotState(Base):
    """Remember by the number of the row, which is another request's at the next step."""

    name = "slot_state"
    phase = "scale"

    def __init__(self):
        self.first = {}

    def apply(self, logits, p, rows):
        lengths = [float(self.first.setdefault(r, len(rows.tokens(r)))) for r in range(rows.R)]
        return logits / (1 + torch.tensor(lengths)[:, None] * p.a)


class Float64(Base):
    """Return another type."""

    name = "float64"

    def apply(self, logits, p, rows):
        return logits.double()


class Empties(Base):
    """Compare strictly, so that at the end of the range nothing is left."""

    name = "empties"

    def apply(self, logits, p, rows):
        return logits.masked_fill(logits <= logits.amax(-1, keepdim=True) + p.a.log() + 0.4, NO)


class MaxLen(Base):
    """Depend on the longest neighbour, as padding does."""

    name = "max_len"
    phase = "scale"

    def apply(self, logits, p, rows):
        return logits / (1 + p.a * max(len(rows.tokens(r)) for r in range(rows.R)))


class Unpicklable(Remembering):
    """Keep a function in the state."""

    name = "unpicklable"

    def init_state(self, request):
        return {"n": 1, "f": None}

    def advance(self, state, p, observed):
        return {"n": 1, "f": lambda: 0}


class Fp32Entropy(Base):
    """Add up in float32, whose last bits depend on the number of rows."""

    name = "fp32_entropy"
    phase = "scale"

    def apply(self, logits, p, rows):
        lp = logits.log_softmax(-1)
        entropy = -(lp.exp() * lp.clamp_min(-1e30)).sum(-1, keepdim=True)
        return logits / (1 + p.a * entropy)


class Slow(Base):
    """Loop over the vocabulary in Python."""

    name = "slow"

    def apply(self, logits, p, rows):
        copies = [[float(x) for x in row] for row in logits.tolist() for _ in range(8)]
        return torch.tensor(copies)[::8].contiguous()


MUTANTS = {
    InPlace: "C2",
    BatchCoupled: "C7",
    FirstRowParam: "C7",
    GlobalRng: "C6",
    OneCoin: "C7",
    NanEntropy: "C3",
    Resurrect: "C4",
    RawThreshold: "C8",
    StateInApply: "C6",
    StateMutated: "C10",
    SelfState: "C6",
    SlotState: "C11",
    Float64: "C3",
    Empties: "C5",
    MaxLen: "C7",
    Unpicklable: "C10",
    Fp32Entropy: "C12",
    Slow: "C13",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda cls: cls.__name__)
def test_a_bug_is_caught(mutant):
    assert MUTANTS[mutant] in codes(examine(mutant))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda cls: cls.__name__)
def test_a_bug_is_caught_whatever_is_tried(mutant, seed):
    assert MUTANTS[mutant] in codes(examine(mutant, seed=seed))
