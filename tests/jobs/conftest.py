"""A tiny model and a workshop for jobs."""

from __future__ import annotations

import pytest

from tests.jobs.workshop import Workshop, save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Compute on one thread: the model is so small that more only get in each other's way."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workshop(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Workshop(tmp_path, tiny)
