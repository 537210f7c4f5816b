"""Settings from YAML: strict types, and for each mistake a sentence with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from gptkit import config
from gptkit.config import Document, Items, Settings, parse_yaml, read_yaml
from gptkit.errors import ConfigError


class Sampling(Settings):
    seed: int | None = Field(None, ge=0)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(0.5, gt=0, lt=1)
    chain: tuple[str | dict[str, Any], ...] | None = Field(None, strict=False)


class Job(Settings):
    model: str = Field("mini", min_length=1)
    template: str | dict[str, Any] = "qa"
    examples: str | Items[dict[str, Any]] = ()
    sampling: Sampling = Sampling()
    stages: tuple[Sampling, ...] = Field((), strict=False)
    fields: dict[str, str] = {}
    overflow: Literal["error", "truncate_left"] = "error"
    batch_size: int = Field(16, ge=1, le=4096)
    limit: int | Literal["off"] = "off"
    shuffle: bool = False
    folder: Path = Field(Path("."), strict=False)

    @model_validator(mode="after")
    def _check(self):
        if self.shuffle and self.batch_size == 1:
            raise ValueError("shuffle needs batch_size above 1")
        return self


class Needs(Settings):
    name: str
    inner: Sampling


def test_a_whole_file():
    job = parse_yaml(
        "model: gpt2\ntemplate: {item: $x}\nexamples: [{x: 1}]\nfolder: here\nlimit: 3\n"
        "sampling:\n  seed: 7\n  temperature: 1e-4\n  chain: [greedy, {top_k: 3}]\n",
        "job.yaml",
    ).build(Job)
    assert job.sampling == Sampling(seed=7, temperature=1e-4, chain=("greedy", {"top_k": 3}))
    assert (job.template, job.examples, job.limit) == ({"item": "$x"}, ({"x": 1},), 3)
    assert job.folder == Path("here")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "model: mini\nsampling:\n  temprature: 0.7",
            "job.yaml:3: unknown key 'temprature'",
            "did you mean 'temperature'?",
        ),
        (
            "stages:\n- seed: 1\n- zzz: 1",
            "job.yaml:3: unknown key 'zzz'",
            "known keys: seed, temperature, top_p, chain",
        ),
        (
            'sampling:\n  temperature: "0.7"',
            'job.yaml:2: sampling.temperature: expected a number, got text "0.7"',
            None,
        ),
        (
            "sampling: {temperature: no}",
            'job.yaml:1: sampling.temperature: expected a number, got text "no"',
            None,
        ),
        ("batch_size: 0", "job.yaml:1: batch_size: 0 is below 1", None),
        ("batch_size: 5000", "job.yaml:1: batch_size: 5,000 is above 4,096", None),
        ("batch_size: 2.0", "job.yaml:1: batch_size: expected a whole number, got 2.0", None),
        ("sampling: {top_p: 1}", "job.yaml:1: sampling.top_p: 1 is not below 1.0", None),
        ("sampling: {top_p: 0.0}", "job.yaml:1: sampling.top_p: 0.0 is not above 0.0", None),
        (
            "sampling: {temperature: .nan}",
            "job.yaml:1: sampling.temperature: expected a finite number, got nan",
            None,
        ),
        (
            "sampling: {seed: " + "9" * 30 + "}\nbatch_size: -" + "9" * 30,
            "job.yaml:2: batch_size: a very large number is below 1",
            None,
        ),
        ("model: ''", "job.yaml:1: model: must not be empty", None),
        ("model:", "job.yaml:1: model: expected text, got nothing", None),
        ("shuffle: yes", 'job.yaml:1: shuffle: expected true or false, got text "yes"', None),
        ("template: [a]", "job.yaml:1: template: expected text or a mapping, got a list", None),
        ("examples: 3", "job.yaml:1: examples: expected text or a list, got 3", None),
        (
            "examples:\n- {x: 1}\n- y",
            'job.yaml:3: examples[1]: expected a mapping, got text "y"',
            None,
        ),
        ("fields: {a: 1}", "job.yaml:1: fields.a: expected text, got 1", None),
        ("fields: {1: a}", "job.yaml:1: fields[1]: the key must be text, got 1", "quote the key"),
        (
            "overflow: trunkate_left",
            'job.yaml:1: overflow: expected error or truncate_left, got text "trunkate_left"',
            "did you mean 'truncate_left'?",
        ),
        ("limit: true", "job.yaml:1: limit: expected a whole number or off, got true", None),
        ("sampling: 3", "job.yaml:1: sampling: expected settings, got 3", None),
        (
            "sampling: {chain: greedy}",
            'job.yaml:1: sampling.chain: expected a list, got text "greedy"',
            None,
        ),
        ("folder: [x]", "job.yaml:1: folder: expected a path, got a list", None),
        ("shuffle: true\nbatch_size: 1", "job.yaml: shuffle needs batch_size above 1", None),
    ],
)
def test_each_mistake_has_its_sentence(text, message, hint):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "job.yaml").build(Job)
    assert (str(caught.value), caught.value.hint) == (message, hint)


def test_missing_keys_name_the_place_that_lacks_them():
    with pytest.raises(ConfigError, match=r"^job\.yaml: 'name' is missing; job\.yaml: 'inner' is"):
        parse_yaml("{}", "job.yaml").build(Needs)


def test_a_part_is_built_with_the_places_of_the_whole():
    document = parse_yaml("a:\n  b:\n    sed: 1\n", "job.yaml")
    with pytest.raises(ConfigError) as caught:
        document.build(Sampling, at=("a", "b"))
    assert str(caught.value) == "job.yaml:3: unknown key 'sed'"
    assert caught.value.hint == "did you mean 'seed'?"
    with pytest.raises(ConfigError, match=r"^job.yaml:3: a.b.sed: expected settings, got 1$"):
        document.build(Sampling, at=("a", "b", "sed"))


def test_several_mistakes_come_in_the_order_of_the_file_and_five_at_most():
    text = "\n".join(["z: 1", "model: 3", *(f"x{n}: 1" for n in range(5))])
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "j").build(Job)
    parts = str(caught.value).split("; ")
    assert parts[:3] == [
        "j:1: unknown key 'z'",
        "j:2: model: expected text, got 3",
        "j:3: unknown key 'x0'",
    ]
    assert len(parts) == 6 and parts[-1] == "and 2 more"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "job.yaml is empty"),
        ("# only a comment\n", "job.yaml is empty"),
        ("- 1", "job.yaml: expected settings, got a list"),
        ("text", 'job.yaml: expected settings, got text "text"'),
    ],
)
def test_no_mapping_at_the_top(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "job.yaml").build(Job)
    assert str(caught.value) == message
    assert caught.value.hint.startswith("write one of: model, template, ")


def test_where_names_the_nearest_known_key():
    document = parse_yaml("a: 1\nb:\n  - x\n", "job.yaml")
    assert document.where(("b", 0)) == "job.yaml:3"
    assert document.where(("b", 0, "deep", "er")) == "job.yaml:3"
    assert document.where(("b", "c")) == "job.yaml:2"
    assert document.where(("zzz",)) == document.where(()) == "job.yaml"


def test_data_of_other_origin_has_a_name_alone():
    with pytest.raises(ConfigError, match=r"^config\.json: batch_size: 0 is below 1$"):
        Document("config.json", {"batch_size": 0}).build(Job)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("sampling.seed=7", ("sampling", "seed"), 7),
        ("sampling.temperature=1e-5", ("sampling", "temperature"), 1e-5),
        ("model=", ("model",), None),
        ("model=a=b", ("model",), "a=b"),
        ("stop.strings=['\\n']", ("stop", "strings"), ["\\n"]),
        ("new.deep.key=1", ("new", "deep", "key"), 1),
        ("list.1=x", ("list", 1), "x"),
    ],
)
def test_set_changes_one_key(assignment, path, value):
    before = parse_yaml("model: mini\nsampling: {seed: 1}\nlist: [a, b]", "job.yaml")
    after = before.set(assignment)
    found = after.data
    for key in path:
        found = found[key]
    assert found == value
    assert after.where(path) == f"--set {assignment.partition('=')[0]}"
    assert before.data == {"model": "mini", "sampling": {"seed": 1}, "list": ["a", "b"]}
    assert after.where(("list", 0)) == "job.yaml:3"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("x", "--set x: expected key=value"),
        ("=1", "--set =1: expected key=value"),
        ("a..b=1", "--set a..b=1: expected key=value"),
        ("stages.1={}", "--set stages.1: '1' is no item of a list of 1"),
        ("stages.x={}", "--set stages.x: 'x' is no item of a list of 1"),
        ("model.x=1", "--set model.x: there is text \"mini\", which has no key 'x'"),
        ("batch_size=x", '--set batch_size: expected a whole number, got text "x"'),
        ("sampling.sed=1", "--set sampling.sed: unknown key 'sed'"),
        (
            "sampling={seed: x}",
            '--set sampling: sampling.seed: expected a whole number, got text "x"',
        ),
        ("model=a: b: c", "--set model:1:5: a second ': ' in one line"),
    ],
)
def test_errors_of_set_name_the_option(assignment, message):
    document = parse_yaml("model: mini\nstages: [{seed: 1}]", "job.yaml")
    with pytest.raises(ConfigError) as caught:
        document.set(assignment).build(Job)
    assert str(caught.value) == message


def test_set_on_an_empty_document():
    assert parse_yaml("", "job.yaml").set("model=x").data == {"model": "x"}


# Files ------------------------------------------------------------------------------------------


def test_read_yaml(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: x\r\nbatch_size: 0\r\n")
    document = read_yaml(path)
    assert document.data == {"model": "x", "batch_size": 0}
    assert document.where(("batch_size",)) == f"{path}:2"
    assert read_yaml(path, "job").where(("batch_size",)) == "job:2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: \xff", "j is not valid UTF-8 at byte 3"),
        (b"a: x" * 300_000, "j is larger than the limit of 1 MB for settings"),
        ("a: \N{SNOWMAN}".encode() * 300_000, "j is larger than the limit of 1 MB for settings"),
    ],
)
def test_read_yaml_refuses(tmp_path, content, message):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path, "j")
    assert str(caught.value) == message


def test_read_yaml_without_a_file(tmp_path):
    (tmp_path / "job.yaml").write_text("a: 1")
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "jbo.yaml", "jbo.yaml")
    assert str(caught.value) == "no such file: jbo.yaml"
    assert caught.value.hint == "did you mean 'job.yaml'?"
    with pytest.raises(ConfigError, match="is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match="can't read .*: Not a directory"):
        read_yaml(tmp_path / "job.yaml" / "x")


def test_home_and_data_folder(monkeypatch):
    monkeypatch.setenv("GPTKIT_HOME", "/somewhere")
    assert config.home() == Path("/somewhere")
    monkeypatch.delenv("GPTKIT_HOME")
    assert config.home().name == "gptkit"
    monkeypatch.setenv("GPTKIT_DATA", "/data")
    assert config.data_folder() == Path("/data")
    monkeypatch.delenv("GPTKIT_DATA")
    assert config.data_folder() is None
