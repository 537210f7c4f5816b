"""A plugin file for tests: a tokenizer of bytes, and a picker that says what a file tells it."""

import json
import os
import time
from pathlib import Path

from gptkit.plugin_api import Sampler, Tokenizer, hookimpl, param

CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
USER, END = 257, 259


class Bytes(Tokenizer):
    """A token is a byte; four control tokens come behind the 256."""

    name = "bytes"
    special = {name: 256 + i for i, name in enumerate(CONTROL)}
    vocab_size = 260

    def encode_ordinary(self, text):
        return list(text.encode())

    def token_bytes(self, token_id):
        return bytes([token_id]) if token_id < 256 else b""

    def save(self, folder):
        (folder / "bytes.txt").write_text("bytes\n")

    @classmethod
    def load(cls, path):
        return cls()


class Scripted(Sampler):
    """Pick what answer number (turns of the user) of the file $SCRIPT says."""

    name = "scripted"
    phase = "pick"
    delay_s = param(0.0, ge=0, help="seconds for each token")

    def apply(self, logits, p, rows):
        answers = json.loads(Path(os.environ["SCRIPT"]).read_text())
        ids = logits.argmax(-1).clone()
        for row in range(rows.R):
            time.sleep(float(p.delay_s[row]))
            turn = list(rows.tokens(row)).count(USER) - 1
            answer = answers[turn % len(answers)].encode("latin-1")
            n_out = int(rows.n_out[row])
            ids[row] = answer[n_out] if n_out < len(answer) else END
        return ids


@hookimpl
def gptkit_tokenizers():
    yield Bytes


@hookimpl
def gptkit_samplers():
    yield Scripted
