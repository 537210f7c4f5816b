"""F1 to F5 of the fault injections: kills, torn tails, full disks, signals, double runs.

F6, the changed world, is in test_resume.py. The big versions are slow; small ones run by default.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gptkit import assembly
from gptkit.errors import GptkitError, ResourceError
from gptkit.jobs.events import Finished
from gptkit.jobs.journal import Journal
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.run import run
from gptkit.plugin_host import registry

WORDS = "a small boat came home late and nobody on the quay had seen the storm.".split()
RUN = [sys.executable, "-m", "gptkit", "run", "job.yaml"]

COUNTED = '''
import os
from gptkit.plugin_api import Sampler, hookimpl


class Counted(Sampler):
    """Do nothing, but leave a byte in a file for each request that begins."""

    name, phase = "counted", "scale"

    def init_state(self, request):
        if request.seed == 0:  # no row's: the chain is tried once before the first row
            return
        handle = os.open(os.environ["COUNT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, b".")
        os.close(handle)

    def apply(self, logits, p, rows):
        return logits


@hookimpl
def gptkit_samplers():
    yield Counted
'''


def slow(*values):
    """Mark parameters as slow."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


def varied(n, seed=3):
    draw = random.Random(seed)
    return [
        {"id": f"r{i}", "text": " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))}
        for i in range(n)
    ]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start(folder, *args, command=RUN, **env):
    return subprocess.Popen(
        [*command, *map(str, args)],
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder, *args, command=RUN, **env):
    """Run a command to its end; return its exit code and what it said."""
    process = start(folder, *args, command=command, **env)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def wait_until(true, process, seconds=240.0):
    """Wait for something, or for the end of a process; fail where neither comes."""
    end = time.monotonic() + seconds
    while not true() and process.poll() is None:
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain"
        time.sleep(0.002)


def size(path):
    return path.stat().st_size if path.exists() else 0


def is_locked(path):
    """Return whether any process holds a lock."""
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_valid(journal):
    """Return whether all lines of a journal are readable, the last one of which may be torn."""
    with Journal.open(journal) as opened:
        return opened.header() is not None and opened.repair().n_lines == 0


# F1: kill -9


def storm(workshop, n_rows, kills, *, batch_size, chain, suffix, seed):
    """Kill a job so many times, and a new one when it is done; return how many jobs that took."""
    folder, draw = workshop.folder, random.Random(seed)
    print(f"seed {seed}")  # so that a failure can be repeated
    (folder / "counted.py").write_text(COUNTED)
    workshop.job(
        rows=varied(n_rows),
        outputs=f"out{suffix}",
        sampling=f"{{seed: 7, chain: [counted, {chain}]}}",
        batch_size=str(batch_size),
    )
    env = {"GPTKIT_PLUGINS": str(folder / "counted.py"), "COUNT": str(folder / "count")}
    clean, output = folder / f"clean{suffix}", folder / f"out{suffix}"
    code, err = finish(folder, "--output", clean.name, **env)
    assert code == 0, err
    journal, count = folder / f"out{suffix}.journal", folder / "count"
    n_left, n_jobs = kills, 0
    while n_left:
        count.unlink()
        n_before, n_jobs = n_left, n_jobs + 1
        while n_left and not output.exists():
            process = start(folder, **env)
            if draw.random() < 0.75:  # else it seldom has computed anything
                before = size(journal)
                wait_until(lambda before=before: size(journal) > before, process)
            try:
                process.wait(draw.uniform(0.02, 2.0) * min(1.0, n_rows / 1000))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                n_left -= 1
            _, err = process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), err
            if output.exists():
                assert output.read_bytes() == clean.read_bytes()
        code, err = finish(folder, **env)
        assert code == 0, err
        assert output.read_bytes() == clean.read_bytes()
        assert not [name for name in os.listdir(folder) if name.endswith((".lock", ".tmp"))]
        n_kills, n_computed = n_before - n_left, size(count)
        assert n_rows <= n_computed <= n_rows + n_kills * batch_size
        print(f"{n_kills} kills, {n_computed} of {n_rows} rows computed")
        for path in folder.glob(f"out{suffix}*"):
            path.unlink()
    return n_jobs


def test_f1_killed_and_run_again_gives_the_same_bytes(workshop):
    storm(workshop, 200, 3, batch_size=8, chain="temperature: 0.9", suffix=".jsonl", seed=1)
    ids = [row["id"] for row in workshop.out("clean.jsonl")]
    assert ids == [row["id"] for row in varied(200)]


STORMS = [
    (suffix, batch_size, chain)
    for suffix in (".jsonl", ".csv")
    for batch_size in (1, 8)
    for chain in ("greedy", "temperature: 0.9")
]


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "batch_size", "chain"), STORMS)
def test_f1_storm(workshop, suffix, batch_size, chain):
    seed = STORMS.index((suffix, batch_size, chain))
    storm(workshop, 1000, 7, batch_size=batch_size, chain=chain, suffix=suffix, seed=seed)
    if suffix == ".jsonl":
        ids = [row["id"] for row in workshop.out("clean.jsonl")]
        assert ids == [row["id"] for row in varied(1000)]


# In this process: a model that is loaded once


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture(scope="module")
def model(tiny, plugins):
    return assembly.load_model(assembly.open_model(str(tiny)), plugins, device="cpu")


@pytest.fixture
def again(workshop, plugins, model):
    """Return a function that runs a job of 24 rows as a user would who repeats a command."""
    workshop.job(rows=varied(24), stop="{max_new_tokens: 3}")

    def once():
        job = prepare(workshop.folder / "job.yaml", plugins, Given(batch_size=4))
        events = list(run(job, lambda source: model))
        assert isinstance(events[-1], Finished)
        return events

    return once


# F2: torn tails


def whole(workshop, again):
    """Return the bytes of a whole journal and of its output, and remove all files of the job."""
    again()
    output = workshop.folder / "out.jsonl"
    journal = workshop.folder / "out.jsonl.journal"
    found = journal.read_bytes(), output.read_bytes()
    forget(workshop)
    return found


def forget(workshop):
    for path in workshop.folder.glob("out.jsonl*"):
        path.unlink()


def check_damage(workshop, again, damaged, expected):
    """Resume from a damaged journal: the output is the same, and the journal is whole again."""
    journal = workshop.folder / "out.jsonl.journal"
    journal.write_bytes(damaged)
    again()
    assert (workshop.folder / "out.jsonl").read_bytes() == expected
    with Journal.open(journal) as opened:
        assert opened.repair().n_cut_bytes == 0
    forget(workshop)


def test_f2_a_torn_tail_is_computed_again(workshop, again):
    journal, expected = whole(workshop, again)
    first_of_three = len(b"".join(journal.splitlines(keepends=True)[:-3]))
    for n in range(first_of_three, len(journal), 37):
        check_damage(workshop, again, journal[:n], expected)


@pytest.mark.slow
def test_f2_at_every_byte(workshop, again):
    journal, expected = whole(workshop, again)
    first_of_three = len(b"".join(journal.splitlines(keepends=True)[:-3]))
    for n in range(first_of_three, len(journal) + 1):
        check_damage(workshop, again, journal[:n], expected)


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"garbage", b"garbage\n", b'{"row": 1}\n'])
def test_f2_garbage_at_the_end_is_cut(workshop, again, tail):
    journal, expected = whole(workshop, again)
    check_damage(workshop, again, journal + tail, expected)


@pytest.mark.parametrize("part", [1, *slow(5)])
def test_f2_flipped_bytes_are_found_and_computed_again(workshop, again, part):
    journal, expected = whole(workshop, again)
    first, draw = journal.index(b"\n") + 1, random.Random(2)
    for _ in range(12 * part):
        at = draw.randrange(first, len(journal))
        flipped = bytes([journal[at] ^ draw.randint(1, 255)])
        check_damage(workshop, again, journal[:at] + flipped + journal[at + 1 :], expected)


def test_f2_swapped_and_doubled_lines_change_nothing(workshop, again):
    journal, expected = whole(workshop, again)
    lines = journal.splitlines(keepends=True)
    swapped = [*lines[:3], lines[9], *lines[4:9], lines[3], *lines[10:]]
    check_damage(workshop, again, b"".join(swapped), expected)
    check_damage(workshop, again, b"".join([*lines, *lines[4:8]]), expected)


# F3: the disk


@contextlib.contextmanager
def failing(monkeypatch, k, code):
    """Let the k-th call of what writes fail, and all after it, as on a disk that is full."""
    n = 0

    def fails(real):
        def call(*args):
            nonlocal n
            n += 1
            if n >= k:
                raise OSError(code, os.strerror(code))
            return real(*args)

        return call

    with monkeypatch.context() as patch:
        for name in ("write", "fsync", "replace"):
            patch.setattr(os, name, fails(getattr(os, name)))
        yield


@pytest.mark.parametrize("part", [7, *slow(1)])
def test_f3_a_disk_that_fails_at_any_call_loses_nothing(workshop, again, monkeypatch, part):
    _, expected = whole(workshop, again)
    output = workshop.folder / "out.jsonl"
    names = sorted(os.listdir(workshop.folder))
    for k in range(1, 61, part):
        for code in (errno.ENOSPC, errno.EIO, errno.EDQUOT)[k % 3 :][: 1 if part > 1 else 3]:
            with failing(monkeypatch, k, code), contextlib.suppress(ResourceError):
                again()
                assert k > 48  # more calls than there were
            if output.exists():
                assert output.read_bytes() == expected
            rest = set(os.listdir(workshop.folder)) - set(names)
            assert rest <= {"out.jsonl", "out.jsonl.journal", "out.jsonl.manifest.json"}
            again()
            assert output.read_bytes() == expected
            forget(workshop)


def test_f3_the_message_counts_the_rows_that_are_safe(workshop, again, monkeypatch):
    whole(workshop, again)
    with failing(monkeypatch, 24, errno.ENOSPC), pytest.raises(ResourceError) as caught:
        again()
    said = re.fullmatch(
        r"disk full: can't write out.jsonl: No space left on device; (\d+) of 24 rows are safe",
        str(caught.value),
    )
    assert said and caught.value.hint == "free space and run the same command"
    lines = (workshop.folder / "out.jsonl.journal").read_bytes().count(b"\n")
    assert int(said[1]) == lines - 1 > 0
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("limit", slow(60, 3000, 20_000))
def test_f3_a_file_size_limit_is_a_full_disk(workshop, limit):
    """RLIMIT_FSIZE lets a write take a part of its bytes, as a disk does that fills up."""
    rows = varied(150)
    workshop.job(rows=rows, stop="{max_new_tokens: 3}", outputs="clean.jsonl")
    assert finish(workshop.folder)[0] == 0
    workshop.job(stop="{max_new_tokens: 3}")
    limited = subprocess.run(
        RUN,
        cwd=workshop.folder,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=120,
        check=False,
    )
    assert limited.returncode == 6, limited.stderr
    assert "disk full" in limited.stderr or limit == 60
    assert "Traceback" not in limited.stderr
    assert not (workshop.folder / "out.jsonl").exists()
    code, err = finish(workshop.folder)
    assert code == 0, err
    assert (workshop.folder / "out.jsonl").read_bytes() == (
        workshop.folder / "clean.jsonl"
    ).read_bytes()


@pytest.mark.slow
def test_f3_a_full_file_system(workshop, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    try:
        workshop.job(rows=varied(600), outputs="small/out.jsonl", stop="{max_new_tokens: 3}")
        (small / "ballast").write_bytes(b"x" * 20_000)
        code, err = finish(workshop.folder)
        assert code == 6, err
        assert not (small / "out.jsonl").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        code, err = finish(workshop.folder)
        assert code == 0, err
        assert len((small / "out.jsonl").read_text().splitlines()) == 600
    finally:
        subprocess.run(["umount", str(small)], check=True)


# F4: signals

SLOW_CALL = """
import os, sys, time
def slow(real, n=[int(sys.argv[2])]):
    def call(*args):
        n[0] -= 1
        if n[0] == 0:
            {prepare}
            print("here", file=sys.stderr, flush=True)
            {wait}
        return real(*args)
    return call
name = sys.argv[1]
setattr(os, name, slow(getattr(os, name)))
from gptkit.__main__ import main
sys.argv[1:] = ["run", "job.yaml"]
sys.exit(main())
"""
SLEEP = "pass", "time.sleep(30)"
COMPUTE = "import torch; x = torch.ones(9000, 9000, dtype=torch.float64)", "x @ x"


def at(workshop, phase):
    """Start a job, and return its process when it has come to a phase."""
    rows = 3000 if phase == "decode" else 12
    workshop.job(rows=varied(rows), batch_size="4", stop="{max_new_tokens: 9}")
    journal = workshop.folder / "out.jsonl.journal"
    if phase == "load":
        process = start(workshop.folder)
        wait_until((workshop.folder / "out.jsonl.lock").exists, process)
        time.sleep(0.3)
    elif phase == "decode":
        process = start(workshop.folder)
        wait_until(lambda: size(journal) > 3000, process)
    else:
        name, n, (prepare, wait) = {
            "fsync": ("fsync", "5", SLEEP),
            "rename": ("replace", "1", SLEEP),
            "in C": ("fsync", "5", COMPUTE),
        }[phase]
        code = SLOW_CALL.format(prepare=prepare, wait=wait)
        process = start(workshop.folder, name, n, command=[sys.executable, "-c", code])
        while "here" not in (line := process.stderr.readline()) and line:
            pass
        time.sleep(0.3)
    assert process.poll() is None
    return process


def check_stopped(workshop, process, code, seconds):
    """Check that a process ends in time, says so, and left everything in order."""
    begin = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - begin < seconds
    assert process.returncode == code, err
    assert "Traceback" not in err and "Exception ignored" not in err
    folder = workshop.folder
    assert not is_locked(folder / "out.jsonl.lock")
    assert not (folder / "out.jsonl").exists()
    assert not (folder / "out.jsonl.journal").exists() or is_valid(folder / "out.jsonl.journal")
    return err


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("decode", "SIGINT"),
        ("rename", "SIGTERM"),
        *slow(*itertools.product(("load", "fsync"), ("SIGINT", "SIGTERM"))),
        *slow(("decode", "SIGTERM"), ("rename", "SIGINT")),
    ],
)
def test_f4_one_signal_stops_a_job_in_order(workshop, phase, number):
    process = at(workshop, phase)
    process.send_signal(getattr(signal, number))
    err = check_stopped(workshop, process, 130 if number == "SIGINT" else 143, 10)
    assert re.search(r"stopped at [\d,]+/[\d,]+ rows; run the same command to continue", err)
    assert not list(workshop.folder.glob("*.lock")) + list(workshop.folder.glob(".*.tmp"))
    if phase != "decode":
        code, err = finish(workshop.folder)
        assert code == 0, err
        assert len(workshop.out()) == 12


@pytest.mark.parametrize("phase", ["decode", *slow("rename", "in C")])
def test_f4_a_second_interrupt_ends_it_at_once(workshop, phase):
    process = at(workshop, phase)
    process.send_signal(signal.SIGINT)
    if phase == "in C":
        time.sleep(0.2)
        assert process.poll() is None  # Python has no chance to look
    process.send_signal(signal.SIGINT)
    check_stopped(workshop, process, 130, 1)


@pytest.mark.slow
def test_f4_ten_interrupts_are_no_worse(workshop):
    process = at(workshop, "decode")
    for _ in range(10):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    check_stopped(workshop, process, 130, 1)


@pytest.mark.slow
def test_f4_what_does_not_stop_is_ended(workshop):
    process = at(workshop, "in C")
    process.send_signal(signal.SIGTERM)
    check_stopped(workshop, process, 143, 10)


@pytest.mark.slow
def test_f4_a_hangup_that_is_ignored_stays_so(workshop):
    workshop.job(rows=varied(200), batch_size="4")
    process = start(workshop.folder, command=["nohup", *RUN])
    journal = workshop.folder / "out.jsonl.journal"
    wait_until(lambda: size(journal) > 3000, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(workshop.out()) == 200


# F5: two runs


def test_f5_of_two_runs_one_computes(workshop):
    workshop.job(rows=varied(4000), stop="{max_new_tokens: 60}")
    journal, lock = workshop.folder / "out.jsonl.journal", workshop.folder / "out.jsonl.lock"
    first = start(workshop.folder)
    wait_until(lambda: size(journal) > 3000, first)
    code, err = finish(workshop.folder)
    assert code == 5
    assert f"out.jsonl.lock is locked by pid {first.pid} since" in err
    begin = time.monotonic()
    with pytest.raises(GptkitError, match=f"pid {first.pid}"):
        list(run(prepare(workshop.folder / "job.yaml", registry(), Given()), None))
    assert time.monotonic() - begin < 1
    first.kill()
    first.communicate()
    assert lock.exists()
    third = start(workshop.folder)
    assert f"taken over from pid {first.pid}" in third.stderr.readline()
    third.send_signal(signal.SIGINT)
    _, err = third.communicate(timeout=120)
    assert third.returncode == 130
    assert is_valid(journal)


@pytest.mark.parametrize("host", ["elsewhere", *slow(os.uname().nodename)])
def test_f5_a_stale_lock_is_taken_over(workshop, host):
    workshop.job(rows=varied(4))
    words = {"pid": os.getpid(), "host": host, "since": "2026-01-02T12:01:00"}
    (workshop.folder / "out.jsonl.lock").write_text(json.dumps(words))
    code, err = finish(workshop.folder)
    assert code == 0
    assert f"taken over from pid {os.getpid()} since 2026-01-02 12:01 on host {host}" in err


@pytest.mark.slow
def test_f5_started_twice_at_once_one_wins(workshop):
    workshop.job(rows=varied(300))
    processes = [start(workshop.folder) for _ in range(3)]
    codes = []
    for process in processes:
        process.communicate(timeout=120)
        codes.append(process.returncode)
    assert codes.count(5) >= 1 and codes.count(0) >= 1 and set(codes) == {0, 5}
    assert [row["id"] for row in workshop.out()] == [row["id"] for row in varied(300)]
    lines = (workshop.folder / "out.jsonl.journal").read_bytes().count(b"\n")
    assert lines == 301


@pytest.mark.slow
def test_f5_different_jobs_in_one_folder_don_t_meet(workshop):
    workshop.job(rows=varied(60))
    processes = [start(workshop.folder, "--output", f"out{i}.jsonl", "--seed", i) for i in range(8)]
    for i, process in enumerate(processes):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert len(workshop.out(f"out{i}.jsonl")) == 60


# A5.7 to A5.10: many rows


@pytest.mark.slow
def test_five_thousand_rows_with_ten_bad_ones(workshop):
    rows = varied(5000)
    bad = {
        7: {"id": "r7"},
        100: {"id": "r100", "text": "long " * 60},
        999: '{"id": "r999", "text": "\\ud800"}',
        1000: {"id": "r1000", "text": None},
        2222: {"id": "r2222", "text": ["a"]},
        2223: {"id": "r2223", "text": "\u2603"},
        3000: {"id": "r3000", "text": {"a": 1}},
        4000: {"id": "r4000", "text": True},
        4998: {"id": "r4998", "txt": "x"},
        4999: {"id": "r4999", "text": "x" * 500},
    }
    for i, row in bad.items():
        rows[i] = row
    workshop.job(rows=rows, stop="{max_new_tokens: 4}")
    code, err = finish(workshop.folder, "--batch-size", 32)
    assert code == 4
    assert "4,990 ok, 10 failed (see error.type)" in err
    text = (workshop.folder / "out.jsonl").read_text()
    assert text.count("\n") == 5000 and "NaN" not in text
    out = workshop.out()
    assert [row["id"] for row in out] == [f"r{i}" for i in range(5000)]
    assert [i for i, row in enumerate(out) if "error" in row] == sorted(bad)


def test_a_finished_job_again_takes_no_torch_and_no_time(workshop):
    workshop.job(rows=varied(40))
    assert finish(workshop.folder)[0] == 0
    before = (workshop.folder / "out.jsonl").stat().st_mtime_ns
    code = (
        "import sys; from gptkit.cli import main; code = main(['run', 'job.yaml']);"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    begin = time.monotonic()
    code, err = finish(workshop.folder, command=[sys.executable, "-c", code])
    assert time.monotonic() - begin < 2
    assert code == 0 and "40 ok; out.jsonl is finished already" in err
    assert (workshop.folder / "out.jsonl").stat().st_mtime_ns == before


MEASURED = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from tests.fakes import ByteTokenizer, FlatModel, byte_config
    from gptkit.assembly import Model
    from gptkit.jobs.events import Progress
    from gptkit.jobs.journal import Journal
    from gptkit.jobs.preflight import Given, prepare
    from gptkit.jobs.run import run
    from gptkit.plugin_host import registry

    def rss():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    spent, add = [0.0], Journal.add
    def timed(self, record):
        begin = time.perf_counter()
        try:
            return add(self, record)
        finally:
            spent[0] += time.perf_counter() - begin
    Journal.add = timed

    tokenizer = ByteTokenizer()
    config = byte_config(tokenizer, block_size=128)
    model = Model("fake", None, FlatModel(config), tokenizer, config, frozenset(), None, None, None,
                  "torch", "cpu", "float32")
    job = prepare(Path("job.yaml"), registry(), Given(batch_size=64))
    n, at_1000 = int(sys.argv[1]), None
    for event in run(job, lambda source: model):
        if isinstance(event, Progress):
            if at_1000 is None and event.n_done >= 1000:
                at_1000 = rss()
            if event.n_done == n:
                at_end = rss()
    print(at_1000, at_end, rss(), spent[0] / n * 1000)
    """
)


@pytest.mark.slow
def test_memory_is_flat(workshop):
    """RSS at row 100,000 within 5 % of row 1,000. What the journal takes is printed, for docs."""
    n = 100_000
    lines = "".join(f'{{"id": {i}, "text": "row {i}"}}\n' for i in range(n))
    workshop.job(stop="{max_new_tokens: 2}", rows=[])
    (workshop.folder / "in.jsonl").write_text(lines)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(n)],
        cwd=workshop.folder,
        env=environment(PYTHONPATH=str(Path(__file__).parents[2])),
        capture_output=True,
        text=True,
        check=True,
    )
    at_1000, at_end, after, ms = map(float, done.stdout.split())
    print(f"RSS {at_1000 / 1e6:.1f}, {at_end / 1e6:.1f}, {after / 1e6:.1f} MB; {ms:.3f} ms a row")
    assert at_end < at_1000 * 1.05 and after < at_1000 * 1.05
