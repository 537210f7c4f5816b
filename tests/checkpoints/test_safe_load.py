import subprocess
import sys

import pytest
import torch

from gptkit.checkpoints import safe_load
from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.errors import CheckpointError

from .makers import hf_folder, save


def test_opening_needs_neither_torch_nor_safetensors(tmp_path):
    save(tmp_path / "ours")
    hf_folder(tmp_path / "theirs")
    code = f"""
import sys
from pathlib import Path
from gptkit.checkpoints.checkpoint import open_checkpoint
for name in ("ours", "theirs"):
    open_checkpoint(Path({str(tmp_path)!r}) / name)
assert not {{"torch", "safetensors", "numpy", "ruamel"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_outside_the_folder_is_opened(tmp_path):
    hf_folder(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "x.safetensors")
    index = '{"weight_map": {"wte.weight": "../x.safetensors"}}'
    (tmp_path / "model" / "model.safetensors.index.json").write_text(index)
    code = f"""
import sys
from pathlib import Path
from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.errors import CheckpointError
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
try:
    open_checkpoint(Path({str(tmp_path)!r}) / "model")
except CheckpointError:
    print(*[Path(name).name for name in opened if name.startswith({str(tmp_path)!r})])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["config.json", "model.safetensors.index.json"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_non_finite_values_are_counted(dtype):
    tensors = {"good": torch.ones(10, dtype=dtype), "bad": torch.ones(4, 5, dtype=dtype)}
    tensors["bad"][0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=dtype)
    tensors |= {"ids": torch.tensor([1]), "none": torch.zeros(0)}
    assert safe_load.non_finite(tensors) == ["tensor bad: 3 non-finite values"]
    for value in (float("nan"), float("inf"), -float("inf")):
        one = {"one": torch.tensor([0.0, value, 1.0], dtype=dtype)}
        assert safe_load.non_finite(one) == ["tensor one: 1 non-finite values"]


def test_extra_tensors_of_any_dtype_come_back(tmp_path):
    state = {"step": torch.tensor(7), "mask": torch.tensor([True, False]), "m": torch.randn(3)}
    save(tmp_path / "out", extra={"optimizer.safetensors": state, "state.json": b'{"step": 7}'})
    checkpoint = open_checkpoint(tmp_path / "out")
    found = checkpoint.load_extra("optimizer.safetensors")
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert checkpoint.read_extra("state.json") == {"step": 7}
    with pytest.raises(CheckpointError, match="cannot open"):
        checkpoint.read_extra("nothing.json")
