"""What computes a job: backend, device and dtype, threads, versions of libraries, processor.

The first three are part of what an answer is. On the others its last bits depend, and so a near-tie
between two tokens: a run that goes on takes the threads of the first one.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gptkit import assembly
from gptkit.errors import ResumeRefused
from gptkit.jobs.files import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from gptkit.jobs.job import Job

Runtime = dict[str, Any]
DECIDING = ("backend", "device", "dtype")


@dataclass(frozen=True, slots=True)
class How:
    """How a job is run, by the options of the command line; none of it is part of the job.

    `tokenizer`, `device`, `dtype` and `backend` are what `assembly.load_model` is given.
    """

    restart: bool = False
    no_resume: bool = False
    retry_errors: bool = False
    tokenizer: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"


def runtime(job: Job, how: How) -> Runtime:
    """Return what will compute a job here; the dtypes are those of its cells."""
    import torch

    places = [assembly.place(cell.source, how.backend, how.device, how.dtype) for cell in job.cells]
    backend, device, _ = places[0]
    found = {
        "backend": backend,
        "device": device.partition(":")[0],
        "dtype": list(dict.fromkeys(dtype for *_, dtype in places)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch_size": job.batch_size,
    }
    if backend == "cpu":
        from gptkit.model.cpu import processor

        found |= {"numba": version("numba"), "processor": processor.describe()}
    return found


def check_chosen(path: Path, old: Mapping[str, Any], how: How) -> None:
    """Refuse an option that says otherwise than the run before, without asking torch."""
    for name in DECIDING:
        value = getattr(how, name)
        if value == "auto" or name not in old:
            continue
        before = old[name] if isinstance(old[name], list) else [old[name]]
        if before != [value.partition(":")[0]]:
            raise _refusal(path, name, before, [value])


def check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with other arithmetic than that of the run before."""
    for name in DECIDING:
        if old[name] != new[name]:
            before, after = (v if isinstance(v, list) else [v] for v in (old[name], new[name]))
            raise _refusal(path, name, before, after)


def _refusal(path: Path, name: str, old: list[str], new: list[str]) -> ResumeRefused:
    said = f"{name} {' and '.join(old)} -> {' and '.join(new)}"
    keep = f"--{name} {old[0]} goes on" if len(old) == 1 else "put it back to go on"
    return ResumeRefused(
        f"{shown(path)} belongs to a different job: {said}", hint=f"{keep}; --restart begins anew"
    )


def notes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Say what is another than in the run before, but may be."""
    if old["threads"] != new["threads"]:
        plural = "s" * (old["threads"] != 1)
        yield (
            f"computing with {old['threads']} thread{plural}, as this job began; "
            f"here it would be {new['threads']}"
        )
    for name in ("torch", "numba", "processor"):
        if old.get(name) != new.get(name):
            yield (
                f"this job began with {name} {old.get(name)}, this is {new.get(name)}: where two "
                "tokens are nearly equal, rows may differ from those of one run"
            )


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch compute with n threads."""
    import torch

    before = torch.get_num_threads()
    if n != before:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        if n != before:
            torch.set_num_threads(before)
