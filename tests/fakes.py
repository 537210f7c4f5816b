"""Small stand-ins that obey the real contracts: a tokenizer of bytes."""

from __future__ import annotations

import json

from gptkit.plugin_api import Tokenizer

SPECIAL = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


class ByteTokenizer(Tokenizer):
    """Each byte is a token; from 256 on come control tokens."""

    name = "fake_bytes"

    def __init__(self, special=SPECIAL):
        self.special = {name: 256 + i for i, name in enumerate(special)}

    @property
    def vocab_size(self):
        return 256 + len(self.special)

    def encode_ordinary(self, text):
        return list(text.encode("utf-8", "replace"))

    def token_bytes(self, token_id):
        return bytes([token_id]) if token_id < 256 else b""

    def save(self, folder):
        (folder / "bytes.json").write_text(json.dumps(list(self.special)))

    @classmethod
    def load(cls, path):
        return cls(json.loads((path / "bytes.json").read_text())) if path else cls()
