"""The kernels as files of machine code: found again, and made again where they are damaged."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="the kernels need the extra `fast`")

from gptkit.model.cpu import layout, library
from gptkit.model.cpu.layout import FORMS, Ranks, n_words, words

ROOT = Path(__file__).parents[2]
LOAD = """
import sys
from gptkit.model.cpu.library import library
library()
print("compiled" if "numba" in sys.modules else "loaded")
"""
ERRORS = "numba_do_raise numba_gil_ensure numba_gil_release numba_runtime_build_excinfo_struct"
NUMBAS = {*ERRORS.split(), "numba_unpickle"}
"""What numba calls where a function raises, which ours don't."""
SYSTEMS = {"syscall", "sched_yield", "SwitchToThread", "memset", "memcpy", "memmove"}


def load(**environment):
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.strip()


def file_of():
    """Return the file of this machine's code, which is there after the first call."""
    library.library()
    found = [folder / f"kernels-{library._key()}.bin" for folder in library._folders()]
    return next(path for path in found if path.exists())


def test_code_that_is_on_disk_needs_no_numba():
    assert file_of().exists()
    assert load() == "loaded"


def test_code_is_kept_for_all_sources_that_it_is_made_of():
    """One that was left out could change, and the code on disk would be taken nevertheless."""
    here = "gptkit.model.cpu."
    code = f"import sys; import {here}kernels; print(*(m for m in sys.modules if {here!r} in m))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = {name.removeprefix(here) for name in done.stdout.split()}
    assert modules | {"library"} == set(library.SOURCES)


def test_the_code_calls_nobody_but_the_system():
    """Allocations, reference counts and errors of numba would be calls of symbols that are only
    there with numba; those of its wrappers are never come to."""
    code = library._read(file_of())
    for name in library.FUNCTIONS:
        needs = set(code[name]["needs"])
        assert not {one for one in needs - NUMBAS - SYSTEMS if not one.startswith("Py")}, needs


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no such permissions")
def test_what_others_may_have_written_is_not_run(tmp_path):
    path = tmp_path / "kernels.bin"
    path.write_bytes(file_of().read_bytes())
    path.chmod(0o644)
    assert set(library._read(path)) == set(library.FUNCTIONS)
    path.chmod(0o646)
    assert library._read(path) is None
    path.chmod(0o644)
    tmp_path.chmod(0o707)
    assert library._read(path) is None


def test_a_symbol_that_is_nowhere_is_an_error_before_it_is_called():
    """LLVM itself would end the process."""
    library.library()  # and the symbols of this process are known
    library._bind("memcpy")
    with pytest.raises(LookupError, match="no_such_symbol, which is not there"):
        library._bind("no_such_symbol")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["bytes", "end", "nothing"])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    whole = file_of().read_bytes()
    path = tmp_path / file_of().name
    at = len(whole) // 2
    made = {"bytes": whole[:at] + b"x" + whole[at + 1 :], "end": whole[:at], "nothing": b""}
    path.write_bytes(made[damage])
    assert load(NUMBA_CACHE_DIR=str(tmp_path)) == "compiled"
    assert load(NUMBA_CACHE_DIR=str(tmp_path)) == "loaded"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert load(NUMBA_CACHE_DIR=str(tmp_path / "file")) == "compiled"


def test_another_processor_has_code_of_its_own(monkeypatch):
    here = library._key()
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    assert library._key() != here
    monkeypatch.undo()
    assert library._key() == here
    monkeypatch.setattr(library.processor, "FUTEX", None)
    assert library._key() != here


# How a step lies in memory ----------------------------------------------------------------------


def test_an_array_is_its_address_shape_and_strides():
    array = np.zeros((2, 3, 4), np.int32)
    assert words(array, "i4:3") == [0, 0, 24, 4, array.ctypes.data, 2, 3, 4, 48, 16, 4]
    assert words(7, "i8") == [7]
    assert words(-1.5, "f8") == [np.float64(-1.5).view(np.int64)]


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_as_long_as_their_words(form):
    def value(form):
        if form in FORMS:
            return form(*map(value, FORMS[form]))
        kind, _, n_axes = form.partition(":")
        return np.zeros((2,) * int(n_axes), kind) if n_axes else 0

    assert len(words(value(form), form)) == n_words(form)
    assert len(form._fields) == len(FORMS[form])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 2, 2), np.int64),
        np.zeros((2, 2), np.int32),
        np.zeros((2, 2, 4), np.int32)[..., ::2],
    ],
    ids=["dtype", "axes", "steps"],
)
def test_an_array_of_another_form_is_refused(wrong):
    """The kernels would read memory that is nobody's."""
    right = [np.zeros((2,) * n, kind) for kind, n in (("i8", 3), ("i8", 2), ("i4", 2), ("i4", 2))]
    with pytest.raises(TypeError, match="i4:3 in a row is asked for, not"):
        layout.Laid(Ranks(wrong, *right))
