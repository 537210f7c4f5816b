import errno
import json
import os
import random

import pytest
import torch

from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.checkpoints.save import save_checkpoint
from gptkit.errors import CheckpointError, ResourceError

from .makers import LetterTokenizer, config, random_tensors, save


def assert_holds(folder, tensors):
    checkpoint = open_checkpoint(folder)
    checkpoint.verify()
    found = checkpoint.load()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"bias": False}, {"n_layer": 0}])
def test_what_is_saved_comes_back(tmp_path, dtype, changes):
    sizes = config(**changes)
    tensors = random_tensors(sizes, dtype=dtype)
    save_checkpoint(
        tmp_path / "out",
        config=sizes,
        tensors=tensors,
        tokenizer=LetterTokenizer(),
        bos_id=1,
        eos_ids={2, 0},
        chat_template="chat",
        sampling=[{"temperature": 0.8}, "sample"],
    )
    assert_holds(tmp_path / "out", tensors)
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.config == sizes
    assert checkpoint.format == "gptkit"
    assert checkpoint.dtypes == (str(dtype).removeprefix("torch."),)
    assert checkpoint.tokenizer_name == "letters"
    assert checkpoint.tokenizer_path == tmp_path / "out" / "tokenizer"
    assert (checkpoint.bos_id, checkpoint.eos_ids) == (1, (0, 2))
    assert checkpoint.chat_template == "chat"
    assert checkpoint.sampling == ({"temperature": 0.8}, "sample")
    assert checkpoint.notes == ()


def test_files_are_those_of_the_format(tmp_path):
    save(tmp_path / "out")
    names = ["gptkit.json", "manifest.json", "model.safetensors", "tokenizer"]
    assert names_in(tmp_path / "out") == [*names, "tokenizer/letters.txt"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert sorted(manifest["files"]) == [
        "gptkit.json",
        "model.safetensors",
        "tokenizer/letters.txt",
    ]
    modes = {path.stat().st_mode for path in (tmp_path / "out").glob("*.*")}
    assert len(modes) == 1
    assert names_in(tmp_path)[0] == "out"


def test_a_model_may_have_no_tokenizer(tmp_path):
    save(tmp_path / "out", tokenizer=None, bos_id=None, eos_ids=[])
    checkpoint = open_checkpoint(tmp_path / "out")
    assert (checkpoint.tokenizer_name, checkpoint.tokenizer_path) == (None, None)


def test_a_tied_head_is_stored_once_and_views_are_no_trouble(tmp_path):
    sizes = config()
    tensors = random_tensors(sizes)
    given = dict(tensors)
    given["wpe.weight"] = tensors["wpe.weight"].t().contiguous().t()  # not contiguous
    given["lm_head.weight"] = tensors["wte.weight"]
    save_checkpoint(
        tmp_path / "out", config=sizes, tensors=given, tokenizer=None, bos_id=None, eos_ids=()
    )
    assert_holds(tmp_path / "out", tensors)


def test_a_loaded_model_can_be_saved_over_itself(tmp_path):
    tensors = save(tmp_path / "out")
    mapped = open_checkpoint(tmp_path / "out").load()
    mapped["ln_f.bias"].add_(1)
    save_checkpoint(
        tmp_path / "out", config=config(), tensors=mapped, tokenizer=None, bos_id=None, eos_ids=()
    )
    tensors["ln_f.bias"] += 1
    assert_holds(tmp_path / "out", tensors)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "dtype"])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, change):
    tensors = random_tensors(config())
    if change == "missing":
        del tensors["wte.weight"]
    elif change == "unexpected":
        tensors["more"] = torch.zeros(1)
    elif change == "shape":
        tensors["wte.weight"] = torch.zeros(3, 3)
    else:
        tensors["wte.weight"] = tensors["wte.weight"].double()
    with pytest.raises(CheckpointError, match="cannot save"):
        save_checkpoint(
            tmp_path / "out",
            config=config(),
            tensors=tensors,
            tokenizer=None,
            bos_id=None,
            eos_ids=(),
        )
    assert names_in(tmp_path) == []


def test_a_save_replaces_an_older_one_and_keeps_other_files(tmp_path):
    out = tmp_path / "out"
    save(out, extra={"state.json": b"{}"})
    (out / "README.md").write_text("my notes")
    tensors = save(out, seed=1)
    assert_holds(out, tensors)
    assert (out / "README.md").read_text() == "my notes"
    assert not (out / "state.json").exists()
    assert names_in(tmp_path)[0] == "out" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["../x", "a/b", "gptkit.json", "model.safetensors", "", ".."])
def test_an_extra_file_needs_a_name_of_its_own(tmp_path, name):
    with pytest.raises(CheckpointError, match="is no name for a further file"):
        save(tmp_path / "out", extra={name: b"x"})
    assert names_in(tmp_path) == []


def test_what_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    save(tmp_path / "out")  # an empty folder may be filled
    for place in ("photos", "file", "link"):
        with pytest.raises(CheckpointError, match="is in the way"):
            if place == "photos":
                (tmp_path / place).mkdir()
                (tmp_path / place / "me.jpg").touch()
            elif place == "file":
                (tmp_path / place).touch()
            else:
                (tmp_path / place).symlink_to(tmp_path / "out")
            save(tmp_path / place)
    assert (tmp_path / "photos" / "me.jpg").exists()
    assert_holds(tmp_path / "link", random_tensors(config()))


class Counter:
    """Counts calls of the functions of os that a save relies on; fails at the k-th."""

    def __init__(self, monkeypatch, k, error):
        self.n, self.k, self.error = 0, k, error
        for name in ("replace", "fsync", "open", "mkdir"):
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name)))

    def wrapped(self, function):
        def call(*args, **kwargs):
            self.n += 1
            if self.n == self.k:
                raise self.error
            return function(*args, **kwargs)

        return call


def n_calls(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        counter = Counter(patch, 0, None)
        save(tmp_path / "counted")
        save(tmp_path / "counted")
    return counter.n


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path):
    reached, newer = 0, random_tensors(config(), seed=1)
    for k in range(1, n_calls(tmp_path) + 1):
        out = tmp_path / str(k) / "out"
        older = save(out)
        code = (errno.ENOSPC, errno.EIO, errno.EDQUOT)[k % 3]
        error = OSError(code, os.strerror(code), str(out))
        with pytest.MonkeyPatch.context() as patch:
            Counter(patch, k, error)
            try:
                save(out, seed=1)
            except ResourceError as caught:
                reached += 1
                assert caught.exit_code == 6
                assert str(out) in str(caught) and os.strerror(code) in str(caught)
        # Only what comes after the last rename may fail with the new one in place.
        is_newer = not torch.equal(open_checkpoint(out).load()["wte.weight"], older["wte.weight"])
        assert_holds(out, newer if is_newer else older)
        assert open_checkpoint(out).path == out
        assert_holds(out, save(out, seed=2))  # with space again, the same command ends well
        assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert reached > 10


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and tidy up."""


def test_a_killed_save_leaves_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("gptkit.checkpoints.save.shutil.rmtree", lambda *args, **kwargs: None)
    for k in range(1, n_calls(tmp_path) + 1):
        out = tmp_path / str(k) / "out"
        older = save(out)
        with pytest.MonkeyPatch.context() as patch:
            counter = Counter(patch, k, Killed())
            undo = os.replace

            def replace(*args, counter=counter, undo=undo):
                if counter.n >= counter.k:
                    raise Killed  # a dead process undoes nothing
                return undo(*args)

            patch.setattr(os, "replace", replace)
            try:
                save(out, seed=1)
            except Killed:
                pass
        found = open_checkpoint(out)
        found.verify()
        assert found.load().keys() == older.keys()


def test_a_save_after_a_killed_one_ends_well(tmp_path):
    out = tmp_path / "out"
    older = save(out)
    save(tmp_path / "newer", seed=1)
    (tmp_path / "newer").rename(tmp_path / ".out.tmp")
    out.rename(tmp_path / ".out.old")  # killed between the two renames
    assert_holds(out, older)
    tensors = save(out, seed=2)
    assert_holds(out, tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_size_limit_is_a_full_disk(tmp_path):
    """The weights are written by a library that reports errors its own way."""
    import resource
    import signal

    older = save(tmp_path / "out")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
        with pytest.raises(ResourceError, match="File too large"):
            save(tmp_path / "out", seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert_holds(tmp_path / "out", older)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot save .*file/out"):
        save(tmp_path / "file" / "out")


def test_every_flipped_byte_is_found(tmp_path):
    out = tmp_path / "out"
    save(out)
    paths = [path for path in out.rglob("*") if path.is_file()]
    chance = random.Random(3)
    for _ in range(100):
        path = chance.choice(paths)
        before = path.read_bytes()
        changed = bytearray(before)
        at = chance.randrange(len(before))
        changed[at] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"out/"):
            open_checkpoint(out).load()
        path.write_bytes(before)
    open_checkpoint(out).load()


def test_big_weights_are_verified_on_request_only(tmp_path, monkeypatch):
    monkeypatch.setattr("gptkit.checkpoints.checkpoint.VERIFIED_BYTES", 1000)
    out = tmp_path / "out"
    save(out)
    with (out / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    checkpoint = open_checkpoint(out)
    assert checkpoint.load()
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        checkpoint.verify()


def test_a_checkpoint_without_manifest_says_so(tmp_path):
    save(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.load()
    assert "no manifest.json" in checkpoint.notes[0]
    with pytest.raises(CheckpointError, match="no manifest"):
        checkpoint.verify()
