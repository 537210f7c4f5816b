"""A matrix: which cells it makes, what each cell is, and what is said of a wrong axis."""

from __future__ import annotations

import pytest

from gptkit import assembly
from gptkit.decoding.chain_source import from_preset
from gptkit.decoding.noise import row_seed
from gptkit.errors import ConfigError, GptkitError
from gptkit.jobs import matrix
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.run import run
from gptkit.plugin_host import registry
from tests.jobs.workshop import save_tiny

ROWS = [{"id": "a", "text": "one", "question": "two?"}]
TEMPLATE = '{item: "Q: $text\\nA: $answer", output: answer}'


@pytest.fixture(scope="module")
def plugins():
    return registry()


def labels(job):
    return [dict(cell.label) for cell in job.cells]


def test_without_a_matrix_there_is_one_cell_without_a_label(workshop, plugins):
    assert labels(prepare(workshop.job(rows=ROWS), plugins)) == [{}]


def test_cells_are_the_combinations_of_the_axes_in_their_order(workshop, plugins):
    path = workshop.job(
        rows=ROWS,
        sampling=None,
        matrix="{seed: [1, 2], sampler: {cold: [greedy], warm: [{temperature: 0.9}], hf: hf}}",
    )
    job = prepare(path, plugins)
    assert labels(job) == [
        {"sampler": "cold", "seed": "1"},
        {"sampler": "cold", "seed": "2"},
        {"sampler": "warm", "seed": "1"},
        {"sampler": "warm", "seed": "2"},
        {"sampler": "hf", "seed": "1"},
        {"sampler": "hf", "seed": "2"},
    ]
    chains = [" ".join(map(str, cell.chain)) for cell in job.cells[::2]]
    assert chains[:2] == ["greedy", "temperature=0.9 sample"]
    assert chains[2] == " ".join(map(str, from_preset("hf", plugins).chain))
    assert [cell.seed for cell in job.cells] == [1, 2] * 3
    assert any(note.startswith("preset hf: ") for note in job.notes)


def test_each_model_is_opened_once_and_has_room_of_its_own(
    workshop, plugins, tmp_path_factory, monkeypatch
):
    other = save_tiny(tmp_path_factory.mktemp("models") / "wide", block_size=256)
    opened = []
    real = assembly.open_model

    def counted(name):
        opened.append(name)
        return real(name)

    monkeypatch.setattr(assembly, "open_model", counted)
    path = workshop.job(
        rows=ROWS,
        model=None,
        sampling=None,
        matrix=f"{{model: {{a: {workshop.model}, b: {other}, c: {workshop.model}}}, seed: [1, 2]}}",
    )
    job = prepare(path, plugins)
    assert len(job.cells) == 6 and opened == [str(workshop.model), str(other)]
    assert job.cells[0].source is job.cells[1].source is job.cells[5].source
    assert [cell.room for cell in job.cells[::2]] == [128 - 12, 256 - 12, 128 - 12]
    assert job.notes == (
        "sampling as tiny recommends: temperature=0.5 sample",
        "sampling as wide recommends: temperature=0.5 sample",
    )


def test_templates_bring_their_own_fields_and_examples(workshop, plugins):
    path = workshop.job(
        rows=ROWS,
        template=None,
        fields="{text: question}",
        examples="[{text: x, question: y, answer: z, summary: s}]",
        matrix=f"{{template: {{long: {TEMPLATE}, qa: qa}}}}",
    )
    long, qa = prepare(path, plugins).cells
    assert (long.label, qa.label) == ({"template": "long"}, {"template": "qa"})
    assert long.examples.pool == ({"text": "x", "answer": "z"},)
    assert long.columns == {"text": "question"}
    assert qa.columns == {} and qa.wanted == {"question"}


def test_every_template_must_find_its_fields_in_the_rows(workshop, plugins):
    path = workshop.job(
        rows=[{"text": "one"}], template=None, matrix=f"{{template: {{a: {TEMPLATE}, b: qa}}}}"
    )
    with pytest.raises(ConfigError, match=r"template uses \$question; input has: text"):
        prepare(path, plugins)


def test_a_row_has_the_same_seed_in_all_cells_unless_the_seed_is_an_axis(workshop, plugins):
    chains = "{cold: [greedy], warm: [temperature: 0.9]}"
    path = workshop.job(rows=ROWS, sampling=None, matrix=f"{{sampler: {chains}}}")
    cold, warm = prepare(path, plugins).cells
    assert cold.seed == warm.seed
    assert row_seed(cold.seed, "a") == row_seed(warm.seed, "a")
    path = workshop.job(rows=ROWS, matrix=f"{{sampler: {chains}}}", sampling="{seed: 7}")
    assert [cell.seed for cell in prepare(path, plugins).cells] == [7, 7]


@pytest.mark.parametrize(
    ("changes", "said", "hint"),
    [
        ({"matrix": "{modle: [a]}"}, "job.yaml:7: unknown key 'modle'", "did you mean 'model'?"),
        ({"matrix": "{}"}, "job.yaml:7: matrix has no axis", "model, sampler, template, seed"),
        ({"matrix": "{seed: []}", "sampling": None}, "job.yaml:6: matrix.seed is empty", "leave"),
        (
            {"matrix": "{model: [mini]}"},
            r"job.yaml:7: matrix.model stands in the place of 'model', which is given as well "
            r"\(.*job.yaml:1\)",
            "keep one: 'model' for all cells, or the axis",
        ),
        ({"matrix": "{seed: [1]}"}, "'sampling.seed', which is given as well .*job.yaml:5", "keep"),
        ({"matrix": "{sampler: [hf]}"}, "'sampling.chain', which is given as well", "keep one"),
        (
            {"matrix": "{sampler: [hf]}", "sampling": "{preset: hf}"},
            "'sampling.preset', which is given as well",
            "keep one",
        ),
        ({"matrix": "{template: [qa]}"}, "'template', which is given as well", "keep one"),
        ({"template": None}, "job.yaml: 'template' is missing", None),
        (
            {"matrix": "{seed: [3, 4, 3]}", "sampling": None},
            "job.yaml:6: 3 is on matrix.seed twice",
            "keep one",
        ),
        (
            {"matrix": "\n  sampler:\n    cold: [greedy]\n    b: [top_b: 3]", "sampling": None},
            "job.yaml:9: unknown sampler 'top_b'",
            None,
        ),
        (
            {"matrix": "\n  sampler:\n    - hf\n    - hfx", "sampling": None},
            "job.yaml:9: unknown preset 'hfx'",
            None,
        ),
        (
            {"matrix": "\n  template:\n    - qa\n    - qb", "template": None},
            "job.yaml:9: unknown template 'qb'",
            None,
        ),
        (
            {"matrix": "\n  model:\n    - mini\n    - ./minus", "model": None},
            "job.yaml:9: no such model directory: ./minus",
            None,
        ),
        (
            {"matrix": "{template: [qa, dialogue]}", "template": None, "examples": "[{a: b}]"},
            "a chat template takes no examples",
            None,
        ),
    ],
)
def test_a_wrong_axis_is_told_with_its_place(workshop, plugins, changes, said, hint):
    with pytest.raises(GptkitError, match=said) as caught:
        prepare(workshop.job(rows=ROWS, **changes), plugins)
    if hint:
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("axis", "given", "said"),
    [
        ("model: [mini]", Given(model="mini"), "--model: the job's matrix.model"),
        ("sampler: [hf]", Given(stages=("greedy",)), "-s: the job's matrix.sampler"),
        ("sampler: [hf]", Given(shorthands={"top_k": "3"}), "--top-k: the job's matrix.sampler"),
        ("seed: [1, 2]", Given(seed=3), "--seed: the job's matrix.seed"),
    ],
)
def test_an_option_does_not_go_with_its_axis(workshop, plugins, axis, given, said):
    path = workshop.job(rows=ROWS, model=None, sampling=None, matrix=f"{{{axis}}}")
    name = axis.partition(":")[0]
    with pytest.raises(ConfigError, match=said) as caught:
        prepare(path, plugins, given)
    assert f"--set matrix.{name}=null removes it" in caught.value.hint
    assignments = [f"matrix.{name}=null", f"model={workshop.model}"]
    assert labels(prepare(path, plugins, given, assignments)) == [{}]


def test_a_preset_on_the_command_line_does_not_go_with_its_axis(workshop, plugins):
    path = workshop.job(rows=ROWS, sampling=None, matrix="{sampler: [hf]}")
    with pytest.raises(ConfigError, match="preset openai: the job's matrix.sampler"):
        prepare(path, plugins, Given(whole_chain=from_preset("openai", plugins)))


def test_labels_count_the_last_axis_first():
    axes = {"model": {"a": None, "b": None}, "seed": {"1": None, "2": None}}
    found = [(label["model"], label["seed"]) for label in matrix.labels(axes)]
    assert found == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]
    assert list(matrix.labels({})) == [{}]


# A whole run ----------------------------------------------------------------------------------


def test_a_row_s_lines_stand_together_cell_by_cell(workshop, plugins, tmp_path_factory):
    other = save_tiny(tmp_path_factory.mktemp("models") / "other", seed=2)
    rows = [{"id": f"r{i}", "text": "x" * i} for i in range(5)]
    models = f"{{one: {workshop.model}, two: {other}}}"
    path = workshop.job(
        rows=rows,
        model=None,
        sampling="{chain: [temperature: 0.9]}",
        matrix=f"{{model: {models}, seed: [1, 2]}}",
    )
    job = prepare(path, plugins, Given(batch_size=2))
    loaded = []

    def load(source):
        loaded.append(source.path.name)
        return assembly.load_model(source, plugins, device="cpu")

    list(run(job, load))
    out = workshop.out()
    cells = [{"model": model, "seed": seed} for model in ("one", "two") for seed in "12"]
    assert [(row["id"], row["cell"]) for row in out] == [
        (row["id"], cell) for row in rows for cell in cells
    ]
    assert loaded == ["tiny", "other"]
    for row in out:
        assert row["seed"] == row_seed(int(row["cell"]["seed"]), row["id"])
    for i in range(5):
        one, other, *_ = (row["text"] for row in out[4 * i :])
        assert one != other


def test_answers_that_would_all_be_the_same_are_told(workshop, plugins):
    path = workshop.job(rows=ROWS, sampling=None, n="3", matrix="{sampler: {cold: [greedy]}}")
    said = "n is 3, but the chain is greedy: a row's answers are all the same"
    assert said in prepare(path, plugins).notes
    assert not prepare(path, plugins, assignments=["n=1"]).notes
