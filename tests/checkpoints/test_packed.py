"""Packed weights on disk: found by what they were made of, and never trusted when damaged."""

from pathlib import Path

import pytest
import torch

from gptkit import assembly
from gptkit.checkpoints import packed
from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.checkpoints.save import save_packed
from gptkit.decoding.request import Request, Stops, resolve_chain
from gptkit.plugin_host import registry
from tests.jobs.workshop import save_tiny

pytest.importorskip("numba", reason="the kernels need the extra `fast`")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packed, "KEPT_FROM", 0)
    return save_tiny(tmp_path / "tiny")


def answer(path, dtype):
    model = assembly.load_model(assembly.open_model(str(path)), registry(), dtype=dtype)
    ids = tuple(model.tokenizer.encode_ordinary("Hello"))
    request = Request(ids, resolve_chain(["greedy"], registry()), Stops(20), 0)
    return [event.token_id for event in assembly.engine(model).stream(request)]


def cached(tmp_path):
    return sorted((tmp_path / "home" / "cache" / "packed").glob("*.safetensors"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_a_model_is_packed_once_and_says_the_same_from_the_file(tiny, tmp_path, dtype, monkeypatch):
    first = answer(tiny, dtype)
    assert [path.name.split("-")[1] for path in cached(tmp_path)] == [dtype]
    monkeypatch.setattr(assembly.cpu, "pack", None)  # it would be called
    assert answer(tiny, dtype) == first


def test_embeddings_that_are_not_the_head_are_packed_too(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packed, "KEPT_FROM", 0)
    untied = save_tiny(tmp_path / "untied", tied=False)
    first = answer(untied, "int8")
    monkeypatch.setattr(assembly.cpu, "pack", None)
    assert answer(untied, "int8") == first


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system has no such file")
def test_the_models_own_file_is_let_go_once_it_is_read(tiny, tmp_path):
    """Where it had just been written, its embeddings once counted as 80 MB of a process."""
    models = []
    for is_packed in (False, True):
        source = assembly.open_model(str(tiny))
        models.append(assembly.load_model(source, registry(), dtype="int8"))
        maps = Path("/proc/self/maps").read_text()
        assert str(tiny) not in maps
        assert (str(cached(tmp_path)[0]) in maps) == is_packed


@pytest.mark.parametrize("harm", ["truncated", "empty", "of another shape", "no safetensors"])
def test_a_damaged_file_is_as_good_as_none(tiny, tmp_path, harm):
    first = answer(tiny, "int8")
    (path,) = cached(tmp_path)
    if harm == "of another shape":
        save_packed(path, {"lm_head": torch.zeros(64, dtype=torch.uint8)})
    else:
        data = path.read_bytes()
        path.write_bytes({"truncated": data[:-1], "empty": b"", "no safetensors": b"x" * 99}[harm])
    assert answer(tiny, "int8") == first


def test_other_weights_are_packed_anew(tiny, tmp_path):
    answer(tiny, "int8")
    weights = tiny / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    (tiny / "manifest.json").unlink()
    answer(tiny, "int8")
    assert len(cached(tmp_path)) == 2


def test_a_file_beside_the_model_is_taken_first(tiny, tmp_path):
    first = answer(tiny, "int8")
    (path,) = cached(tmp_path)
    path.rename(packed.beside(open_checkpoint(tiny), "int8"))
    assert answer(tiny, "int8") == first
    assert cached(tmp_path) == []


def test_matrices_begin_at_cache_lines(tmp_path):
    for n in range(1, 9):
        tensors = {f"{'x' * n}{i}": torch.zeros(64 * i, dtype=torch.uint8) for i in range(1, 4)}
        save_packed(tmp_path / "a.safetensors", tensors)
        data = (tmp_path / "a.safetensors").read_bytes()
        assert (8 + int.from_bytes(data[:8], "little")) % 64 == 0
        assert len(data) % 64 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_cache_that_cannot_be_written_costs_time_alone(tiny, tmp_path):
    (tmp_path / "home").write_text("in the way")
    assert answer(tiny, "int8") == answer(tiny, "int8")
