"""`--engine ray`: rows in blocks to workers on many machines, each with a model, by Ray Data.

This process, the driver, keeps lock, journal and output as in any run, and one task of Ray reads
the rows that are left. The block of a worker that died goes to another one. Of its outputs Ray
skips as many as had arrived: so there are always as many, in the order of the block's rows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Self

from gptkit import assembly, errors
from gptkit.errors import ConfigError, GptkitError, ResourceError
from gptkit.jobs import runtime
from gptkit.jobs.engine import Computed, Ready, left
from gptkit.jobs.fingerprint import differences, fingerprint
from gptkit.jobs.runtime import DECIDING
from gptkit.jobs.score import batch_of
from gptkit.plugin_host import Registry

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from gptkit.assembly import Model
    from gptkit.jobs.batch import Batch, Result, Step
    from gptkit.jobs.done import Done
    from gptkit.jobs.fingerprint import Fingerprint
    from gptkit.jobs.job import Job
    from gptkit.jobs.rows import Row
    from gptkit.jobs.runtime import How, Runtime

    Frame = Any
    """A pandas frame of one object, in which Ray Data carries it."""
    Box = list[Any]
    """A reference in a list, which Ray leaves alone: what it means is asked for when it is time."""

LOCAL = "local"
EXTRA = "pip install 'gptkit[ray]'"
BATCHES = 16
"""Rows of a block, in batches: a worker's engine runs empty at its end."""
PARTS = 8
"""In how many parts the results of a block come: each costs the driver some 10 ms."""
BLOCKS = 4
"""Blocks for each worker, at least, where that leaves a batch in each of them."""
RETRIES = 3
"""How often a block may cost a worker its life and be tried again."""
OBJECTS_BYTES = 200 * 2**20
"""Of memory for what is on its way between processes, on a cluster that is started here."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report to its makers
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_COLUMN = "it"


@dataclass(frozen=True, slots=True)
class Order:
    """What each worker is told; a job's registry is the worker's own."""

    job: Job
    how: How
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a cell that one worker is to compute."""

    number: int
    cell: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Far:
    """A model that is in another process."""

    name: str
    device: str
    dtype: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, model: Model) -> Self:
        """Describe a model."""
        return cls(model.name, model.device, model.dtype, model.notes)


@dataclass(frozen=True, slots=True)
class Begun:
    """A worker has begun a block; `worker` is its process and its machine."""

    block: int
    worker: str
    model: Far


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a block that are computed, and whether they are its last ones."""

    block: int
    worker: str
    is_last: bool
    computed: Computed


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in another process; an exception itself may not get through."""

    kind: str
    message: str
    hint: str | None
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Describe an error."""
        import traceback

        trace = "".join(traceback.format_exception(error))
        message, hint = str(error), getattr(error, "hint", None)
        if not isinstance(error, GptkitError):
            said = " ".join(message.split())
            message = f"a worker on {socket.gethostname()} failed: {type(error).__name__}: {said}"
            hint = "GPTKIT_DEBUG=1 shows its traceback"
        return cls(type(error).__name__, message, hint, trace)

    def error(self) -> GptkitError:
        """Return the error, of its own class where that is one of ours."""
        kind = getattr(errors, self.kind, GptkitError)
        is_ours = isinstance(kind, type) and issubclass(kind, GptkitError)
        error: GptkitError = (kind if is_ours else GptkitError)(self.message, hint=self.hint)
        error.__cause__ = RuntimeError(f"in another process:\n{self.trace}")
        return error


# In the processes of a cluster ----------------------------------------------------------------


class Worker:
    """An actor of the pool: a model, and an engine for each cell."""

    def __init__(self, box: Box, folder: str, here: Mapping[str, Any]) -> None:
        # Nothing that may fail: Ray would start another one, and tell nobody why.
        self.box, self.folder, self.here = box, folder, here
        self.name = f"pid {os.getpid()} on {socket.gethostname()}"
        self._order: Order | None = None
        self._model: Model | None = None
        self._batches: dict[int, Batch] = {}

    def __call__(self, frame: Frame) -> Iterator[Frame]:
        """Compute a block; what reading it failed with is passed on."""
        for block in frame[_COLUMN]:
            for message in [block] if isinstance(block, Failure) else self._messages(block):
                yield _frame(message)

    def _messages(self, block: Block) -> Iterator[Begun | Part | Failure]:
        try:
            batch = self._batch(block.cell)
            yield Begun(block.number, self.name, Far.of(batch.model))
            yield from self._parts(block, batch)
        except Exception as error:
            self._batches.clear()
            yield Failure.of(error)

    def _batch(self, cell: int) -> Batch:
        if self._order is None:
            self._order = _open(self.box, self.folder)
            _check(self._order, self.here)
        job, how = self._order.job, self._order.how
        if self._model is None:
            self._model = assembly.load_model(
                job.cells[cell].source,
                job.registry,
                tokenizer=how.tokenizer,
                device=how.device,
                dtype=how.dtype,
                backend=how.backend,
            )
        if cell not in self._batches:
            self._batches = {cell: batch_of(job, job.cells[cell], self._model)}
        return self._batches[cell]

    def _parts(self, block: Block, batch: Batch) -> Iterator[Part]:
        n = len(block.rows)
        groups = in_order(block.rows, batch.run(block.rows), -(-n // PARTS))
        n_done = 0
        for results, new_tokens in groups:
            n_done += len(results)
            notes = tuple(batch.notes)
            batch.notes.clear()
            computed = Computed(block.cell, results, new_tokens, notes)
            yield Part(block.number, self.name, n_done == n, computed)


def in_order(
    rows: Sequence[Row], steps: Iterable[Step], size: int
) -> Iterator[tuple[tuple[Result, ...], int]]:
    """Yield the results of rows in groups of a size, in order, each with the tokens since then.

    They are without the fields of their rows, which nobody needs any more.
    """
    found: dict[int, Result] = {}
    at = new_tokens = 0
    for step in steps:
        new_tokens += step.new_tokens
        for one in step.results:
            found[one.row.index] = replace(one, row=replace(one.row, fields={}))
        while at < len(rows) and all(row.index in found for row in rows[at : at + size]):
            yield tuple(found.pop(row.index) for row in rows[at : at + size]), new_tokens
            at, new_tokens = at + size, 0


def _read(_: Frame, box: Box, folder: str, cells: Sequence[int], size: int) -> Iterator[Frame]:
    """Yield the rows that are left in some cells, in blocks of a size."""
    import ray

    try:
        with contextlib.suppress(OSError):
            os.chdir(folder)
        inputs, done = ray.get(box[0])
        number = count()
        for cell in cells:
            rows = left(inputs, done, cell)
            while block := tuple(islice(rows, size)):
                yield _frame(Block(next(number), cell, block))
    except Exception as error:
        yield _frame(Failure.of(error))


def _probe(box: Box, folder: str, threads: int) -> Runtime | Failure:
    """Return what computes in a process like this."""
    try:
        order = _open(box, folder)
        import torch

        torch.set_num_threads(threads)
        return runtime.runtime(order.job, order.how)
    except Exception as error:
        return Failure.of(error)


def _open(box: Box, folder: str) -> Order:
    """Return the order, with the plugins that are here: they come first, for it names them."""
    import ray

    with contextlib.suppress(OSError):  # paths may be absolute
        os.chdir(folder)
    registry = assembly.registry()
    order = ray.get(box[0])
    opened: Order = replace(order, job=replace(order.job, registry=registry))
    return opened


def _check(order: Order, here: Mapping[str, Any]) -> None:
    """Take the threads of the job, and refuse to compute it with anything else than it is of."""
    import torch

    host = socket.gethostname()
    same = "all machines need the same files under the same paths, and the same packages"
    torch.set_num_threads(here["threads"])
    try:
        mine = fingerprint(order.job, order.how.tokenizer)
    except OSError as error:
        said = f"{host} can't read {error.filename}: {error.strerror}"
        raise ConfigError(said, hint=same) from error
    if other := differences(order.fingerprint, mine):
        raise ConfigError(f"{host} has another job: {', '.join(other)}", hint=same)
    now = runtime.runtime(order.job, order.how)
    if other := [f"{key} {here[key]} -> {now[key]}" for key in DECIDING if here[key] != now[key]]:
        raise ConfigError(f"{host} computes with something else: {', '.join(other)}", hint=same)


def _frame(it: object) -> Frame:
    import pandas as pd

    return pd.DataFrame({_COLUMN: [it]})


# In the driver --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pool:
    """How many workers there are, and what each of them is given."""

    workers: int
    threads: int
    cpus: float
    gpus: int


class RayEngine:
    """The workers of a cluster: one that is there, or one on this machine for this run alone.

    Used as a context, which ends what was started. Nothing is, before rows are to be computed.
    """

    def __init__(
        self, job: Job, how: How, *, workers: int | None = None, address: str | None = None
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("--engine ray needs the package ray", hint=EXTRA)
        self.address = address or os.environ.get("RAY_ADDRESS") or LOCAL
        if self.address.startswith("ray://"):
            raise ConfigError(
                f"--address {self.address}: a client of a cluster can't run jobs",
                hint="run gptkit on one of its machines: --address auto",
            )
        self.job, self.how, self.workers = job, how, workers
        self._stack = ExitStack()
        self._pool: _Pool | None = None
        self._box: Box = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def runtime(self, threads: int | None) -> Runtime:
        """Start, and return what computes on a worker."""
        self._start()
        import ray  # now that it reads how quiet it has to be

        self._pool = pool = self._plan(threads)
        job = replace(self.job, registry=Registry(()), inputs=replace(self.job.inputs, spooled=()))
        order = Order(job, self.how, fingerprint(self.job, self.how.tokenizer))
        self._box = [ray.put(order)]
        if self.address == LOCAL:
            return {**runtime.runtime(self.job, self.how), "threads": pool.threads}
        probe = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus, max_calls=1)(_probe)
        with _ray_errors():
            found: Runtime | Failure = ray.get(probe.remote(self._box, os.getcwd(), pool.threads))
        if isinstance(found, Failure):
            raise found.error()
        return found

    def compute(
        self, cells: Sequence[int], done: Done, here: Mapping[str, Any]
    ) -> Generator[Ready | Computed]:
        """Compute what is left of cells of one model, block by block."""
        is_ready = False
        at_work: dict[int, str] = {}
        for message in self._messages(cells, done, here):
            if isinstance(message, Failure):
                raise message.error()
            before = at_work.setdefault(message.block, message.worker)
            notes: tuple[str, ...] = ()
            if before != message.worker:
                at_work[message.block] = message.worker
                notes = (f"a worker was lost, {before}; its rows go to another one",)
            if isinstance(message, Begun):
                if not is_ready:
                    is_ready = True
                    yield Ready(message.model)
                if notes:
                    yield Computed(cells[0], (), 0, notes)
                continue
            if message.is_last:
                del at_work[message.block]
            yield replace(message.computed, notes=(*notes, *message.computed.notes))
        if n := sum(map(done.n_left, cells)):
            raise ResourceError(
                f"{n:,} rows did not come back from their workers",
                hint="run the same command to go on",
            )

    def _messages(
        self, cells: Sequence[int], done: Done, here: Mapping[str, Any]
    ) -> Iterator[Begun | Part | Failure]:
        with _ray_errors():
            dataset = self._dataset(cells, done, here)
            frames = dataset.iter_batches(
                batch_size=None, batch_format="pandas", prefetch_batches=0
            )
            for frame in frames:
                yield from frame[_COLUMN]

    def _dataset(self, cells: Sequence[int], done: Done, here: Mapping[str, Any]) -> Any:
        """Return the messages of the workers, as a data set that is not computed yet."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        pool = self._pool
        if pool is None:
            raise RuntimeError("runtime() comes first")
        context = DataContext.get_current()
        # What one task yields is not put together with what follows: it is on its way at once.
        context.target_max_block_size = context.target_min_block_size = 1
        context.enable_progress_bars = False
        n_left = sum(map(done.n_left, cells))
        batch = self.job.batch_size
        size = min(max(n_left // (BLOCKS * pool.workers), batch), BATCHES * batch)
        rows = [ray.put((replace(self.job.inputs, spooled=()), done))]
        at_home = NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        with warnings.catch_warnings():  # of options that get other names
            warnings.simplefilter("ignore")
            return (
                ray.data.from_items([0])
                .map_batches(
                    _read,
                    batch_size=None,
                    batch_format="pandas",
                    fn_args=(rows, os.getcwd(), tuple(cells), size),
                    num_cpus=0,
                    scheduling_strategy=at_home,
                )
                .map_batches(
                    Worker,
                    batch_size=1,
                    batch_format="pandas",
                    fn_constructor_args=(self._box, os.getcwd(), here),
                    compute=ActorPoolStrategy(
                        size=min(pool.workers, -(-n_left // size)),
                        max_tasks_in_flight_per_actor=2,
                    ),
                    num_cpus=pool.cpus,
                    num_gpus=pool.gpus,
                    max_restarts=-1,
                    max_task_retries=RETRIES,
                )
            )

    # The cluster ------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a cluster of this machine, or join the one at the address."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options: dict[str, Any] = {}
        if self.address == LOCAL:
            options = {"include_dashboard": False, "object_store_memory": OBJECTS_BYTES}
        else:
            mine = {key: value for key, value in os.environ.items() if key.startswith("GPTKIT_")}
            options = {"runtime_env": {"env_vars": mine}} if mine else {}
            _check_port(self.address)
        quiet = self._stack.enter_context(_Quiet())
        with warnings.catch_warnings(), _handlers_kept():
            warnings.simplefilter("ignore")
            import ray._private.worker
            import ray.data

            ray._private.worker._worker_logs_enabled = False  # else on stdout, come what may
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            try:
                ray.init(
                    self.address, log_to_driver=False, logging_level=logging.CRITICAL, **options
                )
            except ConnectionError as error:
                raise _no_cluster(self.address, error) from error
        self._stack.callback(ray.shutdown)
        quiet.speak()

    def _plan(self, threads: int | None) -> _Pool:
        """Return the pool for what the cluster has; `threads` are those of an earlier run."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = [node["CPU"] for node in nodes if node.get("CPU")]
        n_gpus = int(sum(node.get("GPU", 0) for node in nodes))
        device = self.how.device.partition(":")[0]
        by_gpu = device == "cuda" or bool(
            device == "auto" and self.how.backend in ("auto", "torch") and n_gpus
        )
        if by_gpu and (self.workers or 1) > n_gpus:
            raise ConfigError(
                f"--workers {self.workers or 1}: the cluster has {n_gpus:,} GPUs, one for each",
                hint="--device cpu computes without",
            )
        workers = self.workers or (n_gpus if by_gpu else len(cpus)) or 1
        share = sum(cpus) / workers
        threads = threads or max(1, int(min(share, *cpus)))
        return _Pool(workers, threads, min(threads, int(share) or share), int(by_gpu))


def _check_port(address: str) -> None:
    """Raise ConfigError where nobody listens: Ray itself would go on asking for minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"--address {address}: there is no cluster: {_first_line(error)}",
        hint="without --address one is started on this machine",
    )


@contextmanager
def _ray_errors() -> Iterator[None]:
    """Say in one line what Ray gave up for."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise ResourceError(
            f"a worker was lost {RETRIES + 1} times: {_first_line(error)}",
            hint="run the same command to go on; Ray's logs are in /tmp/ray/session_latest/logs",
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep this process's own answer to SIGTERM, which `ray.init` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class _Quiet:
    """Keeps what Ray says on stderr, also from C++, off the terminal: it has logs of its own.

    After `speak` this process says what it has to say where it did before; the loggers that were
    made until then do not.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._kept = -1

    def __enter__(self) -> Self:
        if os.environ.get("GPTKIT_DEBUG") == "1":
            return self
        sys.stderr.flush()
        self._kept = os.dup(2)
        self._stack.callback(os.close, self._kept)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        self._stack.callback(os.dup2, self._kept, 2)
        return self

    def speak(self) -> None:
        """Give this process its stderr back, where it had been that of the system."""
        before = sys.stderr
        try:
            is_the_systems = before.fileno() == 2
        except (OSError, ValueError):  # a test's
            is_the_systems = False
        if self._kept < 0 or not is_the_systems:
            return
        sys.stderr = open(
            self._kept,
            "w",
            encoding=before.encoding,
            errors=before.errors,
            buffering=1,
            closefd=False,
        )
        self._stack.callback(setattr, sys, "stderr", before)

    def __exit__(self, *_: object) -> None:
        self._stack.close()
