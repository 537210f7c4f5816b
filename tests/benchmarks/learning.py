"""Validation losses of the two bundled recipes on tiny-shakespeare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from rich.table import Table

RECIPES = (("bigram", 2.55), ("shakespeare_char", 1.95))


def table() -> Table:
    out = Table("tiny-shakespeare, characters", "validation loss", "wanted below")
    for recipe, wanted in RECIPES if os.environ.get("GPTKIT_DATA") else ():
        with tempfile.TemporaryDirectory() as folder:
            command = ["train", recipe, "--output", f"{folder}/model", "--json"]
            done = subprocess.run(
                [sys.executable, "-m", "gptkit", *command], check=True, capture_output=True
            )
        last = json.loads(done.stdout.splitlines()[-1])
        out.add_row(recipe, f"{last['validation_loss']:.4f}", f"{wanted}")
    return out
