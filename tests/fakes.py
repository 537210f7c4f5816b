"""Small stand-ins that obey the real contracts: a tokenizer of bytes, models, a chat template."""

from __future__ import annotations

import json

import torch

from gptkit.assembly import Model
from gptkit.model.config import GPTConfig
from gptkit.plugin_api import ChatTemplate, Segment, Tokenizer

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


class FlatModel:
    """Every token is as likely as any other; it remembers what it was asked to compute."""

    shares_prefixes = False
    ranks = False

    def __init__(self, config):
        self.config = config
        self.n_computed = 0

    def new_cache(self, n_slots):
        return [[] for _ in range(n_slots)]

    def step(self, ids, spans, cache, wanted):
        history, at = {}, 0
        for span in spans:
            if span.slot is not None:
                del cache[span.slot][span.start :]
                cache[span.slot] += ids[at : at + span.n]
                self.n_computed += span.n
            tokens = cache[span.slot] if span.slot is not None else [0]
            for i in range(span.n):
                history[at + i] = tokens[: span.start + i + 1]
            at += span.n
        rows = [self.logits(history[i]) for i in wanted]
        return torch.stack(rows) if rows else torch.zeros(0, self.config.vocab_size)

    def logits(self, tokens):
        """Return the logits [V] of what follows `tokens`."""
        return torch.zeros(self.config.vocab_size)


class ScriptedModel(FlatModel):
    """Gives the answers in order, one for each `marker` token before it, then ends with `end`."""

    def __init__(self, config, answers, *, marker, end):
        super().__init__(config)
        self.answers = [
            answer if isinstance(answer, bytes) else answer.encode() for answer in answers
        ]
        self.marker, self.end = marker, end

    def logits(self, tokens):
        answer = self.answers[(tokens.count(self.marker) - 1) % len(self.answers)]
        said = tokens[::-1].index(self.marker) if self.marker in tokens else 0
        logits = torch.full((self.config.vocab_size,), float("-inf"))
        logits[answer[said] if said < len(answer) else self.end] = 0.0
        return logits


class MarkedTemplate(ChatTemplate):
    """Control tokens <s>, <u>, <a> before a turn of system, user, assistant; <e> ends an answer."""

    name = "marked"

    def head(self, system):
        return (Segment("<s>", control=True), Segment(system)) if system else ()

    def turn(self, role, text):
        if role == "user":
            return (Segment("<u>", control=True), Segment(text))
        return (*self.reply(), Segment(text), *self.stops)

    def reply(self):
        return (Segment("<a>", control=True),)

    @property
    def stops(self):
        return (Segment("<e>", control=True),)


def byte_config(tokenizer, block_size=128):
    """Return the config of a fake model over a tokenizer."""
    return GPTConfig(vocab_size=tokenizer.vocab_size, block_size=block_size, n_layer=0, n_embd=1)


def chat_model(answers, *, block_size=128, recommended=None, notes=()):
    """Return a Model that gives `answers` in order in the format of MarkedTemplate."""
    tokenizer = ByteTokenizer(("<s>", "<u>", "<a>", "<e>"))
    config = byte_config(tokenizer, block_size)
    forward = ScriptedModel(
        config, answers, marker=tokenizer.special["<a>"], end=tokenizer.special["<e>"]
    )
    return Model(
        name="fake",
        path=None,
        forward=forward,
        tokenizer=tokenizer,
        config=config,
        eos_ids=frozenset(),
        bos_id=None,
        chat_template="marked",
        recommended=recommended,
        backend="torch",
        device="cpu",
        dtype="float32",
        notes=tuple(notes),
    )
