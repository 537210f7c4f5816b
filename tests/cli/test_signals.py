"""One signal stops in order, a second one at once; real processes, for these end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from gptkit.cli.signals import orderly
from gptkit.errors import Terminated

CODE = """
import sys, time
from gptkit.cli import signals
signals.PATIENCE_S = 1.0
with signals.orderly() as stop:
    try:
        print("ready", flush=True)
        {body}
    except BaseException as error:
        print(type(error).__name__, stop.code, flush=True)
        {then}
print("after", flush=True)
"""
BUSY = "import numpy; x = numpy.ones((7000, 7000)); print('busy', flush=True); x @ x"


def start(body="time.sleep(30)", then="pass"):
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(body=body, then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SIGINT", "KeyboardInterrupt 130"),
        ("SIGTERM", "Terminated 143"),
        ("SIGHUP", "Terminated 143"),
    ],
)
def test_the_first_signal_is_an_exception(name, said):
    process = start()
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (f"{said}\nafter\n", "", 0)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_the_second_signal_ends_the_process(name, code):
    process = start(then="time.sleep(30)")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "KeyboardInterrupt 130\n"
    begin = time.monotonic()
    process.send_signal(getattr(signal, name))
    assert process.wait(60) == code
    assert time.monotonic() - begin < 1
    process.communicate()


def test_it_ends_though_python_has_no_chance_to_look():
    process = start(body=BUSY)
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert process.wait(60) == 130
    assert time.monotonic() - begin < 1
    process.communicate()


def test_what_does_not_end_is_ended():
    process = start(then="time.sleep(30)")
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert 0.9 < time.monotonic() - begin < 3
    process.communicate()


def test_an_exception_that_got_lost_is_raised_again():
    """A library may take the KeyboardInterrupt for itself; the computation asks now and then."""
    with orderly() as stop:
        stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        with pytest.raises(KeyboardInterrupt):
            stop.check()
        assert stop.code == 130


def test_signals_are_as_before_when_it_is_over():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with orderly() as stop:
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(1)
    assert stop.code == 143
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with orderly() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert stop.code is None
    finally:
        signal.signal(signal.SIGHUP, before)
