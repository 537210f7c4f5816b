"""A plugin file for tests: a tokenizer of bytes, and a picker that says what a file tells it."""

import json
import os
import time
from pathlib import Path

from gptkit.plugin_api import Sampler, Tokenizer, hookimpl, param

CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
USER, ASSISTANT, END = 257, 258, 259


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
            tokens = list(rows.tokens(row))
            answer = answers[(tokens.count(USER) - 1) % len(answers)].encode("latin-1")
            n_out = tokens[::-1].index(ASSISTANT)  # where it goes on, too
            ids[row] = answer[n_out] if n_out < len(answer) else END
        return ids


class Leaves(Sampler):
    """Do what no plugin should: call sys.exit, or raise what $RAISES says."""

    name = "leaves"
    phase = "scale"
    code = param(0, ge=0, off=0, help="the exit code; 99 raises instead")

    def apply(self, logits, p, rows):
        code = int(p.code[0])
        if code == 99:
            raise RuntimeError(json.loads(Path(os.environ["SCRIPT"]).read_text())[0])
        raise SystemExit(code)


@hookimpl
def gptkit_tokenizers():
    yield Bytes


@hookimpl
def gptkit_samplers():
    yield from (Scripted, Leaves)
