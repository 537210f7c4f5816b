"""Model directories that were damaged, or made to do harm: one line that names the file, soon."""

import json
import os
import pickle
import random
import time
import zipfile

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.errors import CheckpointError, GptkitError

from .makers import entry, hf_config, hf_folder, raw, save

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LIMIT_S = 1.0


def weights(content):
    """Return a maker of a directory whose weights are these bytes."""

    def make(folder):
        hf_folder(folder)
        (folder / WEIGHTS).write_bytes(content() if callable(content) else content)

    return make


def changed(change):
    """Return a maker of a directory whose weights are valid ones after `change`."""

    def make(folder):
        hf_folder(folder)
        valid = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(change(valid))

    return make


def config(content):
    def make(folder):
        hf_folder(folder)
        (folder / "config.json").write_bytes(content)

    return make


def index(weight_map, **files):
    """Return a maker of a directory with this index, beside the shards named in `files`."""

    def make(folder):
        hf_folder(folder)
        (folder / WEIGHTS).rename(folder / "all.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        for name, content in files.items():
            (folder / f"{name}.safetensors").write_bytes(content)

    return make


def link(target):
    def make(folder):
        hf_folder(folder)
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(target)

    return make


def fifo(folder):
    hf_folder(folder)
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def zipped():
    import io

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return file.getvalue()


def pickled(folder):
    hf_folder(folder)
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(zipped())


def directory(folder):
    hf_folder(folder)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def many(n):
    empty = json.dumps(entry(0, 0, [0])).encode()
    return lambda: raw(b"{" + b",".join(b'"t%d":%b' % (i, empty) for i in range(n)) + b"}")


def ours(change):
    """Return a maker of a checkpoint of ours whose folder was changed."""

    def make(folder):
        save(folder)
        change(folder)

    return make


def edit(name, old, new):
    """Return a change of one file of a folder; the manifest, which would notice, is removed."""

    def change(folder):
        (folder / "manifest.json").unlink()
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


A = entry(0, 8)
TWICE = b'{"a":' + json.dumps(A).encode() + b',"a":' + json.dumps(A).encode() + b"}"
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"

HOSTILE = {
    # what is no weights at all
    "empty": (weights(b""), "is empty"),
    "seven bytes": (weights(b"\x07" * 7), "7 bytes"),
    "git lfs pointer": (weights(LFS), "is a Git LFS pointer (134 bytes), not weights"),
    "html": (weights(b"\n<!DOCTYPE html><html>Not found</html>"), "looks like an HTML page"),
    "gzip": (weights(b"\x1f\x8b\x08\x00" + bytes(60)), "compressed with gzip"),
    "zip": (weights(zipped), "a zip archive, as torch.save writes"),
    "pickle": (weights(lambda: pickle.dumps({"a": 1})), "a Python pickle"),
    "gguf": (weights(b"GGUF\x03" + bytes(60)), "a GGUF file"),
    "noise": (weights(random.Random(0).randbytes(1000)), "header length"),
    "pytorch_model.bin": (pickled, "pytorch_model.bin, which is not loaded"),
    "directory as weights": (directory, "is not a regular file"),
    "fifo": (fifo, "is not a regular file"),
    "/dev/zero": (link("/dev/zero"), "outside the model directory"),
    "link to itself": (link(WEIGHTS), "cannot open"),
    "link that leaves": (link("/etc/hostname"), "outside the model directory"),
    "link to nothing": (link("nothing"), "cannot open"),
    # headers
    "length 2^63": (
        weights(raw({}, length=2**63)),
        "header length 9,223,372,036,854,775,808 exceeds",
    ),
    "length 2^64-1": (weights(raw({}, length=2**64 - 1)), "exceeds the limit of 10 MB"),
    "length 100,000,001": (weights(raw({}, length=100_000_001)), "header length 100,000,001"),
    "length above the file": (weights(raw({}, length=1000)), "truncated download?"),
    "last byte missing": (changed(lambda b: b[:-1]), "truncated download?"),
    "half the file": (changed(lambda b: b[: len(b) // 2]), "header says"),
    "one byte extra": (changed(lambda b: b + b"x"), "bytes after the last tensor"),
    "header not json": (weights(raw(b"{]")), "not JSON"),
    "header not utf-8": (weights(raw(b'{"\xff":1}')), "not UTF-8"),
    "header a list": (weights(raw(b"[]")), "header is not JSON"),
    "header empty": (weights(raw(b"")), "header is not JSON"),
    "header with NaN": (weights(raw(b'{"a":NaN}')), "NaN is not a JSON number"),
    "header deep": (weights(raw(DEEP)), "nested too deeply"),
    "header of lists": (weights(raw(b'{"a":[' + b"[]," * 500_000 + b"1]}")), "500,00"),
    "number of 5,000 digits": (weights(raw(b'{"a":' + b"9" * 5000 + b"}")), "5000 digits"),
    "overlap": (weights(raw({"a": A, "b": entry(4, 12)}, bytes(12))), "tensor b overlaps"),
    "same place": (weights(raw({"a": A, "b": A}, bytes(8))), "overlaps"),
    "hole": (weights(raw({"a": A, "b": entry(12, 16)}, bytes(16))), "tensor b leaves a hole"),
    "not from 0": (weights(raw({"a": entry(4, 8)}, bytes(8))), "tensor a leaves a hole"),
    "negative offset": (weights(raw({"a": entry(-4, 4, [2])}, bytes(8))), "data_offsets [-4, 4]"),
    "backwards": (weights(raw({"a": entry(8, 0, [2])}, bytes(8))), "are not [begin, end]"),
    "negative shape": (weights(raw({"a": entry(0, 8, [-2])}, bytes(8))), "shape [-2]"),
    "overflow": (weights(raw({"a": entry(0, 8, [2**40, 2**40])}, bytes(8))), "more than 2^63"),
    "shape against bytes": (weights(raw({"a": entry(0, 8, [3])}, bytes(8))), "is 12 bytes"),
    "shape of texts": (weights(raw({"a": entry(0, 8, ["2"])}, bytes(8))), "not a list of sizes"),
    "true as a size": (weights(raw({"a": entry(0, 4, [True])}, bytes(4))), "not a list of sizes"),
    "no offsets": (
        weights(raw({"a": {"dtype": "F32", "shape": [2]}}, bytes(8))),
        "must have dtype",
    ),
    "entry a number": (weights(raw({"a": 1})), "must have dtype"),
    "unknown dtype": (
        weights(raw({"h.0.x": entry(0, 8, [8], "F8_E9")}, bytes(8))),
        "tensor h.0.x: dtype F8_E9 not supported (supported: F32, F16, BF16)",
    ),
    "tensor twice": (weights(raw(TWICE, bytes(8))), "tensor 'a' is given twice"),
    "metadata a list": (weights(raw({"__metadata__": []})), "__metadata__"),
    "100,001 tensors": (weights(many(100_001)), "100,001 tensors; the limit is 100,000"),
    "500,000 tensors": (weights(many(500_000)), "exceeds the limit of 10 MB"),
    "other tensors": (
        weights(raw({"a": A}, bytes(8))),
        "missing h.0.attn.c_attn.bias [24]; unexpected a [2]; missing",
    ),
    "control codes in a name": (weights(raw({"\x1b]52;\n": 1})), "tensor \\x1b]52;\\n"),
    # the index
    "index ../": (
        index({"a": "../x.safetensors"}),
        "outside the model directory: '../x.safetensors'",
    ),
    "index absolute": (index({"a": "/etc/passwd"}), "outside the model directory: '/etc/passwd'"),
    "index folder": (index({"a": "a/b.safetensors"}), "outside the model directory"),
    "index backslash": (index({"a": "..\\x"}), "outside the model directory"),
    "index dots": (index({"a": ".."}), "outside the model directory"),
    "index a list": (index(["a"]), "weight_map is a list"),
    "index of numbers": (index({"a": 1}), "the file of tensor a is not text"),
    "index empty": (index({}), "weight_map"),
    "missing shard": (
        index({"a": "all.safetensors", "b": "more.safetensors"}),
        "shard more.safetensors is missing",
    ),
    "wrong shard": (
        index(
            {"a": "one.safetensors", "b": "one.safetensors"},
            one=raw({"a": A}, bytes(8)),
        ),
        "tensor b is not in one.safetensors as the index says",
    ),
    "not in the index": (index({"wte.weight": "all.safetensors"}), "the index lacks tensor"),
    "index of lists": (index([[]] * 500_000), "500,00"),
    "million entries": (index({f"t{i}": "x" for i in range(1_000_000)}), "the limit is 10,000,000"),
    # the config
    "config empty": (config(b""), "is empty"),
    "config html": (config(b"<html>"), "looks like an HTML page"),
    "config lfs": (config(LFS), "is a Git LFS pointer"),
    "config not json": (config(b'{"model_type": "gpt2",\n}'), "config.json:2: not JSON"),
    "config a list": (config(b"[]"), "holds a list"),
    "config deep": (config(b"[" * 200_000), "nested too deeply"),
    "config key twice": (
        config(b'{"model_type": "gpt2",\n "n_head": 1,\n "n_head": 2}'),
        "config.json:3: key 'n_head' is given twice",
    ),
    "config 2 MB": (config(b'{"a": "' + b"x" * 2_000_000 + b'"}'), "the limit is 1,000,000"),
    "config 10^9 layers": (
        config(hf_config(n_layer=10**9).encode()),
        "n_layer: 1,000,000,000 is above",
    ),
    "config 10,000 layers": (config(hf_config(n_layer=10**4).encode()), "and 119,97"),
    # ours
    "newer format": (
        ours(edit("gptkit.json", '"format": 1', '"format": 2')),
        "format 2 is newer than 1, the newest that this gptkit reads",
    ),
    "unknown key": (ours(edit("gptkit.json", '"bos_id"', '"bos"')), "unknown key 'bos'"),
    "eos no token": (
        ours(edit("gptkit.json", "    0\n", "    99\n")),
        "token 99 is not in a vocabulary",
    ),
    "tokenizer a path": (ours(edit("gptkit.json", '"letters"', '"../../x"')), "tokenizer"),
    "misspelt size": (
        ours(edit("gptkit.json", '"n_layer": 2', '"n_layer": -2')),
        "gptkit.json:6: config.n_layer: -2 is below 0",
    ),
    "100,000 unknown keys": (
        ours(
            edit(
                "gptkit.json", '"bos_id"', "".join(f'"k{i}":1,' for i in range(90_000)) + '"bos_id"'
            )
        ),
        "unknown key 'k0'",
    ),
    "manifest broken": (
        ours(lambda folder: (folder / "manifest.json").write_text('{"files": 1}')),
        "manifest.json: 'files' is not an object",
    ),
    "manifest leaves": (
        ours(
            lambda folder: (folder / "manifest.json").write_text(
                json.dumps({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}})
            )
        ),
        "cannot open",
    ),
    "tokenizer file cut": (
        ours(lambda folder: (folder / "tokenizer" / "letters.txt").write_text("abc")),
        "letters.txt is 3 bytes, manifest.json says 17",
    ),
}


@pytest.mark.parametrize(("make", "message"), HOSTILE.values(), ids=HOSTILE)
def test_is_refused_with_one_line_that_names_the_file(tmp_path, make, message):
    folder = tmp_path / "model"
    make(folder)
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    took_s = time.process_time() - start
    text = str(caught.value)
    assert message in text
    assert str(folder) in text
    assert "\n" not in text and len(text) < 2000
    assert caught.value.exit_code == 3
    assert took_s < LIMIT_S


def test_a_link_in_an_index_may_not_leave(tmp_path):
    (tmp_path / "secret").write_bytes(raw({"a": A}, bytes(8)))
    index({"a": "one.safetensors"})(tmp_path / "model")
    (tmp_path / "model" / "one.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="link to a file outside the model directory"):
        open_checkpoint(tmp_path / "model")


def test_problems_are_counted_after_five(tmp_path):
    weights(raw({"a": A}, bytes(8)))(tmp_path)
    with pytest.raises(CheckpointError, match=r"unexpected a \[2\]; .*; and 24 more$"):
        open_checkpoint(tmp_path)


def test_wrong_shapes_say_both(tmp_path):
    hf_folder(tmp_path, n_positions=32)
    with pytest.raises(CheckpointError, match=r"wpe.weight: expected \[32, 8\], found \[16, 8\]"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.ckpt", "model.gguf", "model.pth"])
def test_a_file_of_another_kind_is_named_as_such(tmp_path, name):
    hf_folder(tmp_path)
    (tmp_path / name).write_bytes(b"GGUF" + bytes(90) if name.endswith("gguf") else zipped())
    with pytest.raises(CheckpointError, match=name) as caught:
        open_checkpoint(tmp_path / name)
    assert caught.value.hint.startswith("convert it to safetensors")


def test_a_missing_folder_and_a_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no such model directory"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=f"no weights in .*: looked for {WEIGHTS}, {INDEX}"):
        open_checkpoint(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(raw({"a": A}, bytes(8)))
    with pytest.raises(CheckpointError, match="no gptkit.json or config.json"):
        open_checkpoint(tmp_path)


def try_to_load(folder):
    """Open and load; only our own errors may come out."""
    try:
        open_checkpoint(folder).load()
    except GptkitError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid") / "model"
    save(folder)
    (folder / "manifest.json").unlink()  # it would catch nearly everything
    theirs = folder.parent / "theirs"
    hf_folder(theirs)
    return folder, theirs


FILES = ["gptkit.json", WEIGHTS, "config.json"]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    name=st.sampled_from(FILES),
    at=st.integers(0, 2**32),
    length=st.integers(0, 12),
    patch=st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"-1", b"null", b"1e999", b"[]", b"{}", b'"', b",", b"99999999999999"]),
    ),
)
@example(name="config.json", at=0, length=2**31, patch=b'{"model_type":"gpt2","n_head":"\\ud800"}')
@example(name="config.json", at=1, length=0, patch=b'"scale\\u005fattn_weights":0,')
def test_a_mutated_file_raises_nothing_but_our_errors(valid, name, at, length, patch):
    folder = valid[1] if name == "config.json" else valid[0]
    before = (folder / name).read_bytes()
    # Most of a weights file is data, where any change is valid: stay near the header.
    at %= min(len(before), 2600)
    try:
        (folder / name).write_bytes(before[:at] + patch + before[at + length :])
        try_to_load(folder)
    finally:
        (folder / name).write_bytes(before)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(raw)))
def test_random_bytes_raise_nothing_but_our_errors(valid, content):
    folder = valid[0]
    before = (folder / WEIGHTS).read_bytes()
    try:
        (folder / WEIGHTS).write_bytes(content)
        try_to_load(folder)
    finally:
        (folder / WEIGHTS).write_bytes(before)
