import io
import json
import subprocess
import sys

import pytest

from gptkit.cli import models
from gptkit.config import home
from gptkit.decoding.request import parse_stage, resolve_chain
from gptkit.errors import CheckpointError
from gptkit.plugin_host import registry

from ..checkpoints.makers import hf_folder, save


def run(*args):
    """Run `gptkit models` in this process and return what it prints."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("COLUMNS", "120")
        models.app(args=list(args), standalone_mode=False)
    return out.getvalue()


@pytest.fixture
def at_home():
    save(home() / "models" / "mine", chat_template="chat", sampling=[{"top_k": 5}, "greedy"])
    hf_folder(home() / "models" / "theirs")
    (home() / "models" / "broken").mkdir()
    return home() / "models"


def test_list_shows_models_and_sizes(at_home):
    lines = run("list").splitlines()
    assert lines[0].split() == ["name", "kind", "parameters", "context", "vocabulary", "on", "disk"]
    found = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert found["gpt2"] == ["size", "124,439,808", "1,024", "50,257", "-"]
    assert found["gpt2-xl"][:2] == ["size", "1,557,611,200"]
    assert found["mine"] == ["home", "2,024", "16", "17", "0.0", "MiB"]
    assert found["broken"] == ["home", "-", "-", "-", "-"]
    assert found["BROKEN"][:3] == ["broken:", "no", "weights"]


def test_list_as_json(at_home):
    records = {record["name"]: record for record in json.loads(run("list", "--json"))}
    assert {"mine", "theirs", "broken", "gpt2", "gpt2-medium"} <= records.keys()
    assert records["theirs"]["format"] == "huggingface"
    assert "no weights in" in records["broken"]["error"]


@pytest.mark.parametrize("name", ["mine", "path"])
def test_show_a_model(at_home, name):
    record = json.loads(run("show", str(at_home / "mine") if name == "path" else name, "--json"))
    assert record["kind"] == ("path" if name == "path" else "home")
    assert record["parameters"] == {"own": 2024, "tied": 2024, "untied": 2024 + 17 * 8}
    assert record["weights_bytes"]["bfloat16"] == {"tied": 4048, "untied": 4320}
    assert record["kv_bytes_per_token"]["float32"] == 2 * 2 * 8 * 4
    assert record["kv_bytes_full_context"]["float16"] == 2 * 2 * 8 * 2 * 16
    assert record["tokenizer"] == "letters" and record["eos_ids"] == [0]
    assert record["sampling"] == [{"top_k": 5}, "greedy"] and record["chat_template"] == "chat"
    assert list(record["files"]) == ["model.safetensors"] and record["dtypes"] == ["float32"]
    assert record["config"]["n_layer"] == 2


def test_show_a_named_size():
    page = run("show", "gpt2")
    assert "124,439,808 with tied embeddings, 163,037,184 untied (this model: tied)" in page
    rows = {line.split()[0]: line.split()[1:] for line in page.splitlines() if "MiB" in line}
    # 163,037,184 floats of 4 bytes; 12 layers of keys and values, 768 wide, 4 bytes each.
    assert rows["float32"] == ["474.70", "MiB", "621.94", "MiB", "73,728", "B", "72.00", "MiB"]
    assert rows["float16"][4] == "36,864"


def test_a_page_says_what_the_folder_says(at_home):
    page = run("show", "mine")
    assert "sampling            top_k=5 greedy" in page
    assert "tokenizer           letters" in page
    assert "notes" not in page
    assert "notes               eos token" in run("show", make_note(at_home))


def test_a_page_shows_the_chain_as_options_take_it_and_numbers_with_separators(at_home):
    """`models show mini` once said `{"temperature": 0.7}, {"top_p": 0.9}` and `2048`."""
    odd = {"dry": {"multiplier": 0.8, "breakers": ["\n", "é"], "fast": True}}
    items = ["greedy", {"mine": "off"}, {"top_k": 5}, odd]
    save(at_home / "many", sampling=items)
    page = run("show", "many")
    assert 'greedy mine=off top_k=5 dry:multiplier=0.8,breakers=["\\n", "é"],fast=true\n' in page
    mini = run("show", "mini")
    assert "sampling            temperature=0.7 top_p=0.9\n" in mini
    assert "vocab_size          2,048\n" in mini and "bias                False\n" in mini
    stages = mini.rpartition("sampling ")[2].splitlines()[0].split()
    assert [str(stage) for stage in resolve_chain(map(parse_stage, stages), registry())] == [
        *stages,
        "sample",
    ]


def make_note(at_home):
    hf_folder(at_home / "odd", eos_token_id=99)
    return "odd"


def test_names_are_made_safe(at_home):
    (at_home / "theirs").rename(at_home / "\x1b[31mred")
    assert "\x1b" not in run("list") + run("list", "--json")
    assert "\x1b" not in run("show", "\x1b[31mred") + run("show", "\x1b[31mred", "--json")


def test_a_missing_or_broken_model_is_an_error(at_home):
    with pytest.raises(CheckpointError, match="no such model directory: gpt3"):
        run("show", "gpt3")
    with pytest.raises(CheckpointError, match="no weights"):
        run("show", "broken")


@pytest.mark.parametrize("args", [["list"], ["list", "--json"], ["show", "mine"], ["show", "gpt2"]])
def test_torch_is_not_imported(at_home, args):
    code = f"""
import sys
from gptkit.cli import models
models.app(args={args!r}, standalone_mode=False)
assert not {{"torch", "numpy", "safetensors", "tiktoken"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
