"""Small checkpoints, and safetensors files written by hand, so that they can be wrong."""

from __future__ import annotations

import json
import struct

import torch

from gptkit.checkpoints.layout import tensor_shapes
from gptkit.checkpoints.save import save_checkpoint
from gptkit.model.config import GPTConfig
from gptkit.plugin_api import Tokenizer

SIZES = {"vocab_size": 17, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}


class LetterTokenizer(Tokenizer):
    """Seventeen letters."""

    name = "letters"
    vocab_size = 17

    def encode_ordinary(self, text):
        return [ord(letter) - ord("a") for letter in text]

    def token_bytes(self, token_id):
        return bytes([ord("a") + token_id])

    def save(self, folder):
        (folder / "letters.txt").write_text("abcdefghijklmnopq")

    @classmethod
    def load(cls, path):
        return cls()


def config(**changes):
    return GPTConfig.model_validate({**SIZES, **changes})


def random_tensors(config, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, shape in tensor_shapes(config).items()
    }


def save(folder, seed=0, **changes):
    """Save a tiny checkpoint of ours and return its tensors."""
    sizes = config()
    tensors = random_tensors(sizes, seed)
    arguments = {"tokenizer": LetterTokenizer(), "bos_id": 0, "eos_ids": [0], **changes}
    save_checkpoint(folder, config=sizes, tensors=tensors, **arguments)
    return tensors


def raw(header, data=b"", length=None):
    """Return the bytes of a safetensors file with this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin, end, shape=None, dtype="F32"):
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def hf_config(**changes):
    """Return config.json of a tiny GPT-2."""
    said = {
        "model_type": "gpt2",
        "vocab_size": 17,
        "n_positions": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 8,
        "eos_token_id": 3,
    }
    return json.dumps({**said, **changes}, indent=2)


def hf_folder(folder, names=None, **changes):
    """Write a tiny GPT-2 as Hugging Face has it, and return its tensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(hf_config(**changes))
    tensors = random_tensors(config())
    save_file({(names or str)(key): t for key, t in tensors.items()}, folder / "model.safetensors")
    return tensors
