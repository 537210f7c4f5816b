"""The loop: it learns, it resumes as if never stopped, and it stops before it spoils anything."""

from __future__ import annotations

import json
import math

import pytest
import torch

from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.errors import CheckpointError, GptkitError
from gptkit.training import events, loop
from gptkit.training.plan import prepare
from gptkit.training.recipe import read_recipe
from gptkit.training.resume import ResumeRefused
from tests.training.fakes import registry, tiny


def run(recipe, *, resume=False, **kwargs):
    plan = prepare(recipe, registry(), resume=resume)
    return list(loop.train(plan, goes_on=resume, **kwargs))


def weights(folder):
    return {name: tensor.clone() for name, tensor in open_checkpoint(folder).load().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def kinds(found):
    return [type(event).__name__ for event in found if not isinstance(event, events.Progress)]


def test_events_come_in_order_and_the_loss_falls(tmp_path):
    found = run(tiny(tmp_path), sample=lambda model, tokenizer: ["said"])
    assert kinds(found) == [
        "Started", "Evaluated", "Sampled", "Saved", "Evaluated", "Sampled", "Saved", "Finished",
    ]  # fmt: skip
    steps = [event for event in found if isinstance(event, events.Progress)]
    assert [event.step for event in steps] == list(range(1, 21))
    assert steps[0].loss == pytest.approx(math.log(7), abs=0.1)  # seven characters
    assert steps[-1].loss < steps[0].loss - 0.2
    assert found[-1].validation_loss == pytest.approx(steps[-1].loss, abs=0.3)


def test_bits_per_byte_of_single_byte_characters_are_the_loss_in_bits(tmp_path):
    measured = [e for e in run(tiny(tmp_path)) if isinstance(e, events.Evaluated)][-1]
    assert measured.bits_per_byte == pytest.approx(measured.validation_loss / math.log(2))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_resumed_weights_are_bit_identical(tmp_path, dtype):
    stored = f"output.dtype={dtype}"
    whole = run(tiny(tmp_path, stored, output=tmp_path / "whole"))
    steps = iter(range(99))
    half = run(tiny(tmp_path, stored), stop=lambda: next(steps) == 10)
    assert half[-1].interrupted and half[-1].step == 10
    rest = run(tiny(tmp_path, stored), resume=True)
    assert rest[0].step == 10 and not rest[-1].interrupted
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "out"))
    measured = [e for e in whole if isinstance(e, events.Evaluated)]
    assert [e for e in rest if isinstance(e, events.Evaluated)] == measured[1:]


def test_resume_of_nothing_begins(tmp_path):
    assert run(tiny(tmp_path), resume=True)[0].step == 0


def test_resume_of_what_is_finished_does_nothing(tmp_path):
    run(tiny(tmp_path, "output.keep_state=false"))
    before = weights(tmp_path / "out")
    assert kinds(run(tiny(tmp_path, "output.keep_state=false"), resume=True)) == [
        "Started", "Finished",
    ]  # fmt: skip
    assert_equal(before, weights(tmp_path / "out"))


def test_a_finished_run_can_be_prolonged_where_it_kept_its_state(tmp_path):
    run(tiny(tmp_path))
    assert run(tiny(tmp_path, "training.max_steps=22"), resume=True)[-1].step == 22


def test_a_finished_run_without_state_can_not(tmp_path):
    run(tiny(tmp_path, "output.keep_state=false"))
    assert not (tmp_path / "out" / "optimizer.safetensors").exists()
    with pytest.raises(CheckpointError, match="kept no optimizer"):
        run(tiny(tmp_path, "training.max_steps=22"), resume=True)


def test_resume_with_another_recipe_is_refused_with_what_differs(tmp_path):
    run(tiny(tmp_path))
    other = tiny(tmp_path, "model.n_embd=32", "training.seed=5", "training.eval_interval=3")
    with pytest.raises(ResumeRefused) as caught:
        run(other, resume=True)
    assert caught.value.exit_code == 5
    assert str(caught.value).endswith("model.n_embd 16 -> 32; training.seed 0 -> 5")


def test_resume_with_another_corpus_is_refused(tmp_path):
    recipe = tiny(tmp_path)
    run(recipe)
    path = tmp_path / "words.txt"
    path.write_text(path.read_text()[::-1])
    with pytest.raises(ResumeRefused, match="the corpus has other tokens"):
        run(read_recipe(str(tmp_path / "tiny.yaml"), output=recipe.output), resume=True)


@pytest.mark.parametrize("bad", ["model.safetensors", "optimizer.safetensors"])
def test_resume_from_a_damaged_checkpoint_is_refused(tmp_path, bad):
    run(tiny(tmp_path))
    path = tmp_path / "out" / bad
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=bad):
        run(tiny(tmp_path), resume=True)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    step = loop._Training.step

    def spoiled(self, number):
        return (math.nan, 1.0) if number == 13 else step(self, number)

    monkeypatch.setattr(loop._Training, "step", spoiled)
    with pytest.raises(GptkitError) as caught:
        run(tiny(tmp_path))
    assert str(caught.value) == "loss is nan at step 13; last good checkpoint step 10"
    assert caught.value.exit_code == 1
    assert json.loads((tmp_path / "out" / "state.json").read_text())["step"] == 10


def test_weights_that_overflow_are_never_written(tmp_path):
    recipe = tiny(tmp_path, "training.learning_rate=1", "training.grad_clip=0")
    plan = prepare(recipe, registry())
    training = loop._Training(plan)
    with torch.no_grad():
        training.model.wte.weight.fill_(1e38)
    before = {name: weight.clone() for name, weight in training.model.state_dict().items()}
    loss, norm = training.step(1)
    assert not (math.isfinite(loss) and math.isfinite(norm))
    assert_equal(before, training.model.state_dict())


def test_bfloat16_products_keep_float32_weights(tmp_path):
    run(tiny(tmp_path, "training.dtype=bfloat16"))
    assert open_checkpoint(tmp_path / "out").dtypes == ("float32",)


def test_the_bigram_model_is_a_config(tmp_path):
    found = run(
        tiny(
            tmp_path,
            "model={n_layer: 0, n_embd: 8, block_size: 16, positions: none, "
            "final_norm: false, tied: false}",
        )
    )
    assert found[0].n_params == 2 * 7 * 8


@pytest.mark.slow
@pytest.mark.parametrize(("name", "below"), [("bigram", 2.55), ("shakespeare_char", 1.95)])
def test_figures_on_tiny_shakespeare(tmp_path, data, name, below):
    recipe = read_recipe(name, output=tmp_path / "out")
    plan = prepare(recipe, registry())
    assert plan.config.vocab_size == 65
    assert recipe.settings.training.max_steps == 2000
    *_, last = loop.train(plan)
    assert last.validation_loss < below
