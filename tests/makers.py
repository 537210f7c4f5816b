"""Small checkpoints that the tests of commands share, and command lines run in one process."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from gptkit.checkpoints.save import save_checkpoint
from gptkit.model.config import GPTConfig
from gptkit.model.gpt import GPT
from gptkit.plugin_host import registry

FIXTURES = Path(__file__).parent / "fixtures"
TOKENIZER_FIXTURE = FIXTURES / "acme_tokenizer"
SAMPLER_FIXTURE = FIXTURES / "acme_sampler"
CHARACTERS = string.ascii_letters + string.digits + " .,:;!?<|>$-\n"


def char_tokenizer(characters=CHARACTERS):
    """Return the bundled tokenizer of these characters."""
    return registry().find("tokenizer", "char").value.train([characters])


def utf8_tokenizer():
    """Return the tokenizer of bytes that the third-party package offers."""
    sys.path.insert(0, str(TOKENIZER_FIXTURE))
    try:
        from acme_tokenizer import Utf8Bytes
    finally:
        sys.path.remove(str(TOKENIZER_FIXTURE))
    return Utf8Bytes()


def save_random(folder, tokenizer=None, *, block_size=64, n_vocab=None, **given):
    """Save two small layers with random weights; return the folder."""
    tokenizer = tokenizer or char_tokenizer()
    config = GPTConfig(
        vocab_size=n_vocab or tokenizer.vocab_size,
        block_size=block_size,
        n_layer=2,
        n_head=2,
        n_embd=16,
    )
    tensors = GPT(config).init_weights(seed=1).state_dict()
    return save(folder, config, tensors, tokenizer, **given)


def save_reciter(folder, tokenizer, script, *, mend=None, **given):
    """Save a model that says `script`, token ids, over and over, whatever it is asked.

    The embedding of a position is the token that follows there, and that of a token nothing;
    `mend` may change the tensors.
    """
    size, length = tokenizer.vocab_size, 256
    config = GPTConfig(
        vocab_size=size,
        block_size=length,
        n_layer=0,
        n_embd=size,
        tied=False,
        final_norm=False,
    )
    said = torch.tensor([script[i % len(script)] for i in range(length)])
    tensors = {
        "wte.weight": torch.zeros(size, size),
        "wpe.weight": torch.nn.functional.one_hot(said, size).float(),
        "lm_head.weight": 50 * torch.eye(size),
    }
    if mend is not None:
        mend(tensors)
    return save(folder, config, tensors, tokenizer, **given)


def save(folder, config, tensors, tokenizer, *, bos_id=None, eos_ids=(), **given):
    """Save a checkpoint and return its folder."""
    save_checkpoint(
        folder,
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        bos_id=bos_id,
        eos_ids=eos_ids,
        **given,
    )
    return folder


@dataclass(frozen=True)
class Said:
    """What a command line came to: its exit code, both streams, and whether torch was imported."""

    code: int
    out: str
    err: str
    torch: bool


_LOOP = """
import contextlib, io, json, sys
from gptkit.cli import main
for line in sys.stdin:
    asked = json.loads(line)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    stdin = io.TextIOWrapper(io.BytesIO(asked["stdin"].encode("latin-1")), "utf-8")
    before, sys.stdin = sys.stdin, stdin
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(asked["args"])
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    sys.stdin = before
    streams = []
    for stream in (out, err):
        stream.flush()
        streams.append(stream.buffer.getvalue().decode("utf-8", "replace"))
    print(json.dumps([code, *streams, "torch" in sys.modules]), flush=True)
"""


class Commands:
    """Runs command lines one after another in one process, where torch is not imported yet."""

    def __init__(self, cwd, **environ):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            cwd=cwd,
            env={**{k: v for k, v in os.environ.items() if k != "COLUMNS"}, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args, stdin=b""):
        asked = {"args": [str(arg) for arg in args], "stdin": stdin.decode("latin-1")}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Said(*json.loads(self.process.stdout.readline()))

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)
