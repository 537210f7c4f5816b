"""A tiny model and a workshop for jobs."""

from __future__ import annotations

import pytest

from tests.jobs.workshop import Workshop, save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def workshop(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Workshop(tmp_path, tiny)
