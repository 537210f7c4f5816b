import os
import stat

import pytest

from gptkit.chat.input_history import InputHistory


@pytest.fixture
def said():
    return []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "chat_history"


def test_the_newest_comes_first_in_the_next_start(path, said):
    history = InputHistory(path, said.append)
    entries = ["one", "two\nlines", "\x1b]52;c;x\x07", "\udcff", "ä😀"]
    for entry in entries:
        history.append(entry)
    assert InputHistory(path, said.append).entries() == entries[::-1]
    assert not set(path.read_bytes()) - set(b"\n") - set(range(0x20, 0x7F))
    assert said == []


def test_nobody_else_may_read_it(path, said):
    old = os.umask(0)
    try:
        InputHistory(path, said.append).append("x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    InputHistory(path, said.append).append("y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_line_is_skipped(path, said):
    path.parent.mkdir()
    path.write_bytes(b'"a"\n{\n\xff\x00\n7\n"b"\n"c')
    assert InputHistory(path, said.append).entries() == ["b", "a"]


def test_no_file_is_no_history(path, said):
    assert InputHistory(path, said.append).entries() == []
    assert said == []


def test_a_history_that_can_not_be_kept_is_said_once(tmp_path, said):
    path = tmp_path / "file" / "chat_history"
    path.parent.write_text("in the way")
    history = InputHistory(path, said.append)
    history.append("x")
    history.append("y")
    assert len(said) == 1
    assert "input history is not kept" in said[0]
