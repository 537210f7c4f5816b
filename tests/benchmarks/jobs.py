"""A few-shot job on the 124M shape against transformers' `generate` in padded batches of 16.

400 tokens that all rows share, 20 to 120 of their own, 32 new ones. gptkit's figures are those of a
whole run: rows read, journal synced for each, output written.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

import torch
from rich.table import Table

from gptkit.assembly import Model
from gptkit.checkpoints.save import save_checkpoint
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.run import run
from gptkit.model.config import NAMED_SIZES
from gptkit.model.gpt import GPT
from gptkit.plugin_host import registry
from tests.benchmarks.forwards import Timed, WideTokenizer, forwards
from tests.model.test_gpt import hugging_face

SHARED, NEW, ROWS, THEIR_ROWS, THEIR_BATCH, BATCH = 400, 32, 512, 64, 16, 64
JOB = """
model: {model}
template: {{instruction: "{head}", item: "{separator}$text$summary", output: summary}}
inputs: in.jsonl
outputs: out.jsonl
sampling: {{seed: 7, chain: [greedy]}}
stop: {{max_new_tokens: {new}}}
"""


def table() -> Table:
    """Return rows a second and the share of the time that is prefill and decoding."""
    config = NAMED_SIZES["gpt2"]
    weights = GPT(config).init_weights(0).state_dict()
    out = Table(
        f"few-shot job, 124M shape, {ROWS} rows",
        "rows/s",
        "new tok/s",
        "ratio",
        "in prefill and decode",
        "prefix reused",
        title_justify="left",
    )
    theirs = _theirs(weights)
    out.add_row("transformers, bf16", f"{theirs:.2f}", f"{theirs * NEW:.0f}", "1.00", "", "")
    makers = forwards(
        config, weights, of_torch=("bfloat16",), of_cpu=("float32", "bfloat16", "int8")
    )
    with tempfile.TemporaryDirectory() as folder:
        job = _write_job(Path(folder), weights)
        for name, make in makers.items():
            speed, share, reused = _ours(job, make())
            cells = (f"{speed:.2f}", f"{speed * NEW:.0f}", f"{speed / theirs:.2f}")
            out.add_row(name, *cells, f"{share:.1%}", f"{reused:.0%}")
    return out


def _own_lengths() -> list[int]:
    rng = random.Random(0)
    return [rng.randint(20, 120) for _ in range(ROWS)]


def _write_job(folder: Path, weights) -> Path:
    """Write the model and a job; a byte is a token here."""
    tensors = {name: value.bfloat16() for name, value in weights.items()}
    save_checkpoint(
        folder / "model",
        config=NAMED_SIZES["gpt2"],
        tensors=tensors,
        tokenizer=None,
        bos_id=None,
        eos_ids=(),
    )
    rng = random.Random(1)
    with (folder / "in.jsonl").open("w") as file:
        for length in _own_lengths():
            text = "".join(rng.choice("abcdefgh ") for _ in range(length - 2))
            file.write(json.dumps({"text": text}) + "\n")
    head = "".join(rng.choice("abcdefgh ") for _ in range(SHARED - 1))
    job = folder / "job.yaml"
    job.write_text(
        JOB.format(model=json.dumps(str(folder / "model")), head=head, separator="#", new=NEW)
    )
    return job


def _ours(path: Path, forward) -> tuple[float, float, float]:
    """Return rows a second after loading, the forward's share of it, and the prefix's reuse."""
    for old in path.parent.glob("out.jsonl*"):
        old.unlink()
    found = registry()
    job = prepare(path, found, Given(batch_size=BATCH, outputs=path.parent / "out.jsonl"))
    timed = Timed(forward)
    model = Model(
        name="random",
        path=path.parent,
        forward=timed,
        tokenizer=WideTokenizer(),
        config=forward.config,
        eos_ids=frozenset(),
        bos_id=None,
        chat_template=None,
        recommended=None,
        backend="",
        device="cpu",
        dtype="bfloat16",
    )
    start = 0.0

    def load(source):
        nonlocal start
        start = time.perf_counter()
        return model

    last = None
    for event in run(job, load):
        last = event if hasattr(event, "n_reused") else last
    seconds = time.perf_counter() - start
    assert len((path.parent / "out.jsonl").read_text().splitlines()) == ROWS
    return ROWS / seconds, timed.seconds / seconds, last.n_reused / last.prompt_tokens


def _theirs(weights) -> float:
    model = hugging_face(GPT.from_tensors(NAMED_SIZES["gpt2"], weights)).bfloat16()
    rng = random.Random(2)
    prefix = [rng.randrange(1, 50000) for _ in range(SHARED)]
    rows = [
        prefix + [rng.randrange(1, 50000) for _ in range(n)] for n in _own_lengths()[:THEIR_ROWS]
    ]
    start = time.perf_counter()
    for first in range(0, len(rows), THEIR_BATCH):
        batch = rows[first : first + THEIR_BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch])
        with torch.no_grad():
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
    return len(rows) / (time.perf_counter() - start)
