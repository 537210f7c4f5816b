"""What an inspection says, against a chain run by hand and the noise drawn anew."""

from __future__ import annotations

import math

import pytest
import torch

from gptkit.decoding import noise
from gptkit.decoding.engine import Engine
from gptkit.decoding.inspection import Standing, inspect, standing
from gptkit.decoding.request import Request, Stops, parse_stage, resolve_chain
from gptkit.plugin_api import Sampler
from gptkit.plugin_host import registry
from tests.fakes import ByteTokenizer, FlatModel, byte_config

REGISTRY = registry()
LOGITS = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
NO = float("-inf")


class FourTokens(FlatModel):
    """Gives the four letters a to d the probabilities .1 to .4, whatever came before."""

    def logits(self, tokens):
        out = torch.full((self.config.vocab_size,), NO)
        out[97:101] = LOGITS
        return out


@pytest.fixture
def engine():
    tokenizer = ByteTokenizer()
    return Engine(FourTokens(byte_config(tokenizer)), tokenizer)


def request(*stages, n=1, seed=7):
    chain = resolve_chain([parse_stage(text) for text in stages], REGISTRY)
    return Request((1, 2, 3), chain, Stops(max_new_tokens=n), seed)


def test_each_stage_and_the_token_that_was_asked_about(engine):
    """Temperature .5 squares: 1 4 9 16 of 30; top_k 3 leaves 4 9 16 of 29, top_p .8 two of them."""
    (one,) = inspect(engine, request("temperature=0.5", "top_k=3", "top_p=0.8"), ord("b"))
    assert (one.n, one.position, chr(one.token_id)) == (1, 3, chr(one.token_id))
    said = [view.stage.label if view.stage else "model" for view in one.stages]
    assert said == ["model", "temperature", "top_k", "top_p"]
    assert [view.trace.survivors for view in one.stages] == [4, 4, 3, 2]
    assert [view.trace.removed_mass for view in one.stages] == pytest.approx([0, 0, 1 / 30, 4 / 29])
    assert [view.trace.best_removed for view in one.stages] == [None, None, ord("a"), ord("b")]
    assert [view.best_removed_p for view in one.stages] == pytest.approx([0, 0, 1 / 30, 4 / 29])
    asked = [(view.asked.rank, view.asked.p) for view in one.stages]
    wanted = [(3, 0.2), (3, 4 / 30), (3, 4 / 29), (None, 0)]
    assert [rank for rank, _ in asked] == [rank for rank, _ in wanted]
    assert [p for _, p in asked] == pytest.approx([p for _, p in wanted])
    assert one.removed_by().stage.label == "top_p"
    assert (one.off, one.finish_reason) == ((), "length")
    entropy = -sum(p * math.log(p) for p in (9 / 25, 16 / 25))
    assert one.stages[-1].trace.entropy == pytest.approx(entropy)


def test_looking_changes_no_token(engine):
    asked = request("top_k=3", "temperature=1.5", n=20)
    alone = [event.token_id for event in engine.stream(asked)]
    seen = list(inspect(engine, asked))
    assert [one.token_id for one in seen] == alone
    assert [one.n for one in seen] == list(range(1, 21))
    assert [one.position for one in seen] == list(range(3, 23))


def test_the_margin_is_that_of_the_noise(engine):
    for one in inspect(engine, request("temperature=0.5", n=20, seed=3)):
        u = noise.uniform([3], noise.PICK, [one.position], range(97, 101))[0].astype(float)
        scores = {97 + i: float(2 * LOGITS[i]) - math.log(-math.log1p(-u[i])) for i in range(4)}
        first, second = sorted(scores, key=scores.get)[:-3:-1]
        assert (one.token_id, one.draw.runner_up) == (first, second)
        assert one.draw.margin == pytest.approx(scores[first] - scores[second], abs=1e-5)
        squares = {97 + i: (i + 1) ** 2 / 30 for i in range(4)}
        assert one.draw.runner_up_p == pytest.approx(squares[second])


def test_greedy_wins_by_logits_and_a_lone_token_by_itself(engine):
    (one,) = inspect(engine, request("greedy"))
    assert (one.token_id, one.draw.runner_up) == (100, 99)
    assert one.draw.margin == pytest.approx(math.log(4 / 3))
    (one,) = inspect(engine, request("temperature=0"))
    assert (one.draw.runner_up, one.draw.margin) == (None, None)
    assert one.stages[-1].trace.survivors == 1


def test_a_picker_of_somebody_else_has_no_margin(engine):
    class Worst(Sampler):
        """Take the least likely token."""

        name = "worst"
        phase = "pick"

        def apply(self, logits, p, rows):
            return logits.masked_fill(logits == NO, 9.0).argmin(-1)

    asked = request("greedy")
    stage = type(asked.chain[0])("worst", Worst, {})
    (one,) = inspect(engine, Request(asked.prompt_ids, (stage,), asked.stops, 1))
    assert (one.token_id, one.draw.margin, one.draw.runner_up) == (97, None, None)
    assert one.stages[0].trace.rank_after == 4


def test_stages_that_are_off_are_named_apart(engine):
    (one,) = inspect(engine, request("top_k=off", "temperature=0.5", "top_p=off"))
    assert [view.stage.label for view in one.stages[1:]] == ["temperature"]
    assert [stage.label for stage in one.off] == ["top_k", "top_p"]


def test_a_token_that_stays_is_removed_by_nobody(engine):
    (one,) = inspect(engine, request("top_k=3"), ord("d"))
    assert one.removed_by() is None
    (one,) = inspect(engine, request("top_k=3"), ord("x"))
    assert one.removed_by().stage is None  # the model itself does not allow it


def test_a_standing_counts_equals_by_id():
    logits = torch.tensor([1.0, 2.0, 2.0, NO])
    assert [standing(logits, i).rank for i in range(4)] == [3, 1, 2, None]
    assert standing(logits, 3) == Standing(None, 0.0)
