"""The kernels on other processors, on a cold cache, and beside each other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the kernels need the extra `fast`")

ROOT = Path(__file__).parents[2]
TWO_THREADS = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
STEP = """
import torch
from gptkit.assembly import engine, load_model, open_model
from gptkit.decoding.request import Request, Stops, resolve_chain
from gptkit.plugin_host import registry
model = load_model(open_model("mini"), registry(), backend="cpu", dtype="int8")
ids = tuple(model.tokenizer.encode_ordinary("Who are you?"))
chain = resolve_chain(["greedy"], registry())
print([e.token_id for e in engine(model).stream(Request(ids, chain, Stops(20), 0))])
"""


def start(code, cache, **more):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), **more}
    return subprocess.Popen(
        [sys.executable, *code],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_processor_without_avx_512_computes_the_same(tmp_path):
    """The tests of the kernels pass as compiled for another machine."""
    tests = ["-m", "pytest", "-n0", "-p", "no:cacheprovider", "tests/model/test_cpu.py"]
    haswell = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi2,+sse4.2"}
    process = start(tests, tmp_path, **haswell)
    said, wrong = process.communicate(timeout=600)
    assert process.returncode == 0, said + wrong
    assert re.search(r"\d+ passed", said)


@pytest.mark.slow
def test_processes_that_compile_at_once_agree(tmp_path):
    processes = [start(["-c", STEP], tmp_path, **TWO_THREADS) for _ in range(4)]
    said = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert len({out for out, _ in said}) == 1


@pytest.mark.slow
def test_a_system_without_a_futex_computes_the_same(tmp_path):
    """macOS and Windows: the threads sleep in a queue, and give way while they wait."""
    without = "from gptkit.model.cpu import processor\nprocessor.FUTEX = None\n"
    said = [
        start(["-c", first + STEP], tmp_path / name, **TWO_THREADS).communicate(timeout=600)
        for name, first in (("with", ""), ("without", without))
    ]
    assert len({out for out, _ in said}) == 1 and said[0][0].startswith("["), said


def test_one_processor_is_enough_for_three_threads():
    code = ["-c", "import os; os.sched_setaffinity(0, {0}); import torch\n"
            "torch.set_num_threads(3)\n" + STEP]  # fmt: skip
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not say which processors a process may use")
    process = subprocess.run(
        [sys.executable, *code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("[")


IDLE = """
import time
import torch
from gptkit.model.config import GPTConfig
from gptkit.model.forward import Span
from tests.benchmarks.forwards import packed
from tests.checkpoints.makers import random_tensors
torch.set_num_threads(2)
config = GPTConfig(vocab_size=50257, block_size=128, n_layer=1, n_head=4, n_embd=768)
model = packed(config, random_tensors(config), "int8")
cache, turned = model.new_cache(16), 0.0
for i in range(30):
    model.step(range(16), [Span(slot, i, 1) for slot in range(16)], cache, range(16))
    before = time.process_time()
    time.sleep(0.02)
    turned += (i >= 5) * (time.process_time() - before)
print(turned)
"""


@pytest.mark.slow
def test_nobody_turns_for_long_between_tokens(tmp_path):
    """torch's threads once did, for 2 ms from the start of each step of 16 rows, and took the
    processors of those that computed: it was twice as slow."""
    process = start(["-c", IDLE], tmp_path, **TWO_THREADS)
    said, wrong = process.communicate(timeout=300)
    assert process.returncode == 0, wrong
    assert float(said) < 0.04, said  # half a millisecond each is meant
