"""What is refused before a model loads, and what a job comes to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gptkit.decoding.chain_source import from_preset
from gptkit.decoding.request import typed
from gptkit.errors import CheckpointError, ConfigError, GptkitError, UnknownName
from gptkit.jobs.preflight import Given, prepare
from gptkit.plugin_host import registry

ROWS = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]


@pytest.fixture(scope="module")
def plugins():
    return registry()


def labels(job):
    return [str(stage) for stage in job.cells[0].chain]


def test_a_job_is_read_whole(workshop, plugins):
    job = prepare(workshop.job(rows=ROWS), plugins)
    assert labels(job) == ["temperature=0.9", "sample"]
    assert (job.cells[0].seed, job.batch_size, job.cells[0].room, job.scan.n_rows) == (
        7,
        16,
        128 - 12,
        2,
    )
    assert job.inputs.files == (workshop.folder / "in.jsonl",)
    assert job.outputs == Path("out.jsonl")
    assert job.cells[0].source.path == workshop.model


def test_inputs_are_found_beside_the_job_and_outputs_here(workshop, plugins, monkeypatch):
    path = workshop.job(rows=ROWS)
    elsewhere = workshop.folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    job = prepare(path, plugins)
    assert job.inputs.files == (workshop.folder / "in.jsonl",)
    assert job.outputs.resolve() == elsewhere / "out.jsonl"


def test_the_command_line_wins(workshop, plugins):
    path = workshop.job(rows=ROWS, model="nothing")
    other = workshop.rows([{"text": "x"}], "other.jsonl")
    given = Given(
        model=str(workshop.model),
        inputs=(str(other),),
        outputs=Path("else.jsonl"),
        seed=9,
        batch_size=3,
        on_overflow="truncate_left",
    )
    job = prepare(path, plugins, given)
    assert (job.inputs.files, job.outputs) == ((other,), Path("else.jsonl"))
    assert (job.cells[0].seed, job.batch_size, job.on_overflow) == (9, 3, "truncate_left")


def test_set_changes_a_key_of_the_file(workshop, plugins):
    path = workshop.job(rows=ROWS)
    assert prepare(path, plugins, assignments=["sampling.seed=3"]).cells[0].seed == 3
    with pytest.raises(ConfigError, match="--set sampling.sed"):
        prepare(path, plugins, assignments=["sampling.sed=3"])


def test_stages_change_the_chain_of_the_file(workshop, plugins):
    path = workshop.job(rows=ROWS)
    assert labels(prepare(path, plugins, Given(stages=("greedy",)))) == [
        "temperature=0.9",
        "greedy",
    ]
    given = Given(stages=({"top_k": 3}, {"temperature": 0.2}))
    assert labels(prepare(path, plugins, given)) == ["temperature=0.2", "top_k=3", "sample"]
    changed = prepare(path, plugins, Given(shorthands={"temperature": "0.3"}))
    assert labels(changed) == ["temperature=0.3", "sample"]
    with pytest.raises(ConfigError, match="--top-k is given but the chain has no top_k"):
        prepare(path, plugins, Given(shorthands={"top_k": "3"}))


def test_without_a_chain_the_model_s_own_serves_and_is_told(workshop, plugins):
    path = workshop.job(rows=ROWS, sampling="{seed: 1}")
    job = prepare(path, plugins)
    assert labels(job) == ["temperature=0.5", "sample"]
    assert job.notes == ("sampling as tiny recommends: temperature=0.5 sample",)
    given = Given(shorthands={"top_k": "3"})
    assert labels(prepare(path, plugins, given)) == ["top_k=3", "sample"]


def test_a_seed_is_drawn_where_none_is_given(workshop, plugins):
    path = workshop.job(rows=ROWS, sampling=None)
    assert prepare(path, plugins).cells[0].seed != prepare(path, plugins).cells[0].seed


def test_stop_strings_join_and_limits_replace(workshop, plugins):
    path = workshop.job(rows=ROWS, stop='{strings: ["."], max_new_tokens: 12}')
    given = Given(stop={"strings": [";"], "max_new_tokens": typed("5")})
    job = prepare(path, plugins, given)
    assert job.cells[0].stop["strings"] == [".", ";"]
    assert job.cells[0].room == 128 - 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling": "{chain: [top_b: 1]}"}, r"job.yaml:5: unknown sampler 'top_b'"),
        ({"sampling": "{chain: [temperature: -1]}"}, "job.yaml:5: temperature: -1 is below 0"),
        ({"stop": "{max_new_tokens: -1}"}, "job.yaml:6: max_new_tokens: -1 is below 0"),
        ({"stop": "{stringz: [a]}"}, "job.yaml:6: unknown stopping criterion 'stringz'"),
        ({"stop": "{max_new_tokens: 128}"}, "128 leaves no room for a prompt"),
        ({"template": "summarise"}, "job.yaml:2: unknown template 'summarise'"),
        (
            {"template": '{item: "Q: $title\\nA: $answer", output: answer}'},
            r"template uses \$title",
        ),
        ({"inputs": "none.jsonl"}, "can't read .*none.jsonl"),
        ({"outputs": "in.jsonl"}, "is the file that the job reads"),
        ({"outputs": "none/out.jsonl"}, "no such directory: none"),
        ({"system": "Be kind."}, "job.yaml:7: only a chat template takes 'system'"),
        ({"fields": "{txt: text}"}, r"job.yaml:7: the template has no \$txt; it has: answer, text"),
        ({"examples": "[{text: x}]"}, r"job.yaml:7: no field 'answer'; there are: text"),
        ({"examples": "[{text: x, answer: [1]}]"}, "field 'answer' is a list, not text"),
        ({"examples": "[{text: x, answer: y}]", "k": "2"}, "job.yaml:8: k is 2, but there are 1"),
        ({"examples": "none.jsonl"}, "can't read .*none.jsonl"),
    ],
)
def test_a_mistake_is_told_with_its_place(workshop, plugins, changes, said):
    with pytest.raises(GptkitError, match=said) as caught:
        prepare(workshop.job(rows=ROWS, **changes), plugins)
    assert caught.value.exit_code == 2


def test_a_missing_variable_is_told_with_the_fields_that_there_are(workshop, plugins):
    path = workshop.job(rows=[{"id": 1, "txet": "x"}, {"id": 2, "txet": "y"}])
    with pytest.raises(ConfigError, match=r"template uses \$text; input has: id, txet") as caught:
        prepare(path, plugins)
    assert caught.value.hint == "did you mean 'txet'?"


def test_a_field_that_any_row_has_is_no_mistake_of_the_template(workshop, plugins):
    assert prepare(workshop.job(rows=[{"id": 1}, {"text": "x"}]), plugins).scan.n_rows == 2


def test_fields_name_the_input_s_own(workshop, plugins):
    path = workshop.job(rows=[{"body": "x"}], fields="{text: body}")
    assert prepare(path, plugins).cells[0].columns == {"text": "body"}


def test_examples_from_a_file_go_by_the_names_of_the_data(workshop, plugins):
    workshop.rows([{"body": "x", "answer": "y"}, {"body": 2, "answer": "z"}, "[]"], "few.jsonl")
    path = workshop.job(rows=[{"body": "x"}], fields="{text: body}", examples="few.jsonl", k="2")
    assert prepare(path, plugins).cells[0].examples.pool == (
        {"text": "x", "answer": "y"},
        {"text": "2", "answer": "z"},
    )
    with pytest.raises(ConfigError, match=r"few.jsonl:3: expected an object, got a list"):
        prepare(path, plugins, assignments=["k=3"])
    with pytest.raises(ConfigError, match="is the file that the job reads"):
        prepare(path, plugins, Given(outputs=Path("few.jsonl")))


def test_a_bad_row_stops_the_job_unless_it_may_be_an_error_row(workshop, plugins):
    path = workshop.job(rows=[{"text": "a"}, '{"text": '])
    with pytest.raises(ConfigError, match=r"in.jsonl:2: not valid JSON \(column 10\)"):
        prepare(path, plugins)
    assert prepare(path, plugins, assignments=["on_bad_row=error_row"]).scan.n_rows == 2


def test_a_chat_template_takes_one_field_and_no_examples(workshop, plugins):
    path = workshop.job(rows=ROWS, template="dialogue", system="Be kind.")
    assert prepare(path, plugins).cells[0].wanted == {"text"}
    with pytest.raises(ConfigError, match="a chat template takes no examples"):
        prepare(workshop.job(rows=ROWS, template="dialogue", examples="[{text: x}]"), plugins)


def test_a_model_that_is_not_there_is_refused(workshop, plugins):
    with pytest.raises(CheckpointError):
        prepare(workshop.job(rows=ROWS, model="./nowhere"), plugins)


def test_an_unknown_name_stays_of_its_kind(workshop, plugins):
    with pytest.raises(UnknownName, match="job.yaml:2"):
        prepare(workshop.job(rows=ROWS, template="summarise"), plugins)


def test_preflight_knows_no_torch(workshop):
    path = workshop.job(rows=ROWS)
    code = (
        "import sys; from pathlib import Path; from gptkit.jobs.preflight import prepare;"
        "from gptkit.plugin_host import registry;"
        f"prepare(Path({str(path)!r}), registry());"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Whole chains -------------------------------------------------------------------------------------


def test_a_job_may_name_a_preset_and_the_command_line_changes_it(workshop, plugins):
    path = workshop.job(rows=ROWS, sampling="{preset: nanogpt}")
    job = prepare(path, plugins, Given(stages=({"top_k": 3},)))
    assert labels(job) == ["temperature=0.8", "top_k=3", "sample"]
    assert job.notes == ("preset nanogpt: temperature=0.8 top_k=3 sample",)


def test_a_whole_chain_from_the_command_line_replaces_that_of_the_job(workshop, plugins):
    whole = from_preset("nanogpt", plugins)
    job = prepare(workshop.job(rows=ROWS), plugins, Given(whole_chain=whole))
    assert labels(job) == ["temperature=0.8", "top_k=200", "sample"]
    assert job.notes == ("preset nanogpt: temperature=0.8 top_k=200 sample",)
    path = workshop.job(rows=ROWS, sampling="{preset: openai}")
    job = prepare(path, plugins, Given(whole_chain=whole))
    assert labels(job) == ["temperature=0.8", "top_k=200", "sample"]


def test_a_preset_and_a_chain_in_one_job_are_an_error(workshop, plugins):
    path = workshop.job(rows=ROWS, sampling="{preset: hf, chain: [greedy]}")
    with pytest.raises(ConfigError, match="job.yaml:5: sampling: a preset is a whole chain, and"):
        prepare(path, plugins)
    with pytest.raises(ConfigError, match="a preset is a whole chain"):
        prepare(workshop.job(rows=ROWS), plugins, assignments=["sampling.preset=hf"])
    assignments = ["sampling.preset=nanogpt", "sampling.chain=null"]
    job = prepare(workshop.job(rows=ROWS), plugins, assignments=assignments)
    assert labels(job)[1] == "top_k=200"


def test_a_broken_chain_in_a_job_is_an_error_though_another_replaces_it(workshop, plugins):
    path = workshop.job(rows=ROWS, sampling="{chain: [top_p: 7]}")
    with pytest.raises(ConfigError, match="job.yaml:5: top_p: 7 is above 1"):
        prepare(path, plugins, Given(whole_chain=from_preset("nanogpt", plugins)))


# Files that a stage names ----------------------------------------------------------------------


def test_a_schema_of_a_job_is_found_beside_it_and_one_of_the_command_line_here(
    workshop, plugins, monkeypatch
):
    (workshop.folder / "s.json").write_text('{"type": "null"}')
    elsewhere = workshop.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "t.json").write_text('{"type": "boolean"}')
    monkeypatch.chdir(elsewhere)
    chain = "[constraint: {json_schema: s.json}, greedy]"
    path = workshop.job(rows=ROWS, sampling=f"{{chain: {chain}}}")
    assert '"null"' in prepare(path, plugins).cells[0].chain[0].values["json_schema"]
    given = Given(stages=({"constraint": {"json_schema": "t.json"}},))
    assert '"boolean"' in prepare(path, plugins, given).cells[0].chain[0].values["json_schema"]
    path = workshop.job(rows=ROWS, sampling=None, matrix=f"{{sampler: {{a: {chain}}}}}")
    assert '"null"' in prepare(path, plugins).cells[0].chain[0].values["json_schema"]


def test_a_schema_that_is_not_there_is_told_with_its_place(workshop, plugins):
    chain = "[constraint: {json_schema: none.json}]"
    path = workshop.job(rows=ROWS, sampling=f"{{chain: {chain}}}")
    with pytest.raises(ConfigError, match="job.yaml:5: constraint.json_schema: can't read .*none"):
        prepare(path, plugins)


def test_a_model_is_looked_for_beside_the_job_first(workshop, plugins, monkeypatch):
    inner = workshop.folder / "inner"
    inner.mkdir()
    (inner / "tiny").symlink_to(workshop.model)
    path = workshop.job(rows=ROWS, model="./inner/tiny")
    assert prepare(path, plugins).cells[0].source.path == inner / "tiny"
    monkeypatch.chdir(inner)
    assert prepare(path, plugins).cells[0].source.path == inner / "tiny"
    path = workshop.job(rows=ROWS, model="./tiny")
    assert prepare(path, plugins).cells[0].source.path == Path("tiny")
