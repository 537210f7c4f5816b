"""One model of random weights, in the form of every system."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import numpy as np
import torch

from gptkit import assembly
from gptkit.model.config import NAMED_SIZES
from gptkit.model.gpt import GPT
from gptkit_plugins.tokenizers.bpe_files import LETTERS
from tests.benchmarks.peers.systems import quiet
from tests.model.test_gpt import hugging_face

if TYPE_CHECKING:
    from pathlib import Path

FTYPES = {"float32": 0, "bfloat16": 32, "int8": 7, "int4": 2}
"""llama.cpp's names for its files: F32, BF16, Q8_0 and Q4_0 (llama.h, enum llama_ftype)."""
CT2_DTYPES = ("float32", "int8")


def write(folder: Path) -> None:
    """Write GPT-2's 124M shape for each system into a folder."""
    model = GPT(NAMED_SIZES["gpt2"]).init_weights(0)
    _write_hf(folder / "hf", model)
    for dtype in FTYPES:
        assembly.convert(assembly.open_model(str(folder / "hf")), dtype)
    _write_ct2(folder)
    _write_gguf(folder, model)


def _write_hf(folder: Path, model: GPT) -> None:
    """Write what all but llama.cpp can read; the tokenizer has GPT-2's sizes, and any merges."""
    hugging_face(model).save_pretrained(folder)
    letters = list(LETTERS)
    pairs = [*itertools.islice(itertools.product(letters, letters), 50_000)]
    vocab = [*letters, *map("".join, pairs), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    merges = ["#version: 0.2", *map(" ".join, pairs)]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")


def _write_ct2(folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    for dtype in CT2_DTYPES:
        converter = TransformersConverter(str(folder / "hf"))
        converter.convert(str(folder / f"ctranslate2-{dtype}"), quantization=dtype)


def _write_gguf(folder: Path, model: GPT) -> None:
    import gguf
    import llama_cpp

    config, path = model.config, folder / "float32.gguf"
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    weights = {name: w.detach().numpy() for name, w in model.state_dict().items()}
    for ours, theirs in _names(config.n_layer).items():
        for part in ("weight", "bias"):
            if (w := weights.get(f"{ours}.{part}")) is not None:
                is_matrix = w.ndim == 2 and not ours.startswith("w")
                writer.add_tensor(f"{theirs}.{part}", np.ascontiguousarray(w.T if is_matrix else w))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quiet(llama_cpp)
    for dtype, ftype in FTYPES.items():
        if ftype:
            settings = llama_cpp.llama_model_quantize_default_params()
            settings.ftype, settings.nthread = ftype, torch.get_num_threads()
            out = folder / f"{dtype}.gguf"
            failed = llama_cpp.llama_model_quantize(str(path).encode(), str(out).encode(), settings)
            assert not failed, out


def _names(n_layer: int) -> dict[str, str]:
    names = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    for i in range(n_layer):
        names |= {
            f"h.{i}.ln_1": f"blk.{i}.attn_norm",
            f"h.{i}.attn.c_attn": f"blk.{i}.attn_qkv",
            f"h.{i}.attn.c_proj": f"blk.{i}.attn_output",
            f"h.{i}.ln_2": f"blk.{i}.ffn_norm",
            f"h.{i}.mlp.c_fc": f"blk.{i}.ffn_up",
            f"h.{i}.mlp.c_proj": f"blk.{i}.ffn_down",
        }
    return names
