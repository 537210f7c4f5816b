"""The conformance kit: the bundled plugins pass it, and plugins with a real bug each do not."""

import os
import random
import subprocess
import sys
from array import array
from dataclasses import replace

import pytest
import torch

from gptkit.chat.commands import choices
from gptkit.decoding.engine import Engine
from gptkit.decoding.request import Draft, Request, Stage, Stops
from gptkit.model.forward import Span
from gptkit.plugin_api import (
    ChatTemplate,
    Command,
    ConfigError,
    Drafter,
    PluginError,
    RequestError,
    Sampler,
    Say,
    Segment,
    Stop,
    StoppingCriterion,
    Strategy,
    Template,
    Tokenizer,
    param,
)
from gptkit.plugin_host import OURS, discover, load, registry
from gptkit.testing import (
    ConformanceError,
    check_command,
    check_drafter,
    check_sampler,
    check_stopping,
    check_strategy,
    check_template,
    check_tokenizer,
    examine,
    imports,
    schedules,
    values,
)
from gptkit.testing.model import TableModel, tokenizer, vocab
from gptkit.testing.pickers import chance
from tests import makers

PACKAGE = str(makers.SAMPLER_FIXTURE)
REGISTRY = registry()
NO = float("-inf")
SEEDS = range(1, 6)


def bundled(kind):
    return [offer.value for offer in REGISTRY.offers(kind) if offer.source.distribution == OURS]


def codes(report):
    return {finding.code for finding in report.findings}


# Samplers with a bug that was seen in the wild --------------------------------------------------


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
        copies = [[float(x) for x in row] for row in logits.tolist() for _ in range(16)]
        return torch.tensor(copies)[::16].contiguous()


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


# What the kit is made of ------------------------------------------------------------------------


def test_values_are_legal_and_on():
    rng = random.Random(0)
    for kind in ("sampler", "stopping", "drafter", "strategy"):
        for plugin in bundled(kind):
            for _ in range(50):
                given = values.choose(plugin, rng, 300)
                for key, declared in plugin.params.items():
                    assert declared.check(key, given[key]) == given[key]
                assert not values.stands_off(plugin, given)


def test_values_without_a_range_stay_near():
    class Open(Sampler):
        """Has no ends."""

        name = "open_ends"
        x = param(0.0, help="any number")
        n = param(1, gt=0, help="any count")
        k = param(2, ge=0, lt=5, off=0, help="few")

        def apply(self, logits, p, rows):
            return logits

    rng = random.Random(1)
    seen = [values.choose(Open, rng, 300) for _ in range(300)]
    assert all(-3 <= one["x"] <= 3 and 1 <= one["n"] <= 14 for one in seen)
    assert {one["k"] for one in seen} == {1, 2, 3, 4}
    assert [values.ends(Open.params[key]) for key in "xnk"] == [[-1000, 1000], [1, 1001], [0, 4]]


def test_the_table_model_knows_the_last_three_tokens_and_no_neighbours():
    model = TableModel()
    cache = model.new_cache(2)
    alone = model.step([5, 6, 7, 8], [Span(0, 0, 4)], cache, [3])
    both = model.step([1, 2, 6, 7, 8], [Span(1, 0, 2), Span(0, 1, 3)], cache, [1, 4])
    assert torch.equal(both[1], alone[0]) and not torch.equal(both[0], alone[0])
    hidden = model.hidden([6, 7, 8], [Span(0, 1, 3)], cache)
    assert torch.equal(model.head(hidden, [2]), alone)
    cache.copy(0, 1, 0, 2)
    assert torch.equal(model.step([7, 8], [Span(1, 2, 2)], cache, [1]), alone)
    shared = [Span(1, 3, 1, trunk=0, shared=3)]
    assert torch.equal(model.step([8], shared, cache, [0]), alone)


def test_the_guessers_draft_and_are_often_right():
    """An oracle that never hits, or garbage that never comes, would test nothing."""
    chain = (Stage(schedules.Draw.name, schedules.Draw, {}),)
    request = Request((97, 98), chain, Stops(max_new_tokens=40), 3)
    plain = schedules.alone(request)
    oracle = schedules.Oracle({request.prompt_ids: plain.tokens})
    engine = Engine(TableModel(), tokenizer(), vocab().eos_ids)
    events = list(engine.stream(replace(request, draft=Draft(lambda: oracle, 4, {}))))
    assert [event.token_id for event in events] == plain.tokens
    assert 10 < events[-1].n_accepted < events[-1].n_drafted


def test_chi_square_against_its_table():
    table = {(3.841, 1): 0.05, (18.307, 10): 0.05, (31.264, 11): 0.001, (10.341, 11): 0.5}
    for (statistic, degrees), wanted in table.items():
        assert chance(statistic, degrees) == pytest.approx(wanted, rel=0.1)


# The report -------------------------------------------------------------------------------------


def test_a_report_lists_checks_costs_and_what_was_skipped():
    report = examine(REGISTRY.find("sampler", "top_k").value)
    assert (report.name, report.kind, report.ok) == ("top_k", "sampler", True)
    assert report.summary.startswith("Keep the k most likely tokens")
    run = {code for code, _, _ in report.checks_run}
    assert {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10", "C11", "C12"} <= run
    assert {"C13", "C20", "C21", "C22"} <= run
    assert all(title and seconds >= 0 for _, title, seconds in report.checks_run)
    assert {"1 row, ms", "64 rows, ms", "import, ms"} <= set(report.costs)
    if not torch.cuda.is_available():
        assert ("C14", "no host-device sync in a step", "there is no CUDA device") in report.skipped


def test_the_error_lists_all_findings_one_a_line():
    with pytest.raises(ConformanceError) as caught:
        check_sampler(Empties)
    first, *lines = str(caught.value).splitlines()
    assert first == "sampler 'empties' does not conform:"
    assert {line.split()[1] for line in lines} == {"C5:", "C9:", "C21:"}
    assert all(line.startswith("  error C") for line in lines)


def test_what_a_plugin_raises_is_a_finding_with_its_line():
    class Raises(Base):
        """Divide by zero."""

        name = "raises"

        def apply(self, logits, p, rows):
            return 1 // 0

    (finding,) = examine(Raises).findings
    assert finding.code == "C0" and "ZeroDivisionError" in finding.message
    assert "test_testing.py)" in finding.message


def test_a_plugin_that_exits_is_a_finding_too():
    class Exits(Base):
        """Give up."""

        name = "exits"

        def apply(self, logits, p, rows):
            sys.exit(3)

    assert "SystemExit: 3" in examine(Exits).findings[0].message


def test_nothing_else_is_examined():
    top_k = REGISTRY.find("sampler", "top_k").value
    for other in (object, 3, top_k(), "top_k"):
        with pytest.raises(PluginError, match="no plugin that the kit can examine"):
            examine(other)


# More samplers ----------------------------------------------------------------------------------


class AtTheEnd(Base):
    """Divide by nothing at the end of the range."""

    name = "at_the_end"
    phase = "scale"

    def apply(self, logits, p, rows):
        return logits / (1 - p.a)


class Ends(Remembering):
    """End every answer, even where it is off."""

    name = "ends"

    def advance(self, state, p, observed):
        return {"n": state["n"] + 1}

    def is_done(self, state):
        return state["n"] > 4


class Forgetful(Base):
    """Have a memory that nobody asks for."""

    name = "forgetful"

    def apply(self, logits, p, rows):
        return logits

    def advance(self, state, p, observed):
        return state


class WrongExample(Base):
    """Give an example out of the range."""

    name = "wrong_example"
    b = param(0.5, ge=0, le=1, examples=(2.0,), help="not that much")

    def apply(self, logits, p, rows):
        return logits


class Picker(Sampler):
    """Pick the best."""

    phase = "pick"

    def apply(self, logits, p, rows):
        return logits.argmax(-1)


class Worst(Picker):
    """Pick what is least likely, forbidden or not."""

    name = "worst"

    def apply(self, logits, p, rows):
        return logits.argmin(-1)


class Column(Picker):
    """Return ids [R, 1]."""

    name = "column"

    def apply(self, logits, p, rows):
        return logits.argmax(-1, keepdim=True)


class Multinomial(Picker):
    """Draw from the generator of everybody."""

    name = "multinomial"

    def apply(self, logits, p, rows):
        return logits.softmax(-1).multinomial(1)[:, 0]


class Hot(Picker):
    """Draw at twice the temperature, and say nothing of it."""

    name = "hot"

    def apply(self, logits, p, rows):
        return (logits / 2 - (-(-rows.noise().double()).log1p()).log()).argmax(-1)


class Near(Base):
    """Keep what is near the best."""

    def apply(self, logits, p, rows):
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - 4 * p.a, NO)

    def near(self, short, p):
        (least,) = array("f", [short.logits[0] - 4 * p.a])
        return [logit for logit in short.logits if logit >= least]


class Equal(Near):
    """Do what it says to shortlists too."""

    name = "equal"
    shorten = Near.near


class Nearer(Near):
    """Keep less of a shortlist."""

    name = "nearer"

    def shorten(self, short, p):
        return [logit for logit in self.near(short, p) if logit >= short.logits[0] - 2 * p.a]


class Further(Near):
    """Keep a part of what is left, and say that this is all."""

    name = "further"

    def shorten(self, short, p):
        near = self.near(short, p)
        return near[: max(1, len(near) - 1)]


class Scaled(Near):
    """Scale the logits of a shortlist."""

    name = "scaled"

    def shorten(self, short, p):
        return [logit / 2 for logit in self.near(short, p)]


class Writes(Near):
    """Write into a shortlist."""

    name = "writes"

    def shorten(self, short, p):
        short.logits[:] = self.near(short, p)
        return short.logits


class OfTuples(Near):
    """Return a tuple."""

    name = "of_tuples"

    def shorten(self, short, p):
        return tuple(self.near(short, p))


class Boaster(Equal):
    """Leave more than it says."""

    name = "boaster"

    def most_left(self, p):
        return 1


class Fraction(Equal):
    """Leave two and a half."""

    name = "fraction"

    def most_left(self, p):
        return 2.5


class Unheard(Near):
    """Say how many are left, where nobody asks."""

    name = "unheard"

    def most_left(self, p):
        return 10**6


class Silent(Near):
    """Know nothing of any shortlist."""

    name = "silent"

    def shorten(self, short, p):
        return None


class Second(Picker):
    """Pick the best, or of a shortlist the second."""

    name = "second"

    def apply(self, logits, p, rows):
        return logits.argmax(-1)

    def shorten(self, short, p):
        return min(1, len(short.logits) - 1)


class Truth(Second):
    """Pick by a truth."""

    name = "truth"

    def shorten(self, short, p):
        return False


def test_a_shortlist_that_is_right_is_fine():
    assert "C23" not in codes(examine(Equal))


@pytest.mark.parametrize(
    "mutant, code",
    {
        Nearer: "C23",
        Further: "C23",
        Scaled: "C23",
        Writes: "C23",
        OfTuples: "C23",
        Boaster: "C23",
        Fraction: "C23",
        Unheard: "C23",
        Silent: "C23",
        Second: "C23",
        Truth: "C23",
        AtTheEnd: "C21",
        Ends: "C22",
        Forgetful: "C1",
        WrongExample: "C1",
        Worst: "C4",
        Column: "C3",
        Multinomial: "C6",
        Hot: "C18",
    }.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_bug_of_another_sort_is_caught(mutant, code):
    assert code in codes(examine(mutant))


def test_a_picker_that_draws_otherwise_is_only_warned():
    report = examine(Hot)
    assert codes(report) == {"C18"} and report.ok


@pytest.mark.gpu
def test_waiting_for_the_device_is_counted():
    class Waits(Base):
        """Ask the device for a number."""

        name = "waits"

        def apply(self, logits, p, rows):
            return logits if bool((p.a > 2).any()) else logits + 0

    report = examine(Waits)
    assert codes(report) == {"C14"} and report.ok
    assert report.costs["host-device syncs"] == 1


def test_a_module_that_imports_torch_is_caught(tmp_path):
    file = tmp_path / "hasty_sampler.py"
    code = "import torch\nfrom gptkit.plugin_api import Sampler, hookimpl\n"
    code += 'class Hasty(Sampler):\n    """Pick the best."""\n    name = "hasty"\n'
    code += '    phase = "pick"\n'
    code += "    def apply(self, logits, p, rows):\n        return torch.argmax(logits, -1)\n"
    code += "@hookimpl\ndef gptkit_samplers():\n    yield Hasty\n"
    file.write_text(code)
    (loaded,) = load(discover(entry_points=(), files=[str(file)]))
    report = examine(loaded.offers[0].value)
    assert codes(report) == {"C20"}
    file.write_text(
        code.replace("import torch\n", "").replace("torch.argmax(logits,", "logits.argmax(")
    )
    (loaded,) = load(discover(entry_points=(), files=[str(file)]))
    imports._imported.cache_clear()
    check_sampler(loaded.offers[0].value)


# Tokenizers -------------------------------------------------------------------------------------


class Bytes(Tokenizer):
    """Bytes, and one control token."""

    name = "bytes_of_utf8"

    def __init__(self, special=("<|end|>",)):
        self.special = {name: 256 + i for i, name in enumerate(special)}

    @property
    def vocab_size(self):
        return 256 + len(self.special)

    def encode_ordinary(self, text):
        try:
            return list(text.encode())
        except UnicodeEncodeError as error:
            raise RequestError(f"no character at {error.start}") from None

    def token_bytes(self, token_id):
        if not 0 <= token_id < self.vocab_size:
            raise RequestError(f"no id {token_id}")
        return bytes([token_id]) if token_id < 256 else b""

    def save(self, folder):
        (folder / "special").write_text("\n".join(self.special))

    @classmethod
    def load(cls, path):
        return cls((path / "special").read_text().split("\n")) if path else cls()

    @classmethod
    def train(cls, texts, *, vocab_size=None, special=()):
        return cls(special)


class Lower(Bytes):
    """Lose capitals."""

    name = "lower"

    def encode_ordinary(self, text):
        return super().encode_ordinary(text.lower())


class Leaks(Bytes):
    """Take text for a control token."""

    name = "leaks"

    def encode_ordinary(self, text):
        ids = []
        for i, part in enumerate(text.split("<|end|>")):
            ids += ([self.special["<|end|>"]] if i and "<|end|>" in self.special else []) + list(
                super().encode_ordinary(part)
            )
        return ids

    def decode(self, token_ids):
        return super().decode(token_ids)


class WholeCharacters(Bytes):
    """Decode each byte by itself."""

    name = "whole_characters"

    def token_bytes(self, token_id):
        return super().token_bytes(token_id).decode("utf-8", "replace").encode()

    def decode(self, token_ids):
        return b"".join(map(super().token_bytes, token_ids)).decode("utf-8", "replace")


class Quadratic(Bytes):
    """Copy the rest of the text at each step."""

    name = "quadratic"

    def encode_ordinary(self, text):
        data, ids = text.encode("utf-8", "replace"), []
        while data:
            ids.append(data[0])
            data = data[1:]
        return ids


class Unsaved(Bytes):
    """Forget the control tokens in the file."""

    name = "unsaved"

    def save(self, folder):
        (folder / "special").write_text("<|other|>")


class Moody(Bytes):
    """Learn another order each time."""

    name = "moody"
    n_trained = 0

    @classmethod
    def train(cls, texts, *, vocab_size=None, special=()):
        cls.n_trained += 1
        return cls(special if cls.n_trained % 2 else special[::-1])


class Negative(Bytes):
    """Take -1 for the last id."""

    name = "negative"

    def token_bytes(self, token_id):
        return ([bytes([i]) for i in range(256)] + [b""] * len(self.special))[token_id]


class NotBytes(Bytes):
    """Give text for bytes."""

    name = "not_bytes"

    def token_bytes(self, token_id):
        return chr(token_id)


class Surprised(Bytes):
    """Raise what Python raises."""

    name = "surprised"

    def encode_ordinary(self, text):
        return list(text.encode())


@pytest.mark.parametrize(
    "mutant, code",
    {
        Lower: "T2",
        Leaks: "T2",
        WholeCharacters: "T4",
        Quadratic: "T8",
        Unsaved: "T7",
        Moody: "T9",
        Negative: "T4",
        NotBytes: "T4",
        Surprised: "T6",
    }.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_tokenizer_with_a_bug_is_caught(mutant, code):
    assert code in codes(examine(mutant))


def test_a_leak_that_comes_back_as_text_is_caught_too():
    class Deep(Leaks):
        """Give the control token the bytes of its name."""

        name = "deep"

        def decode(self, token_ids):
            parts = [b"<|end|>" if i == 257 else self.token_bytes(i) for i in token_ids]
            return b"".join(parts).decode("utf-8", "replace")

    assert codes(examine(Deep(("<|user|>", "<|end|>")))) & {"T4", "T5"}


def test_good_tokenizers_pass_as_classes_and_built():
    check_tokenizer(Bytes)
    check_tokenizer(Bytes(("<|a|>", "<|b|>")))
    for cls in bundled("tokenizer"):
        check_tokenizer(cls)
    texts = ["to be, or not to be", "that is the question"]
    whitespace = REGISTRY.find("tokenizer", "whitespace").value
    check_tokenizer(whitespace.train(texts, special=("<|end|>",)))


def test_a_tokenizer_that_needs_a_file_is_not_refused():
    class Closed(Bytes):
        """Need a file."""

        name = "closed"
        train = Tokenizer.train

        @classmethod
        def load(cls, path):
            if path is None:
                raise ConfigError("a path is needed")
            return super().load(path)

    report = examine(Closed)
    assert report.ok and "built" in report.findings[0].message
    check_tokenizer(Closed())


# Stopping ---------------------------------------------------------------------------------------


class Words(StoppingCriterion):
    """End at a word."""

    word = param("end", examples=("end", " the"), help="the word")

    def init_state(self, request):
        return b"", request.params["word"].encode()

    def push(self, state, token_id, data, n_out):
        seen, word = state
        text = seen + data
        place = text.find(word)
        if place >= 0:
            return (b"", word), Stop("word", cut_bytes=len(text) - place)
        held = max(n for n in range(len(word)) if text.endswith(word[:n]))
        return (text[len(text) - held :], word), Stop(hold_bytes=held)


class Holds(Words):
    """Hold back what may become the word: the one that is right."""

    name = "holds"


class Shows(Words):
    """Hold back nothing."""

    name = "shows"

    def push(self, state, token_id, data, n_out):
        state, stop = super().push(state, token_id, data, n_out)
        return state, stop if stop.reason else None


class OneToken(Words):
    """Look at each token alone."""

    name = "one_token"

    def push(self, state, token_id, data, n_out):
        return super().push((b"", state[1]), token_id, data, n_out)


class OnSelf(Words):
    """Remember on the instance."""

    name = "on_self"

    def init_state(self, request):
        self.seen, self.word = super().init_state(request)

    def push(self, state, token_id, data, n_out):
        (self.seen, self.word), stop = super().push((self.seen, self.word), token_id, data, n_out)
        return None, stop


class InList(Words):
    """Change the old state."""

    name = "in_list"

    def init_state(self, request):
        return list(super().init_state(request))

    def push(self, state, token_id, data, n_out):
        new, stop = super().push(state, token_id, data, n_out)
        state[:] = new
        return state, stop


class HoldsTooMuch(Words):
    """Hold back more than there is."""

    name = "holds_too_much"

    def push(self, state, token_id, data, n_out):
        state, stop = super().push(state, token_id, data, n_out)
        return state, stop if stop.reason else Stop(hold_bytes=1000)


class NoPair(Words):
    """Return the Stop alone."""

    name = "no_pair"

    def push(self, state, token_id, data, n_out):
        return Stop()


@pytest.mark.parametrize(
    "mutant, code",
    {
        Shows: "S6",
        OneToken: "S5",
        OnSelf: "S3",
        InList: "S4",
        HoldsTooMuch: "S2",
        NoPair: "C0",
    }.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("seed", range(3))
def test_a_criterion_with_a_bug_is_caught(mutant, code, seed):
    assert code in codes(examine(mutant, seed=seed))


@pytest.mark.parametrize("criterion", [Holds, *bundled("stopping")], ids=lambda cls: cls.name)
def test_criteria_pass(criterion):
    check_stopping(criterion)


def test_only_what_reads_text_is_cut_into_tokens_in_other_ways():
    skipped = [
        {code for code, _, _ in examine(REGISTRY.find("stopping", name).value).skipped}
        for name in ("tokens", "strings")
    ]
    assert "S5" in skipped[0] and "S5" not in skipped[1]


# Templates --------------------------------------------------------------------------------------


class Lines(Template):
    """Ask in lines."""

    name = "lines"
    output = "answer"
    inputs = frozenset({"question"})

    def head(self):
        return (Segment("Answer.\n\n"),)

    def example(self, fields):
        try:
            return (Segment(f"Q: {fields['question']}\nA: {fields['answer']}\n\n"),)
        except KeyError as error:
            raise ConfigError(f"{error} is missing") from None

    def item(self, fields):
        try:
            return (Segment(f"Q: {fields['question']}\nA:"),)
        except KeyError as error:
            raise ConfigError(f"{error} is missing") from None

    @property
    def stops(self):
        return (Segment("\n\n"),)


class Tells(Lines):
    """Put the answer into the prompt."""

    name = "tells"

    def item(self, fields):
        return (Segment(f"Q: {fields['question']}\nA: {fields.get('answer', '')}"),)


class Blank(Lines):
    """Leave a blank where a field is missing."""

    name = "blank"

    def item(self, fields):
        return (Segment(f"Q: {fields.get('question', '')}\nA:"),)


class Undeclared(Lines):
    """Need a field that it does not name."""

    name = "undeclared"
    inputs = frozenset()


class Endless(Lines):
    """Stop at what never comes."""

    name = "endless"
    stops = (Segment("###"),)


class Strings(Lines):
    """Return texts."""

    name = "strings_only"

    def head(self):
        return "Answer.\n\n"


class Obeys(Lines):
    """Take a control token from a text."""

    name = "obeys"

    def item(self, fields):
        before, _, after = super().item(fields)[0].text.partition("<|user|>")
        return (
            (Segment(before), Segment("<|user|>", control=True), Segment(after))
            if after
            else (Segment(before),)
        )


class Turns(ChatTemplate):
    """Talk in turns."""

    name = "turns"

    def head(self, system):
        return (Segment(system + "\n"),) if system else ()

    def turn(self, role, text):
        if role == "user":
            return (Segment("<|user|>", control=True), Segment(text))
        return (*self.reply(), Segment(text), *self.stops)

    def reply(self):
        return (Segment("<|assistant|>", control=True),)

    @property
    def stops(self):
        return (Segment("<|end|>", control=True),)


class Mismatched(Turns):
    """Open an answer in another way than a turn."""

    name = "mismatched"

    def reply(self):
        return (Segment("Assistant:"),)

    def turn(self, role, text):
        return Turns().turn(role, text)


class Silent(Turns):
    """Stop at nothing."""

    name = "silent"
    stops = ()


@pytest.mark.parametrize(
    "mutant, code",
    {
        Tells: "P4",
        Blank: "P3",
        Undeclared: "P3",
        Endless: "P5",
        Strings: "P2",
        Obeys: "P6",
        Mismatched: "P4",
        Silent: "P5",
    }.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_template_with_a_bug_is_caught(mutant, code):
    assert code in codes(examine(mutant))


def test_templates_pass():
    for template in (Lines, Turns, *bundled("template")):
        check_template(template)
    assert examine(REGISTRY.find("template", "qa").value).name == "qa"


def test_a_template_file_that_is_wrong_is_a_finding(tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text('item: "Q: $question"\noutput: answer\n')
    assert codes(examine(file)) == {"C0"}


# Drafters and strategies ------------------------------------------------------------------------


class Greedy(Drafter):
    """Propose more than was asked for."""

    name = "greedy_drafter"

    def propose(self, view, k, p):
        return list(view.tokens[-1:]) * (k + 1)


class Eats(Drafter):
    """Change what it sees."""

    name = "eats"

    def propose(self, view, k, p):
        return [view.tokens.pop()][:k]


class Impatient(Drafter):
    """Expect a long text."""

    name = "impatient"

    def propose(self, view, k, p):
        return [view.tokens[-5]]


@pytest.mark.parametrize(
    "mutant, code",
    {Greedy: "D2", Eats: "D2", Impatient: "C0"}.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_drafter_with_a_bug_is_caught(mutant, code):
    assert code in codes(examine(mutant))


class Plain(Strategy):
    """Pick one token after the other."""

    name = "plain_strategy"

    def width(self, p):
        return 1

    def run(self, loop, p):
        branch = loop.root
        while True:
            logits = yield [branch]
            (token,) = loop.pick(logits, [branch])
            if not loop.commit(token):
                return
            branch = loop.fork(branch, token)


class Random(Plain):
    """Commit what comes to mind."""

    name = "random_strategy"

    def run(self, loop, p):
        yield [loop.root]
        while loop.commit(random.randrange(97, 120)):
            pass


class Narrow(Plain):
    """Need no branch."""

    name = "narrow"

    def width(self, p):
        return 0


class Shared(Plain):
    """Count on the class, whoever asks."""

    name = "shared"
    n = 0

    def run(self, loop, p):
        yield [loop.root]
        for _ in range(5):
            Shared.n += 1
            if not loop.commit(97 + Shared.n % 20):
                return


@pytest.mark.parametrize(
    "mutant, code",
    {Random: "G2", Narrow: "G2", Shared: "G2"}.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_strategy_with_a_bug_is_caught(mutant, code):
    assert code in codes(examine(mutant))


def test_drafters_and_strategies_pass():
    for drafter in bundled("drafter"):
        check_drafter(drafter)
    for strategy in (Plain, *bundled("strategy")):
        check_strategy(strategy)


# Slash commands ---------------------------------------------------------------------------------


class Spell(Command):
    """Spell the last answer, or a text, or have the model do it."""

    name = "spell"
    arguments = "[aloud|TEXT]"

    def run(self, chat, rest):
        if rest == "aloud":
            yield Say("Spell that.")
            yield f"{len(chat.turns)} turns"  # the answer is one of them
        elif not rest and not chat.turns:
            raise RequestError("there is nothing to spell")
        else:
            yield from rest or chat.turns[-1][1]


class Tree(Spell):
    """Draw it."""

    name = "tree"


class Number(Spell):
    """Expect a number."""

    name = "number"

    def run(self, chat, rest):
        yield f"{int(rest or 1)}"


class Wordy(Spell):
    """Yield what is no line."""

    name = "wordy"

    def run(self, chat, rest):
        yield 7


class Late(Spell):
    """Count on a talk that has begun."""

    name = "late"

    def run(self, chat, rest):
        yield chat.turns[-1][1]


class Deep(Spell):
    """See more than a command is promised."""

    name = "deep"

    def run(self, chat, rest):
        yield str(chat.settings.seed)


class Endless(Spell):
    """Never end."""

    name = "endless"

    def run(self, chat, rest):
        while True:
            yield "more"


class Mute(Spell):
    """Say nothing."""

    name = "mute"

    def run(self, chat, rest):
        yield Say(" ")


class Printing(Spell):
    """Print."""

    name = "printing"

    def run(self, chat, rest):
        print("hello")
        return ()


class Asking(Spell):
    """Ask at the terminal, which is not there in a pipe."""

    name = "asking"

    def run(self, chat, rest):
        yield input()


class Untidy(Spell):
    """Put a turn in."""

    name = "untidy"

    def run(self, chat, rest):
        chat.said.append(("user", "mine"))
        yield "done"


class Explained(Spell):
    """Have arguments that are no usage."""

    name = "explained"
    arguments = "TEXT: what to spell"


@pytest.mark.parametrize(
    "mutant, code",
    {
        Tree: "L1",
        Explained: "L1",
        Number: "C0",
        Late: "C0",
        Deep: "C0",
        Asking: "C0",
        Wordy: "L2",
        Endless: "L2",
        Mute: "L2",
        Printing: "L3",
        Untidy: "L3",
    }.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_command_with_a_bug_is_caught(mutant, code):
    assert codes(examine(mutant)) == {code}


def test_commands_pass():
    check_command(Spell)
    assert examine(Spell).findings == ()


def test_a_command_s_words_are_tried():
    """A usage names words: each of them is typed, and two of them."""
    seen = set()

    class Seen(Spell):
        """Note what was typed."""

        name = "seen"
        arguments = "on|off [STAGE before|after]"

        def run(self, chat, rest):
            seen.add(rest)
            return ()

    check_command(Seen)
    assert {"", "on", "off", "before", "on after"} <= seen
    assert choices("PATH [TEXT]") == choices("") == ()


def test_a_command_writes_into_a_folder_that_goes_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Writes(Spell):
        """Write a file."""

        name = "writes"

        def run(self, chat, rest):
            with open("written.txt", "w") as file:
                file.write("x")
            return ()

    check_command(Writes)
    assert list(tmp_path.iterdir()) == []


# The bundled samplers, and pytest ---------------------------------------------------------------


@pytest.mark.parametrize("sampler", bundled("sampler"), ids=lambda cls: cls.name)
def test_bundled_samplers_pass(sampler):
    assert codes(examine(sampler)) <= {"C1"}  # a text without examples is worth a warning


@pytest.mark.slow
@pytest.mark.parametrize("sampler", bundled("sampler"), ids=lambda cls: cls.name)
def test_no_false_alarm_in_a_hundred_runs(sampler):
    for seed in range(100):
        assert codes(examine(sampler, seed=seed)) <= {"C1"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokenizer", "stopping", "template", "drafter", "strategy"])
def test_no_false_alarm_of_the_other_kinds(kind):
    for plugin in bundled(kind):
        for seed in range(20):
            assert examine(plugin, seed=seed).ok


def run_pytest(folder, *args):
    """Run pytest in a process of its own, with no plugin but ours."""
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "gptkit.testing.pytest_plugin"]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": PACKAGE}
    done = subprocess.run(
        [*command, *args], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_pytest_examines_a_distribution_and_a_file(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import no_such_module\n")
    code, said = run_pytest(tmp_path, "--gptkit", "Acme_Sampler", "--gptkit", str(file), "-v")
    assert code == 1
    assert "::sampler:square PASSED" in said
    assert "did not load: No module named 'no_such_module'" in said
    assert "1 failed, 1 passed" in said
    code, said = run_pytest(tmp_path, "--gptkit", "nobody")
    assert code == 4 and "no distribution, plugin or file is called 'nobody'" in said


def test_the_pytest_plugin_imports_nothing_heavy():
    code = "import json, sys, gptkit.testing.pytest_plugin\n"
    code += "print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
