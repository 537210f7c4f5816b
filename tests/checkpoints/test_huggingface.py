import json

import pytest
import torch
from safetensors.torch import save_file

from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.errors import CheckpointError

from .makers import config, hf_config, hf_folder, random_tensors


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A random GPT-2 as transformers saves it: whole, in shards, untied, in bfloat16."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(seed=0, **changes):
        torch.manual_seed(seed)
        sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 17, "n_positions": 16}
        ids = {"bos_token_id": 3, "eos_token_id": 3}
        return GPT2LMHeadModel(GPT2Config(**sizes, **ids, **changes))

    folder = tmp_path_factory.mktemp("theirs")
    saved = {
        "whole": (make(), {}),
        "sharded": (make(), {"max_shard_size": "2KB"}),
        "untied": (make(tie_word_embeddings=False), {}),
        "narrow": (make(n_inner=12, layer_norm_epsilon=1e-3, attn_pdrop=0.25), {}),
        "bfloat16": (make().to(torch.bfloat16), {}),
    }
    for name, (model, how) in saved.items():
        model.save_pretrained(folder / name, **how)
    return folder, {name: model for name, (model, _) in saved.items()}


@pytest.mark.parametrize("name", ["whole", "sharded", "untied", "narrow", "bfloat16"])
def test_tensors_are_those_of_transformers(theirs, name):
    folder, models = theirs
    expected = {k.removeprefix("transformer."): v for k, v in models[name].state_dict().items()}
    if name != "untied":
        del expected["lm_head.weight"]
    checkpoint = open_checkpoint(folder / name)
    found = checkpoint.load()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(found[key].dtype == expected[key].dtype for key in expected)
    assert checkpoint.format == "huggingface"
    assert checkpoint.dtypes == (("bfloat16",) if name == "bfloat16" else ("float32",))
    assert len(checkpoint.files) == (5 if name == "sharded" else 1)


def test_config_is_honoured(theirs):
    folder, _ = theirs
    found = open_checkpoint(folder / "narrow").config
    assert (found.mlp_width, found.layer_norm_epsilon, found.attn_dropout) == (12, 1e-3, 0.25)
    assert found.tied and not open_checkpoint(folder / "untied").config.tied


def test_a_file_names_its_folder(theirs):
    folder, _ = theirs
    by_file = open_checkpoint(folder / "whole" / "model.safetensors")
    by_index = open_checkpoint(folder / "sharded" / "model.safetensors.index.json")
    assert by_file.config == open_checkpoint(folder / "whole").config
    assert by_index.load().keys() == by_file.load().keys()


def test_the_sorting_model(data):
    checkpoint = open_checkpoint(data / "checkpoints" / "gpt-nano-sort" / "hf")
    tensors = checkpoint.load()
    assert (checkpoint.config.n_layer, checkpoint.config.block_size) == (3, 11)
    assert tensors["lm_head.weight"].shape == (3, 48)
    assert checkpoint.eos_ids == (0,) and checkpoint.tokenizer_name is None


def test_names_without_prefix_and_mask_buffers(tmp_path):
    expected = random_tensors(config())
    mask = torch.ones(1, 1, 16, 16).tril()
    buffers = {f"h.{i}.attn.bias": mask.clone() for i in range(2)}
    buffers |= {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    (tmp_path / "config.json").write_text(hf_config())
    save_file(expected | buffers, tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path).load()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path):
    tensors = random_tensors(config())
    tensors["wte.weight"][0, 0] = float("nan")  # equal by its bits, though not by comparison
    (tmp_path / "config.json").write_text(hf_config())
    head = {"lm_head.weight": tensors["wte.weight"].clone()}
    save_file(
        {f"transformer.{k}": v for k, v in tensors.items()} | head, tmp_path / "model.safetensors"
    )
    checkpoint = open_checkpoint(tmp_path)
    assert "lm_head.weight" not in checkpoint.load()
    head["lm_head.weight"][1, 1] += 1
    save_file(tensors | head, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight is not wte.weight"):
        open_checkpoint(tmp_path).load()


def test_a_mapped_tensor_never_writes_to_the_file(tmp_path):
    hf_folder(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    tensors = open_checkpoint(tmp_path).load()
    tensors["wte.weight"].fill_(7)
    del tensors
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_eos_ids_come_from_the_generation_config(tmp_path):
    hf_folder(tmp_path, eos_token_id=[3])
    assert open_checkpoint(tmp_path).eos_ids == (3,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [4, 5, 4], "top_k": 2}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.eos_ids == (4, 5)
    assert checkpoint.sampling is None
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 6}')
    assert open_checkpoint(tmp_path).eos_ids == (6,)
    (tmp_path / "generation_config.json").write_text("{}")
    assert open_checkpoint(tmp_path).eos_ids == (3,)


def test_an_eos_outside_the_vocabulary_is_left_out_with_a_note(tmp_path):
    hf_folder(tmp_path, eos_token_id=50256)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.eos_ids == ()
    assert checkpoint.notes == ("eos token 50256 is outside the vocabulary of 17: left out",)


@pytest.mark.parametrize(
    "files",
    [("vocab.json", "merges.txt"), ("tokenizer.json",), ("encoder.json", "vocab.bpe"), ()],
)
def test_tokenizer_files_mean_bpe(tmp_path, files):
    hf_folder(tmp_path)
    (tmp_path / "merges.txt.orig").touch()
    for name in files:
        (tmp_path / name).touch()
    checkpoint = open_checkpoint(tmp_path)
    expected = ("bpe", tmp_path) if files else (None, None)
    assert (checkpoint.tokenizer_name, checkpoint.tokenizer_path) == expected


REFUSED = {
    "activation": (
        {"activation_function": "relu"},
        r"config.json:9: activation_function \"relu\" is not supported",
    ),
    "unscaled": ({"scale_attn_weights": False}, "scale_attn_weights"),
    "by layer": ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    "reordered": ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
    "cross": ({"add_cross_attention": True}, "add_cross_attention"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantized weights are not supported"),
    "another model": ({"model_type": "llama"}, "model_type is 'llama'; only 'gpt2'"),
    "layers": ({"n_layer": 10**9}, r"config.json:5: n_layer: 1,?000,?000,?000 is above 10,000"),
    "text": ({"n_layer": "2"}, r"config.json:5: n_layer: expected a whole number, got text"),
    "heads": ({"n_head": 3}, "n_head 3 does not divide n_embd 8"),
    "no positions": ({"n_positions": 0}, r"n_positions: 0 is below 1"),
    "true": ({"vocab_size": True}, "vocab_size: expected a whole number, got true"),
    "eos": ({"eos_token_id": "end"}, "eos_token_id: expected .* got text"),
    "many eos": ({"eos_token_id": [-1]}, "eos_token_id"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_the_config_asks_for_and_we_lack(tmp_path, changes, message):
    hf_folder(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_sizes_are_never_guessed(tmp_path):
    hf_folder(tmp_path)
    said = json.loads(hf_config())
    del said["n_head"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="'n_head' is missing"):
        open_checkpoint(tmp_path)


def test_keys_that_choose_code_are_not_read(tmp_path):
    hf_folder(
        tmp_path,
        auto_map={"AutoModel": "evil--evil.Model"},
        _attn_implementation_internal="evil/kernel",
        torch_dtype="evil",
    )
    assert open_checkpoint(tmp_path).load()


def test_the_cache_of_hugging_face_may_hold_links(tmp_path):
    hf_folder(tmp_path / "made")
    snapshot, blobs = tmp_path / "snapshots" / "0123", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "made" / name).rename(blobs / f"hash-of-{name}")
        (snapshot / name).symlink_to(f"../../blobs/hash-of-{name}")
    assert open_checkpoint(snapshot).load()
