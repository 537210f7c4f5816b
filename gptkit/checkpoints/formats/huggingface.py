"""Hugging Face GPT-2 directories: config.json beside safetensors, sharded or not.

Only the keys named here are read from config.json, so nothing in it can choose code.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gptkit.checkpoints import safe_load, settings
from gptkit.checkpoints.checkpoint import Checkpoint
from gptkit.checkpoints.layout import tensor_shapes
from gptkit.checkpoints.strict_json import key_lines, shown
from gptkit.config import Items, Settings
from gptkit.errors import CheckpointError
from gptkit.model.config import GPTConfig

if TYPE_CHECKING:
    from pathlib import Path

    from gptkit.checkpoints.header import TensorInfo
    from gptkit.checkpoints.safe_load import WeightsFile

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZERS = (("vocab.json", "merges.txt"), ("tokenizer.json",), ("encoder.json", "vocab.bpe"))

_PREFIX = "transformer."
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""The causal mask, which old checkpoints hold."""


TokenId = Annotated[int, Field(ge=0, le=10_000_000)]


class GenerationSettings(Settings):
    """What we read of generation_config.json: how to sample is the user's choice."""

    eos_token_id: TokenId | Items[TokenId] | None = None


class GPT2Settings(Settings):
    """What we read of config.json; the defaults are those of transformers' GPT2Config.

    The sizes have none here: n_head can't be told from the shapes, so a guess could be wrong
    in silence.
    """

    vocab_size: int = Field(ge=1, le=10_000_000)
    n_positions: int = Field(ge=1, le=10_000_000)
    n_embd: int = Field(ge=1, le=1_000_000)
    n_layer: int = Field(ge=0, le=10_000)
    n_head: int = Field(ge=1, le=10_000)
    n_inner: int | None = Field(None, ge=1, le=10_000_000)
    layer_norm_epsilon: float = Field(1e-5, gt=0, le=1)
    tie_word_embeddings: bool = True
    embd_pdrop: float = Field(0.1, ge=0, lt=1)
    attn_pdrop: float = Field(0.1, ge=0, lt=1)
    resid_pdrop: float = Field(0.1, ge=0, lt=1)
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | Items[TokenId] | None = None


_SUPPORTED: dict[str, tuple[str | bool, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
}
"""Switches of the architecture, with the values that our model has; the first is the default."""


def read(folder: Path, weights: str | None = None) -> Checkpoint:
    """Describe a folder that has a config.json; `weights` names another file than the usual."""
    data, raw = safe_load.read_json(folder, CONFIG)
    said = _settings(data, folder / CONFIG, raw)
    config = settings.build(GPTConfig, _gpt_config(said), folder / CONFIG, raw)
    files = safe_load.find_weights(folder, weights)
    names = _names(files, config)
    bos = () if said.bos_token_id is None else (said.bos_token_id,)
    bos_ids, bos_notes = _split_by_vocabulary(bos, "bos", config)
    eos_ids, eos_notes = _split_by_vocabulary(_eos(folder, said), "eos", config)
    has_tokenizer = any(all((folder / f).is_file() for f in group) for group in TOKENIZERS)
    return Checkpoint(
        path=folder,
        format="huggingface",
        config=config,
        files=tuple(files),
        names=names,
        tokenizer_name="bpe" if has_tokenizer else None,
        tokenizer_path=folder if has_tokenizer else None,
        bos_id=bos_ids[0] if bos_ids else None,
        eos_ids=eos_ids,
        notes=(*bos_notes, *eos_notes),
    )


def _settings(data: dict[str, Any], path: Path, raw: bytes) -> GPT2Settings:
    model_type = data.get("model_type")
    if model_type != "gpt2":
        found = f"'{shown(model_type)}'" if isinstance(model_type, str) else "missing"
        raise CheckpointError(f"{path}: model_type is {found}; only 'gpt2' is supported")
    if data.get("quantization_config") is not None:
        raise CheckpointError(f"{path}: quantization_config: quantized weights are not supported")
    for key, values in _SUPPORTED.items():
        value = data.get(key, values[0])
        if type(value) is not type(values[0]) or value not in values:
            line, wanted = key_lines(raw).get(key), " or ".join(map(json.dumps, values))
            said = f"{key} {shown(json.dumps(value))} is not supported, only {wanted}"
            raise CheckpointError(f"{path}:{line}: {said}" if line else f"{path}: {said}")
    known = {key: value for key, value in data.items() if key in GPT2Settings.model_fields}
    return settings.build(GPT2Settings, known, path, raw)


def _gpt_config(said: GPT2Settings) -> dict[str, Any]:
    return {
        "vocab_size": said.vocab_size,
        "block_size": said.n_positions,
        "n_layer": said.n_layer,
        "n_head": said.n_head,
        "n_embd": said.n_embd,
        "n_inner": said.n_inner,
        "tied": said.tie_word_embeddings,
        "layer_norm_epsilon": said.layer_norm_epsilon,
        "embd_dropout": said.embd_pdrop,
        "attn_dropout": said.attn_pdrop,
        "resid_dropout": said.resid_pdrop,
    }


def _names(files: list[WeightsFile], config: GPTConfig) -> dict[str, str]:
    """Map our names to the files', with or without prefix, after comparing all shapes."""
    stored: dict[str, str] = {}
    found: dict[str, TensorInfo] = {}
    for file in files:
        for key, info in file.tensors.items():
            name = key.removeprefix(_PREFIX)
            if _BUFFER.fullmatch(name):
                continue
            if name in stored:
                both = f"{shown(stored[name])} and {shown(key)}"
                raise CheckpointError(f"{file.path}: {both} are the same tensor")
            stored[name], found[name] = key, info
    expected = tensor_shapes(config)
    if config.tied and "lm_head.weight" in found:  # allowed where it equals wte: see `load`
        expected["lm_head.weight"] = expected["wte.weight"]
    safe_load.check_tensors(expected, found, str(files[0].path))
    return stored


def _eos(folder: Path, said: GPT2Settings) -> tuple[int, ...]:
    """Return the end-of-text ids: generation_config.json's, where it names any."""
    eos: Any = said.eos_token_id
    if os.path.lexists(folder / GENERATION):
        data, raw = safe_load.read_json(folder, GENERATION)
        known = {"eos_token_id": data.get("eos_token_id")}
        theirs = settings.build(GenerationSettings, known, folder / GENERATION, raw)
        eos = eos if theirs.eos_token_id is None else theirs.eos_token_id
    ids = () if eos is None else tuple(eos) if isinstance(eos, tuple) else (eos,)
    return tuple(dict.fromkeys(ids))


def _split_by_vocabulary(
    ids: tuple[int, ...], what: str, config: GPTConfig
) -> tuple[tuple[int, ...], list[str]]:
    """Return the ids that are tokens, and a note on each that isn't and can never occur."""
    inside = tuple(i for i in ids if i < config.vocab_size)
    notes = [
        f"{what} token {i} is outside the vocabulary of {config.vocab_size:,}: left out"
        for i in ids
        if i not in inside
    ]
    return inside, notes
