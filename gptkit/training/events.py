"""What training tells whoever watches: plain records, one for each thing that happens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Started:
    """All is ready: the model is built and the corpus is tokens. `step` is above 0 on resume."""

    n_params: int
    vocab_size: int
    n_train_tokens: int
    n_validation_tokens: int
    n_documents: int
    step: int
    max_steps: int
    device: str


@dataclass(frozen=True, slots=True)
class Progress:
    """One step was taken; the loss is that of its batch, in nats for each token."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_s: float
    eta_s: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The model was measured; losses in nats for each token."""

    step: int
    train_loss: float
    validation_loss: float
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """The model was asked to speak."""

    step: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Training ended: at its last step, or `interrupted` before it; either way it was saved."""

    step: int
    validation_loss: float | None
    path: str
    interrupted: bool = False


TrainingEvent = Started | Progress | Evaluated | Sampled | Saved | Finished
