"""A small recipe and the registry of bundled plugins, for tests of training."""

from __future__ import annotations

import random

from gptkit import plugin_host
from gptkit.training.recipe import read_recipe

RECIPE = """\
data: {text: words.txt}
tokenizer: {char: {}}
model: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16, dropout: 0.1}
training:
  max_steps: 20
  micro_batch_size: 4
  grad_accum_steps: 2
  learning_rate: 1e-2
  warmup_steps: 2
  eval_interval: 10
  eval_batches: 2
  save_interval: 10
sample: {prompts: ["ab"], max_new_tokens: 5}
"""


def words(n=400, seed=0):
    rng = random.Random(seed)
    return " ".join(rng.choice(["abba", "cab", "bead", "dace"]) for _ in range(n)) + "\n"


def write_recipe(folder, text=RECIPE, **files):
    """Write the recipe, its corpus and other files; return the recipe's path."""
    (folder / "words.txt").write_text(words())
    for name, content in files.items():
        (folder / name).write_text(content)
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def tiny(folder, *assignments, output=None, text=RECIPE):
    path = write_recipe(folder, text)
    return read_recipe(str(path), assignments, output=output or folder / "out")


def registry():
    return plugin_host.registry()
