"""What becomes of memory that is freed."""

import ctypes
import os
import subprocess
import sys

import pytest

STEPS = """
import ctypes
import resource
import torch
from gptkit.model import memory

for threshold in (-1, -3):  # glibc moves them as it likes: from here on it hands back at once
    ctypes.CDLL(None).mallopt(threshold, 128 << 10)
if {keep}:
    memory.keep_freed()
logits = torch.zeros(16, 50257)

def step():
    scaled = logits / 2
    cut = scaled.masked_fill(scaled > 1, 0.0)
    return (cut + scaled).argmax(-1)

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

taken = []
for _ in range(21):
    before = pages()
    step()
    taken.append(pages() - before)
print(sorted(taken)[10])  # the heap may still grow once or twice
"""


def pages_of_a_step(keep):
    told = subprocess.run(
        [sys.executable, "-c", STEPS.format(keep=keep)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return float(told.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="only glibc frees like that",
)
def test_a_step_takes_no_new_pages_for_the_logits_of_the_last_one():
    """Named for its bug: 16 rows of a large vocabulary cost 2,300 pages a step, 4 to 7 ms."""
    pytest.importorskip("resource")
    assert pages_of_a_step(keep=False) > 300
    assert pages_of_a_step(keep=True) < 100
