"""How far the logits are from somebody else's, and from our own other ways of computing them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from rich.table import Table

from gptkit.model.config import NAMED_SIZES
from gptkit.model.gpt import GPT
from gptkit.model.reference import ReferenceGPT
from tests.model.test_gpt import SMALL, build, hugging_face, random_ids, stepped


def table() -> Table:
    out = Table("agreement of logits", "largest difference", "wanted below", title_justify="left")
    full = GPT(NAMED_SIZES["gpt2"]).init_weights(0).eval().requires_grad_(False)
    for name, model in {"small config": build(SMALL), "124M shape": full}.items():
        ids = random_ids(model.config, 1, min(64, model.config.block_size))
        with torch.no_grad():
            ours, theirs = model(ids), hugging_face(model)(ids).logits
        out.add_row(f"{name}: transformers' GPT-2", f"{_far(ours, theirs):.1e}", "1e-4")
        cached = stepped(model, ids[0].tolist(), [5, 6, 7])
        out.add_row(f"{name}: cached against uncached", f"{_far(ours[0], cached):.1e}", "1e-4")
        weights = {key: w.numpy() for key, w in model.state_dict().items()}
        numpy = stepped(ReferenceGPT(model.config, weights), ids[0].tolist(), [5])
        out.add_row(f"{name}: NumPy reference", f"{_far(ours[0], numpy):.1e}", "1e-3")
    if data := os.environ.get("GPTKIT_DATA"):
        out.add_row("gpt-nano-sort: recorded logits", f"{_nano_sort(Path(data)):.1e}", "1e-5")
    return out


def _far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def _nano_sort(data: Path) -> float:
    from safetensors.torch import load_file

    from gptkit.checkpoints.checkpoint import open_checkpoint

    folder = data / "checkpoints" / "gpt-nano-sort"
    source = open_checkpoint(folder / "hf")
    recorded = load_file(folder / "partials.safetensors")
    logits = GPT.from_tensors(source.config, source.load())(recorded["idx"].long())
    return _far(logits, recorded["lm_head"])
