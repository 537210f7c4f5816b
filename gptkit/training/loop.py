"""The training loop: steps, evaluations, samples and checkpoints, told as events.

Shapes: B blocks, T block size, V vocabulary.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from gptkit.errors import GptkitError
from gptkit.model.device import pick_device
from gptkit.model.gpt import GPT
from gptkit.training import events, optimizer, resume
from gptkit.training.batches import Blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

    from gptkit.plugin_api import Tokenizer
    from gptkit.training.plan import Plan

    Sample = Callable[[GPT, Tokenizer], list[str]]
    """Asks a model to speak; handed in, since training knows no decoding."""


def train(
    plan: Plan,
    *,
    goes_on: bool = False,
    sample: Sample | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[events.TrainingEvent]:
    """Train as planned and yield what happens; `goes_on` resumes the checkpoint in the output.

    `stop` is asked after each step: once it is true, a checkpoint is written and training ends.
    Raise GptkitError where the loss is no longer a number; the last checkpoint stays.
    """
    training = _Training(plan)
    settings = plan.recipe.settings.training
    state = training.state
    if goes_on and resume.checkpoint_in(plan.recipe.output):
        state = training.state = resume.load(plan, training.model, training.optimizer)
    yield training.started()
    saved = first = state.step
    n_evaluations = len(state.losses)
    begin = time.monotonic()
    while state.step < settings.max_steps and not stop():
        start = time.monotonic()
        loss, norm = training.step(state.step + 1)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            bad = f"loss is {loss:g}" if not math.isfinite(loss) else f"gradient norm is {norm:g}"
            raise GptkitError(
                f"{bad} at step {state.step + 1:,}; "
                + (f"last good checkpoint step {saved:,}" if saved else "no checkpoint yet"),
                hint="lower training.learning_rate, or train in float32",
            )
        state.step += 1
        last = state.step >= settings.max_steps
        now = time.monotonic()
        yield events.Progress(
            state.step,
            loss,
            optimizer.learning_rate(state.step, settings),
            norm,
            training.tokens_per_step / (now - start),
            (now - begin) / (state.step - first) * (settings.max_steps - state.step),
        )
        if last or state.step % settings.eval_interval == 0:
            measured = training.evaluate()
            yield measured
            n_evaluations += 1
            every = plan.recipe.settings.sample.every
            if sample is not None and every and (last or n_evaluations % every == 0):
                yield events.Sampled(state.step, tuple(training.speak(sample)))
        if last or state.step % settings.save_interval == 0:
            saved = training.save(last=last)
            yield events.Saved(saved, str(plan.recipe.output))
    if state.step > saved:
        saved = training.save(last=False)
        yield events.Saved(saved, str(plan.recipe.output))
    yield events.Finished(
        state.step,
        state.validation_loss,
        str(plan.recipe.output),
        interrupted=state.step < settings.max_steps,
    )


class _Training:
    """Model, optimizer and corpus of one run."""

    def __init__(self, plan: Plan) -> None:
        settings = plan.recipe.settings.training
        self.plan = plan
        self.settings = settings
        self.device = pick_device(settings.device)
        self.model = GPT(plan.config).init_weights(settings.seed).to(self.device)
        self.optimizer = optimizer.make(self.model, settings)
        self.state = resume.State()
        corpus, block_size = plan.corpus, plan.config.block_size
        self.train = Blocks(corpus.train, block_size, corpus.starts)
        self.validation = Blocks(corpus.validation, block_size)
        self.tokens_per_step = settings.micro_batch_size * settings.grad_accum_steps * block_size

    def started(self) -> events.Started:
        """Return what there is before the first step."""
        corpus = self.plan.corpus
        return events.Started(
            n_params=self.plan.config.n_params(),
            vocab_size=self.plan.config.vocab_size,
            n_train_tokens=len(corpus.train),
            n_validation_tokens=len(corpus.validation),
            n_documents=corpus.n_documents,
            step=self.state.step,
            max_steps=self.settings.max_steps,
            device=self.device,
        )

    def step(self, step: int) -> tuple[float, float]:
        """Take a step and return loss and gradient norm; one not finite leaves all as it was."""
        n_micro = self.settings.grad_accum_steps
        rate = optimizer.learning_rate(step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        batches = self.train.at_random(
            self.settings.seed, step, n_micro, self.settings.micro_batch_size
        )
        for micro, (ids, targets) in enumerate(batches):
            torch.manual_seed(_dropout_seed(self.settings.seed, step, micro))
            loss = self._loss(ids, targets) / n_micro
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.settings.grad_clip or math.inf
        ).item()
        if math.isfinite(total) and math.isfinite(norm):
            self.optimizer.step()
        return total, norm

    def evaluate(self) -> events.Evaluated:
        """Measure both losses, over blocks that lie evenly on the streams."""
        train, held = self._mean_loss(self.train), self._mean_loss(self.validation)
        self.state.losses.append((self.state.step, train, held))
        corpus = self.plan.corpus
        nats = held * len(corpus.validation)
        return events.Evaluated(
            self.state.step, train, held, nats / math.log(2) / max(1, corpus.validation_bytes)
        )

    def speak(self, sample: Sample) -> list[str]:
        """Return what the model says when asked."""
        self.model.eval()
        return sample(self.model, self.plan.tokenizer)

    def save(self, *, last: bool) -> int:
        """Write the checkpoint; return its step."""
        keep = not last or self.plan.recipe.settings.output.keep_state
        resume.save(self.plan, self.model, self.optimizer, self.state, keep=keep)
        return self.state.step

    @torch.no_grad()
    def _mean_loss(self, blocks: Blocks) -> float:
        self.model.eval()
        total = n = 0.0
        for ids, targets in blocks.spread(
            self.settings.eval_batches, self.settings.micro_batch_size
        ):
            total += self._loss(ids, targets).item() * len(ids)
            n += len(ids)
        return total / n

    def _loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats of targets [B, T] after ids [B, T]."""
        with self._precision():
            logits = self.model(ids.to(self.device))  # [B, T, V]
        return F.cross_entropy(logits.float().flatten(0, 1), targets.to(self.device).flatten())

    def _precision(self) -> AbstractContextManager[Any]:
        if self.settings.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)


def _dropout_seed(seed: int, step: int, micro: int) -> int:
    state = np.random.SeedSequence((seed, step, micro)).generate_state(1, np.uint64)
    return int(state[0]) >> 1
