"""Manifests: written whole, read or not ours, and outputs that are known again."""

from __future__ import annotations

import os
import shutil

import pytest

from gptkit.jobs import manifest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl.manifest.json"


def test_a_manifest_is_read_back(path):
    manifest.write(path, {"rows": {"n": 3}, "text": "\u00e9\ud800"})
    said = manifest.read(path)
    assert said["rows"] == {"n": 3} and said["gptkit_manifest"] == manifest.FORMAT
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"gptkit_manifest": 99}', "[" * 100_000])
def test_what_is_none_of_ours_is_none(path, text):
    assert manifest.read(path) is None
    path.write_text(text)
    assert manifest.read(path) is None


def test_a_write_that_fails_leaves_the_old_one(path, monkeypatch):
    manifest.write(path, {"rows": 1})

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        manifest.write(path, {"rows": 2})
    assert manifest.read(path)["rows"] == 1
    assert os.listdir(path.parent) == [path.name]


def test_an_output_is_known_by_its_bytes(tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("one\n")
    said = manifest.describe(output)
    assert manifest.is_unchanged(output, said)
    os.utime(output)
    assert manifest.is_unchanged(output, said)
    shutil.copy(output, tmp_path / "copy.jsonl")
    assert manifest.is_unchanged(tmp_path / "copy.jsonl", said)
    output.write_text("two\n")
    assert not manifest.is_unchanged(output, said)
    output.write_text("one and more\n")
    assert not manifest.is_unchanged(output, said)
    output.unlink()
    assert not manifest.is_unchanged(output, said)
    assert not manifest.is_unchanged(tmp_path / "copy.jsonl", {})
