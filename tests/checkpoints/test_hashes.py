"""Digests of files, against hashlib; large ones are read once."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from gptkit.checkpoints import hashes, safe_load
from gptkit.config import home
from gptkit.errors import CheckpointError


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Return a file that counts as large, and the list of files that are read."""
    monkeypatch.setattr(hashes, "REMEMBERED_BYTES", 10)
    path, read, real = tmp_path / "model.safetensors", [], safe_load.sha256

    def counted(file):
        read.append(file)
        return real(file)

    monkeypatch.setattr(safe_load, "sha256", counted)
    path.write_bytes(b"x" * 100)
    return path, read


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_large_file_is_read_once(large):
    path, read = large
    assert hashes.of_file(path) == hashes.of_file(path) == sha256(path)
    assert read == [path]
    (path.parent / "small").write_bytes(b"y")
    assert hashes.of_file(path.parent / "small") == sha256(path.parent / "small")
    assert list(json.loads((home() / "cache" / "sha256.json").read_text())) == [str(path)]


def test_a_file_that_changed_is_read_again_though_its_size_and_time_are_the_same(large):
    path, read = large
    hashes.of_file(path)
    before = path.stat()
    path.write_bytes(b"y" * 100)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hashes.of_file(path) == sha256(path)
    assert len(read) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "\0"])
def test_a_broken_cache_is_no_matter(large, text):
    path, read = large
    (home() / "cache").mkdir(parents=True, exist_ok=True)
    (home() / "cache" / "sha256.json").write_text(text)
    assert hashes.of_file(path) == hashes.of_file(path) == sha256(path)
    assert len(read) == 1


def test_without_a_place_for_the_cache_files_are_read_each_time(large, monkeypatch):
    path, read = large
    nowhere = path.parent / "file"
    nowhere.write_text("")
    monkeypatch.setenv("GPTKIT_HOME", str(nowhere))
    assert hashes.of_file(path) == hashes.of_file(path) == sha256(path)
    assert len(read) == 2


def test_the_cache_does_not_grow_for_ever(large, monkeypatch):
    path, _ = large
    monkeypatch.setattr(hashes, "MAX_REMEMBERED", 3)
    for i in range(5):
        file = path.with_name(f"file{i}")
        file.write_bytes(b"x" * 50)
        hashes.of_file(file)
    kept = json.loads((home() / "cache" / "sha256.json").read_text())
    assert [name[-1] for name in kept] == ["2", "3", "4"]


def test_several_files_have_one_digest_by_content_and_name(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    both = hashes.of_files([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert hashes.of_files([tmp_path / "b", tmp_path / "a"], tmp_path) == both
    (tmp_path / "a").rename(tmp_path / "c")
    assert hashes.of_files([tmp_path / "c", tmp_path / "b"], tmp_path) != both


def test_data_have_a_digest_whatever_the_order_of_their_keys():
    assert hashes.of_data({"a": 1, "b": ["\ud800"]}) == hashes.of_data({"b": ["\ud800"], "a": 1})
    assert hashes.of_data([1, 2]) != hashes.of_data([2, 1])


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0)
    if os.geteuid():
        with pytest.raises(CheckpointError):
            hashes.of_file(tmp_path / "file")
