"""Rows of one cell through one engine: bounds, errors, memory that gives out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gptkit import assembly
from gptkit.errors import ContextOverflow, NonFiniteLogits, PluginError, ResourceError
from gptkit.jobs.batch import AHEAD, Batch, fault_of
from gptkit.jobs.fields import BadRow
from gptkit.jobs.preflight import Given, prepare
from gptkit.plugin_host import registry


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture
def batch(workshop, plugins):
    """Return a function: the batch of a job for these rows, of a model that may be changed."""

    def make(rows, change=None, **given):
        job = prepare(workshop.job(rows=rows), plugins, Given(**given))
        (cell,) = job.cells
        model = assembly.load_model(cell.source, plugins, device="cpu")
        return Batch(job, cell, change(model) if change else model)

    return make


def outputs(batch):
    """Run a batch to its end; return the lines of output by index."""
    steps = list(batch.run(batch.job.inputs))
    return {r.row.index: r.output for step in steps for r in step.results}


class Cramped:
    """A model that has memory for rows of so many new positions in all, and then fails."""

    shares_prefixes = False
    ranks = False

    def __init__(self, forward, fits, error):
        self.forward, self.fits, self.error = forward, fits, error
        self.config, self.new_cache = forward.config, forward.new_cache

    def step(self, ids, spans, cache, wanted):
        if not self.fits(spans):
            raise self.error
        return self.forward.step(ids, spans, cache, wanted)


def rows(n, length=5):
    return [{"id": i, "text": f"{i:0{length}}"} for i in range(n)]


def test_rows_are_read_ahead_only_in_bounds(batch):
    made = batch([{"id": 0, "text": "x"}, *({"id": i} for i in range(1, 200))], batch_size=2)
    read = []

    def counted():
        for row in made.job.inputs:
            read.append(row.index)
            yield row

    steps = made.run(counted())
    first = next(steps)
    assert len(read) <= AHEAD * 2 + 2  # and those that are computed
    results = [*first.results, *(r for step in steps for r in step.results)]
    assert sorted(r.row.index for r in results) == list(range(200))
    assert all(("error" in r.output) == (r.row.index > 0) for r in results)


def test_one_row_at_a_time_gives_what_many_do(batch):
    alone, together = (outputs(batch(rows(12), batch_size=n)) for n in (1, 8))
    assert alone == together


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_once(batch, error):
    expected = outputs(batch(rows(12), batch_size=4))

    def cramp(model):
        few = lambda spans: len({s.slot for s in spans if s.slot is not None}) <= 2  # noqa: E731
        return replace(model, forward=Cramped(model.forward, few, error))

    made = batch(rows(12), cramp, batch_size=4)
    assert outputs(made) == expected
    assert made.notes == ["out of memory; going on with 2 rows at a time"]


def test_a_row_for_which_there_is_no_memory_fails_alone(batch):
    given = rows(9)
    given[4]["text"] = "long " * 18
    expected = outputs(batch(given, batch_size=4))

    def cramp(model):
        short = lambda spans: all(s.start + s.n < 90 for s in spans)  # noqa: E731
        return replace(model, forward=Cramped(model.forward, short, MemoryError()))

    made = outputs(batch(given, cramp, batch_size=4))
    assert made.pop(4)["error"] == {
        "type": "resource_error",
        "message": "out of memory: MemoryError",
    }
    assert made == {i: row for i, row in expected.items() if i != 4}


def test_no_memory_for_any_row_ends_the_job(batch, monkeypatch):
    def none(model, *, n_slots):
        raise ResourceError("needs about 9 GB, 6 GB free")

    monkeypatch.setattr(assembly, "engine", none)
    with pytest.raises(ResourceError, match="6 GB free"):
        outputs(batch(rows(3)))


def test_another_error_of_the_model_is_not_taken_for_memory(batch):
    def broken(model):
        return replace(model, forward=Cramped(model.forward, lambda spans: False, KeyError("x")))

    with pytest.raises(KeyError):
        outputs(batch(rows(3), broken))


def test_only_errors_of_computing_may_be_retried(batch):
    given = [{"id": 0}, {"id": 1, "text": "x" * 200}, {"id": 2, "text": "\u2603"}, *rows(1)]
    given[3]["id"] = 3

    def cramp(model):
        return replace(model, forward=Cramped(model.forward, lambda spans: False, MemoryError()))

    made = batch(given, cramp, batch_size=1)
    results = [r for step in made.run(made.job.inputs) for r in step.results]
    assert {r.row.index: r.may_retry for r in results} == {0: False, 1: False, 2: False, 3: True}


def test_errors_are_named_in_lower_snake():
    assert fault_of(ContextOverflow("x")).type == "context_overflow"
    assert fault_of(NonFiniteLogits("x")).type == "non_finite_logits"
    assert fault_of(PluginError("x")).type == "plugin_error"
    assert fault_of(BadRow("missing_field", "x")).type == "missing_field"
    assert fault_of(KeyError("y")).message == "KeyError: 'y'"
