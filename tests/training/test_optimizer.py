"""The schedule, by a table, and which weights decay."""

from __future__ import annotations

import pytest
import torch

from gptkit.training import optimizer
from gptkit.training.recipe import TrainingSettings

SETTINGS = TrainingSettings.model_validate(
    {"max_steps": 110, "warmup_steps": 10, "learning_rate": 1.0, "min_learning_rate": 0.2}
)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(1, 0.1), (5, 0.5), (10, 1.0), (60, 0.6), (35, 0.8 * 0.853553 + 0.2), (110, 0.2), (999, 0.2)],
)
def test_schedule(step, rate):
    assert optimizer.learning_rate(step, SETTINGS) == pytest.approx(rate, abs=1e-6)


def test_no_warm_up_and_a_floor_above_the_rate():
    settings = TrainingSettings.model_validate(
        {"max_steps": 10, "warmup_steps": 0, "learning_rate": 1e-5, "min_learning_rate": 1e-4}
    )
    assert {optimizer.learning_rate(step, settings) for step in range(1, 11)} == {1e-5}


def test_warm_up_longer_than_training():
    settings = TrainingSettings.model_validate({"max_steps": 5, "warmup_steps": 10})
    assert optimizer.learning_rate(5, settings) == pytest.approx(5e-4)


def test_only_matrices_decay():
    model = torch.nn.Linear(3, 2)
    decaying, still = optimizer.make(model, SETTINGS).param_groups
    assert decaying["params"] == [model.weight] and decaying["weight_decay"] == 0.1
    assert still["params"] == [model.bias] and still["weight_decay"] == 0.0
