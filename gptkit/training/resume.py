"""What a checkpoint keeps beyond the model, so that training goes on as if never stopped.

Batches and dropout are functions of seed and step, so there is no state of chance to keep.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.checkpoints.save import save_checkpoint
from gptkit.errors import CheckpointError, ResumeRefused
from gptkit.training import optimizer as optimizers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from gptkit.model.gpt import GPT
    from gptkit.training.plan import Plan

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MASTER = "master"
"""Where weights are stored in half precision, the optimizer's file has them in full."""

MAY_CHANGE = frozenset(
    f"training.{key}"
    for key in ("max_steps", "eval_interval", "eval_batches", "save_interval", "device")
)


@dataclass(slots=True)
class State:
    """How far training has come: the last step, and the losses measured on the way."""

    step: int = 0
    losses: list[tuple[int, float, float]] = field(default_factory=list)
    """Step, training loss and validation loss of each evaluation."""

    @property
    def validation_loss(self) -> float | None:
        """Return the last loss that was measured."""
        return self.losses[-1][2] if self.losses else None


def save(
    plan: Plan, model: GPT, optimizer: torch.optim.Optimizer, state: State, *, keep: bool
) -> None:
    """Replace the checkpoint; `keep` says whether training can go on from it."""
    output = plan.recipe.settings.output
    weights = {name: weight.detach().cpu() for name, weight in model.state_dict().items()}
    told = {
        "step": state.step,
        "losses": state.losses,
        "corpus_sha256": plan.corpus.sha256,
        "settings": _settings(plan),
    }
    extra: dict[str, bytes | Mapping[str, Tensor]] = {STATE: _json(told)}
    if keep:
        kept = {k: v.detach().cpu() for k, v in optimizers.state_tensors(model, optimizer).items()}
        if output.dtype != "float32":
            kept |= {f"{name}.{MASTER}": weight for name, weight in weights.items()}
        extra[OPTIMIZER] = kept
    dtype: torch.dtype = getattr(torch, output.dtype)
    save_checkpoint(
        plan.recipe.output,
        config=plan.config,
        tensors={name: weight.to(dtype).contiguous() for name, weight in weights.items()},
        tokenizer=plan.tokenizer,
        bos_id=plan.bos_id,
        eos_ids=plan.eos_ids,
        chat_template=output.chat_template,
        sampling=output.sampling,
        extra=extra,
    )


def checkpoint_in(folder: Path) -> Path | None:
    """Return where a checkpoint of ours is: the folder, or beside it when a save was killed."""
    for place in (folder, folder.with_name(f"{folder.name}.old")):
        if (place / "gptkit.json").is_file():
            return place
    return None


def load(plan: Plan, model: GPT, optimizer: torch.optim.Optimizer) -> State:
    """Fill model and optimizer from the checkpoint and return its state."""
    checkpoint = open_checkpoint(plan.recipe.output)
    checkpoint.verify()
    folder = checkpoint.path
    if not (folder / STATE).exists():
        raise ResumeRefused(f"{folder} was not made by training", hint="give another --output")
    told = checkpoint.read_extra(STATE)
    _check_same(plan, told)
    state = State(told["step"], [(step, train, held) for step, train, held in told["losses"]])
    if not (folder / OPTIMIZER).exists():
        if state.step >= plan.recipe.settings.training.max_steps:
            model.load_state_dict(checkpoint.load())
            return state
        raise CheckpointError(
            f"{folder} is finished at step {state.step:,} and kept no optimizer to go on with",
            hint="train again into another --output with output.keep_state: true",
        )
    kept = checkpoint.load_extra(OPTIMIZER)
    masters = {
        name: kept.pop(f"{name}.{MASTER}")
        for name in model.state_dict()
        if f"{name}.{MASTER}" in kept
    }
    model.load_state_dict(masters or checkpoint.load())
    optimizers.restore(model, optimizer, kept)
    return state


def _check_same(plan: Plan, told: Mapping[str, Any]) -> None:
    """Raise ResumeRefused with what differs from the run that wrote the checkpoint."""
    old = dict(_flat(told["settings"]))
    new = dict(_flat(json.loads(_json(_settings(plan)))))
    differing = [
        f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
        for key in sorted(old.keys() | new.keys())
        if key not in MAY_CHANGE and old.get(key) != new.get(key)
    ]
    if not differing and told["corpus_sha256"] != plan.corpus.sha256:
        differing = ["the corpus has other tokens"]
    if differing:
        raise ResumeRefused(
            f"{plan.recipe.output} was made by another recipe: {'; '.join(differing)}",
            hint="give another --output, or put the recipe back",
        )


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.config.model_dump(mode="json"),
        "training": plan.recipe.settings.training.model_dump(mode="json"),
    }


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _json(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, indent=1, allow_nan=False).encode() + b"\n"
