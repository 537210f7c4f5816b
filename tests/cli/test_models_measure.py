"""`gptkit models convert` and `measure`: what each format of the weights takes and costs."""

from __future__ import annotations

import json
import math
import shutil

import pytest

pytest.importorskip("numba", reason="the kernels need the extra `fast`")

from gptkit import assembly
from gptkit.checkpoints import packed, quality
from gptkit.checkpoints.library import bundled
from gptkit.cli import main
from gptkit.model.cpu import load as cpu
from gptkit.model.forward import Span

MINI = dict(bundled())["mini"]
TEXT = "Question: What is top-p sampling?\nAnswer: It keeps the smallest set of words.\n" * 40


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(MINI, tmp_path / "model", ignore=shutil.ignore_patterns("quality.json"))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "new.txt"
    path.write_text(TEXT)
    return path


def shown(model, capsys):
    assert main(["models", "show", str(model), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def say(model, dtype, capsys):
    capsys.readouterr()
    args = ["generate", "Hello", "-m", str(model), "--dtype", dtype, "--seed", "1"]
    assert main([*args, "--max-new-tokens", "8"]) == 0
    return capsys.readouterr().out


def test_what_is_converted_is_what_the_next_start_takes(model, capsys, monkeypatch):
    before = say(model, "int4", capsys)
    assert shown(model, capsys)["packed"] == []
    assert main(["models", "convert", str(model), "--dtype", "int4", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (found,) = shown(model, capsys)["packed"]
    assert found == {"dtype": "int4", "path": record["path"], "bytes": record["bytes_on_disk"]}
    monkeypatch.setattr(cpu, "pack", None)  # nobody packs any more
    assert say(model, "int4", capsys) == before


def test_weights_that_changed_are_packed_anew(model, capsys):
    assert main(["models", "convert", str(model)]) == 0
    source = assembly.open_model(str(model))
    sizes = cpu.sizes(source.config, "int8")
    assert packed.find(source, "int8", sizes) is not None
    with source.files[0].path.open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\0\0")
    assert packed.find(assembly.open_model(str(model)), "int8", sizes) is None


def test_convert_refuses_what_it_can_not_write(model, capsys):
    source = assembly.open_model(str(model))
    packed.beside(source, "int8").mkdir()  # in the way
    assert main(["models", "convert", str(model)]) == 6
    assert "cannot write" in capsys.readouterr().err
    assert main(["models", "convert", str(model), "--dtype", "float16"]) == 2
    assert "--dtype: 'float16' is none of float32, bfloat16" in capsys.readouterr().err


def perplexity(model, ids):
    """In the torch model, a context after another, each alone."""
    loaded = assembly.load_model(model, assembly.registry(), backend="torch", device="cpu")
    size, total, n = loaded.config.block_size, 0.0, 0
    for start in range(0, len(ids), size):
        piece = ids[start : start + size]
        if len(piece) > 1:
            cache = loaded.forward.new_cache(1)
            logits = loaded.forward.step(piece, [Span(0, 0, len(piece))], cache, range(len(piece)))
            known = logits[:, : loaded.tokenizer.vocab_size].double().log_softmax(-1)
            total -= sum(known[i, piece[i + 1]].item() for i in range(len(piece) - 1))
            n += len(piece) - 1
    return math.exp(total / n)


def test_measure_equals_the_torch_model_s_perplexity_and_show_prints_it(model, text, capsys):
    source = assembly.open_model(str(model))
    assert shown(model, capsys)["quality"] is None
    assert main(["models", "measure", str(model), str(text)]) == 0
    page = capsys.readouterr().out
    record = shown(model, capsys)["quality"]
    tokenizer, _ = assembly.open_tokenizer(source, assembly.registry(), None)
    ids = tokenizer.encode_ordinary(TEXT)
    assert len(ids) > source.config.block_size
    n_scored = len(ids) - math.ceil(len(ids) / source.config.block_size)
    assert (record["text"], record["n_tokens"]) == ("new.txt", n_scored)
    assert record["perplexity"]["float32"] == pytest.approx(perplexity(source, ids), rel=1e-4)
    for dtype, most in {"bfloat16": 0.005, "int8": 0.02, "int4": 0.3}.items():
        ratio = record["perplexity"][dtype] / record["perplexity"]["float32"]
        assert record["loss"][dtype] == pytest.approx(ratio - 1)
        assert 0 < abs(ratio - 1) < most, dtype
    assert main(["models", "show", str(model)]) == 0
    assert page in capsys.readouterr().out + "\n"
    assert f"perplexity  on new.txt, {n_scored:,} tokens" in page


def test_what_was_measured_of_other_weights_is_not_shown(model, text, capsys):
    assert main(["models", "measure", str(model), str(text)]) == 0
    capsys.readouterr()
    record = json.loads((model / quality.FILE).read_text())
    (model / quality.FILE).write_text(json.dumps({**record, "weights": "0" * 64}))
    assert shown(model, capsys)["quality"] is None
    (model / quality.FILE).write_text("{}")
    assert main(["models", "show", str(model)]) == 0
    said = capsys.readouterr()
    assert "quality.json is no record of a measurement" in said.err
    assert "perplexity" not in said.out


def test_measure_asks_for_one_text(model, tmp_path, text, capsys):
    short = tmp_path / "short.txt"
    short.write_text("")
    for args in ([], [str(text), "--recipe", "mini"], [str(short)], [str(tmp_path / "none")]):
        assert main(["models", "measure", str(model), *args]) == 2, args
        assert capsys.readouterr().err.startswith("gptkit: error: ")
    assert main(["models", "measure", str(model), "--recipe", "bigram"]) != 0


@pytest.mark.slow
def test_the_formats_of_mini_lose_no_more_than_they_may(model, data, capsys):
    """Perplexity within 0.1 % in bfloat16, 1 % in int8 and 6 % in int4; and the shipped record."""
    assert main(["models", "measure", str(model), "--recipe", "mini"]) == 0
    capsys.readouterr()
    found, shipped = shown(model, capsys)["quality"], shown(MINI, capsys)["quality"]
    assert abs(found["loss"]["bfloat16"]) <= 0.001
    assert abs(found["loss"]["int8"]) <= 0.01
    assert abs(found["loss"]["int4"]) <= 0.06
    assert found["perplexity"] == pytest.approx(shipped["perplexity"], rel=1e-4)
