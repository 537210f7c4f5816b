"""AdamW and its schedule (Loshchilov and Hutter 2019, arXiv:1711.05101; 2017, arXiv:1608.03983)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptkit.training.recipe import TrainingSettings


def make(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Return AdamW that decays matrices alone: not biases, not norms."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, foreach=False)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the rate of a step, counted from 1: up in a line, then down along a cosine."""
    highest, lowest = (
        settings.learning_rate,
        min(settings.min_learning_rate, settings.learning_rate),
    )
    if step <= settings.warmup_steps:
        return highest * step / settings.warmup_steps
    after = settings.max_steps - settings.warmup_steps
    share = min(1.0, (step - settings.warmup_steps) / after)
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * share)) / 2


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what the optimizer remembers, by `NAME.exp_avg` and the like; empty before a step."""
    return {
        f"{name}.{key}": value
        for name, weight in model.named_parameters()
        for key, value in optimizer.state.get(weight, {}).items()
    }


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `state_tensors` returned."""
    for name, weight in model.named_parameters():
        prefix = f"{name}."
        optimizer.state[weight] = {
            key[len(prefix) :]: value.clone()
            for key, value in tensors.items()
            if key.startswith(prefix) and "." not in key[len(prefix) :]
        }
