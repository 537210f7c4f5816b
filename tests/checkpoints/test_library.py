from pathlib import Path

import pytest

from gptkit.checkpoints import library
from gptkit.checkpoints.checkpoint import open_checkpoint
from gptkit.config import home
from gptkit.errors import CheckpointError

from .makers import save


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that ships one model, and an empty working directory."""
    folder = tmp_path / "bundled"
    save(folder / "mini")
    (folder / "__pycache__").mkdir()
    (folder / "notes").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(library.importlib.resources, "files", lambda name: folder)
    return folder


def test_without_a_name_it_is_the_model_that_ships(package):
    assert library.find(None) == package / "mini"
    assert library.find("mini") == package / "mini"


def test_a_path_goes_first_then_the_package_then_home(package):
    for name in ("mini", "mine"):
        (home() / "models" / name).mkdir(parents=True)
    assert library.find("mini") == package / "mini"
    assert library.find("mine") == home() / "models" / "mine"
    Path("mine").mkdir()
    assert library.find("mine") == Path("mine")
    assert library.find("./mine") == Path("mine")


def test_installed_lists_each_name_once(package):
    for name in ("mini", "mine", ".hidden"):
        (home() / "models" / name).mkdir(parents=True)
    assert library.installed() == [
        ("mini", package / "mini"),
        ("mine", home() / "models" / "mine"),
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("./gtp2", "did you mean './gpt2'?"),
        ("./gtp2/", "did you mean './gpt2'?"),
        ("gtp2", "did you mean 'gpt2'?"),
        ("./mini", None),  # a path, hence never the model of the package
        ("mimi", "did you mean 'mini'?"),
        ("gpt2-xl", "gpt2-xl is the name of a size here; put its files into"),
        ("zzz", "`-m` takes a path or one of: mini"),
        ("models/zzz", None),
        ("~nobody/x", None),
        ("a\0b", None),
        ("x" * 5000, None),
        ("../../../../../../..//nothing-here", None),
    ],
)
def test_what_is_missing_gets_a_suggestion(package, name, hint):
    Path("gpt2").mkdir()
    Path("gpt2.txt").touch()
    with pytest.raises(CheckpointError, match="no such model directory: ") as caught:
        library.find(name)
    assert hint is None or caught.value.hint.startswith(hint)
    assert "\0" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_name_at_home_is_never_a_path(package):
    (home() / "secret").mkdir(parents=True)
    (home() / "models").mkdir()
    with pytest.raises(CheckpointError):
        library.find("../secret")


def test_a_model_whose_save_was_killed_is_found(package):
    save(Path("out"))
    Path("out").rename(".out.old")
    assert open_checkpoint(library.find("out")).load()
