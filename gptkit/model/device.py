"""Where to compute: what this machine has, and what `auto` means."""

from __future__ import annotations

import torch

from gptkit.errors import ConfigError


def pick_device(wanted: str) -> str:
    """Return `wanted`, or for `auto` the first of CUDA, MPS and CPU that this machine has.

    Raise ConfigError where it has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next((name for name, is_there in there.items() if is_there), "cpu")
    if not there.get(wanted, True):
        raise ConfigError(f"device {wanted}: there is none here", hint="auto takes what there is")
    return wanted
