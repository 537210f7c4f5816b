"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run, and no clock: a slow machine is no failure.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")

# Tests run side by side; threads that spin for each other's work would only slow them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# A shell that runs the tests in the background has them ignore these, and our programs with them.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        ours = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, ours)


@pytest.fixture(autouse=True)
def clean_home(tmp_path_factory, monkeypatch):
    """Give each test its own home folder, and no other GPTKIT_* but GPTKIT_DATA."""
    for name in list(os.environ):
        if name.startswith("GPTKIT_") and name != "GPTKIT_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("GPTKIT_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse every connection that leaves this machine."""

    def refuse(self, address, *rest):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise OSError(f"tests are offline: {address}")
        return connect(self, address, *rest)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of corpora and checkpoints that GPTKIT_DATA names, or skip."""
    folder = os.environ.get("GPTKIT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GPTKIT_DATA names no folder of test data")
    return Path(folder)
