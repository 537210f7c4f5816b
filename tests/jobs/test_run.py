"""Rows -> requests -> rows, with a tiny random model and the real engine."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace

import pytest
import torch

from gptkit import assembly
from gptkit.decoding.noise import row_seed
from gptkit.errors import ConfigError
from gptkit.jobs.events import Finished, Progress, Started
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.run import run
from gptkit.jobs.runtime import How
from gptkit.plugin_host import registry
from gptkit.text.prompting import blank_before_output

WORDS = "a small boat came home late and nobody on the quay had seen the storm.".split()


@pytest.fixture(scope="module")
def plugins():
    return registry()


def varied(n, seed=1):
    """Return n rows with ids, of lengths from 1 to 14 words."""
    draw = random.Random(seed)
    return [
        {"id": f"r{i}", "text": " ".join(draw.choices(WORDS, k=draw.randint(1, 14)))}
        for i in range(n)
    ]


def loader(plugins, loaded=None):
    """Return a function that loads a model, and notes in `loaded` which."""

    def load(source):
        if loaded is not None:
            loaded.append(source)
        return assembly.load_model(source, plugins, device="cpu")

    return load


def compute(path, plugins, change=None, **given):
    """Run a job anew and return its summary; `change` is done to the loaded model."""
    job = prepare(path, plugins, Given(**given))

    def load(source):
        model = assembly.load_model(source, plugins, device="cpu")
        return change(model) if change else model

    *_, summary, last = run(job, load, How(restart=True))
    assert last == Finished()
    return summary


def test_each_row_gives_one_row_in_order(workshop, plugins):
    rows = varied(20)
    last = compute(workshop.job(rows=rows), plugins, batch_size=4)
    out = workshop.out()
    assert [row["index"] for row in out] == list(range(20))
    assert [row["id"] for row in out] == [row["id"] for row in rows]
    for row in out:
        assert list(row) == [
            "index",
            "id",
            "text",
            "finish_reason",
            "prompt_tokens",
            "new_tokens",
            "seed",
        ]
        assert row["seed"] == row_seed(7, row["id"])
        assert row["new_tokens"] <= 12
    assert last == Progress(
        20,
        n_ok=20,
        prompt_tokens=sum(row["prompt_tokens"] for row in out),
        new_tokens=sum(row["new_tokens"] for row in out),
    )


def test_a_row_does_not_feel_its_neighbours(workshop, plugins):
    rows = varied(24)
    compute(workshop.job(rows=rows), plugins, batch_size=8)
    expected = {row["id"]: row["text"] for row in workshop.out()}
    assert len(set(expected.values())) > 20
    random.Random(5).shuffle(rows)
    for chosen in (rows, rows[:11], rows[:1]):
        compute(workshop.job(rows=chosen), plugins, batch_size=8)
        assert {r["id"]: r["text"] for r in workshop.out()} == {
            row["id"]: expected[row["id"]] for row in chosen
        }


def test_another_seed_gives_other_text_and_the_same_seed_the_same(workshop, plugins):
    path = workshop.job(rows=varied(6))
    texts = []
    for seed in (1, 2, 1):
        compute(path, plugins, seed=seed)
        texts.append([row["text"] for row in workshop.out()])
    assert texts[0] == texts[2] != texts[1]


def test_rows_without_ids_are_named_by_line_and_content(workshop, plugins):
    compute(workshop.job(rows=[{"text": "x"}, {"text": "x"}]), plugins)
    a, b = workshop.out()
    assert a["id"] is None and b["id"] is None
    assert a["seed"] != b["seed"]


def test_examples_stand_before_the_item_and_are_left_out_to_fit(workshop, plugins):
    path = workshop.job(
        rows=[{"id": 1, "text": "x"}, {"id": 2, "text": "y" * 90}],
        examples='[{text: "one", answer: "1"}, {text: "two", answer: "2"}]',
    )
    last = compute(path, plugins)
    short, long = workshop.out()
    assert short["prompt_tokens"] == len("Q: one\nA: 1\n\nQ: two\nA: 2\n\nQ: x\nA:")
    assert long["prompt_tokens"] == len("Q: one\nA: 1\n\nQ: \nA:") + 90
    assert last.n_shortened == 1


def test_a_failed_row_has_its_error_in_its_place(workshop, plugins):
    rows = varied(9)
    del rows[1]["text"]
    rows[2]["text"] = "long " * 40
    rows[3]["text"] = "snow \u2603 man"
    rows[4]["text"] = ["a", "list"]
    rows[5] = '{"id": "r5", "text": "\\ud800"}'
    rows[6] = "[1, 2]"
    path = workshop.job("on_bad_row: error_row\n", rows=rows)
    last = compute(path, plugins, batch_size=2)
    out = workshop.out()
    assert [row["index"] for row in out] == list(range(9))
    assert [row.get("error", {}).get("type") for row in out] == [
        None,
        "missing_field",
        "context_overflow",
        "request_error",
        "invalid_field",
        "invalid_unicode",
        "not_an_object",
        None,
        None,
    ]
    assert [row["id"] for row in out] == ["r0", "r1", "r2", "r3", "r4", "r5", None, "r7", "r8"]
    assert list(out[1]) == ["index", "id", "error"]
    assert out[1]["error"]["message"] == "no field 'text'; there are: id"
    assert "\u2603" in out[3]["error"]["message"]
    assert (last.n_ok, last.n_failed, last.n_done) == (3, 6, 9)
    assert last.failures["context_overflow"] == 1


def test_an_error_does_not_change_the_other_rows(workshop, plugins):
    rows = varied(8)
    compute(workshop.job(rows=rows), plugins, batch_size=4)
    expected = workshop.out()
    rows[3] = {"id": "r3", "text": "\u2603"}
    compute(workshop.job(rows=rows), plugins, batch_size=4)
    out = workshop.out()
    assert out[:3] + out[4:] == expected[:3] + expected[4:]


@pytest.mark.parametrize("how", ["truncate_left", "truncate_right"])
def test_a_long_prompt_may_be_cut(workshop, plugins, how):
    path = workshop.job(rows=[{"text": "x" * 500}])
    last = compute(path, plugins, on_overflow=how)
    (row,) = workshop.out()
    assert row["prompt_tokens"] == 128 - 12
    assert last.n_shortened == 1


class Poisoned:
    """A model whose logits are NaN for a sequence that has a given token."""

    shares_prefixes = False
    ranks = False

    def __init__(self, forward, token):
        self.forward, self.token, self.bad = forward, token, set()
        self.config, self.new_cache = forward.config, forward.new_cache

    def step(self, ids, spans, cache, wanted):
        logits = self.forward.step(ids, spans, cache, wanted).clone()
        first, owner = 0, []
        for span in spans:
            if self.token in list(ids[first : first + span.n]):
                self.bad.add(span.slot)
            elif span.start == 0:
                self.bad.discard(span.slot)
            owner += [span.slot] * span.n
            first += span.n
        for row, index in enumerate(wanted):
            if owner[index] is not None and owner[index] in self.bad:
                logits[row] = torch.nan
        return logits


def test_logits_that_are_no_numbers_fail_their_row_alone(workshop, plugins):
    rows = varied(6)
    rows[2]["text"] += " $"
    path = workshop.job(rows=rows, sampling="{seed: 7, chain: [greedy]}")

    def poison(model):
        (token,) = model.tokenizer.encode_ordinary("$")
        return replace(model, forward=Poisoned(model.forward, token))

    compute(path, plugins, poison, batch_size=3)
    types = [row.get("error", {}).get("type") for row in workshop.out()]
    assert types[2] == "non_finite_logits"
    assert types[:2] == [None, None]


def test_a_template_s_stops_join_the_job_s(workshop, plugins):
    job = prepare(workshop.job(rows=varied(1), stop='{strings: ["!"], max_new_tokens: 9}'), plugins)
    model = assembly.load_model(job.cells[0].source, plugins, device="cpu")
    block = assembly.with_template_stops(job.cells[0].stop, job.cells[0].template, model.tokenizer)
    assert block["strings"] == ["!", "\n\n"]


def test_a_chat_template_takes_each_row_as_a_turn(workshop, plugins):
    compute(workshop.job(rows=[{"text": "Hi."}], template="dialogue"), plugins)
    (row,) = workshop.out()
    assert row["finish_reason"] in ("length", "stop_string")
    assert row["prompt_tokens"] == len("User: Hi.\nAssistant:")


def test_no_rows_give_an_empty_file_without_a_model(workshop, plugins):
    job = prepare(workshop.job(rows=[]), plugins)

    def load(source):
        raise AssertionError("the model was loaded for nothing")

    assert list(run(job, load)) == [Progress(0), Finished()]
    assert (workshop.folder / "out.jsonl").read_bytes() == b""
    assert list(run(job, load)) == [Progress(0), Finished(was_there=True)]


def test_a_stopped_job_leaves_the_old_output_and_a_journal(workshop, plugins):
    job = prepare(workshop.job(rows=varied(20)), plugins, Given(batch_size=2))
    (workshop.folder / "out.jsonl").write_text("old")
    before = sorted(os.listdir(workshop.folder))
    load = loader(plugins)
    events = run(job, load, How(restart=True))
    assert isinstance(next(events), Started)
    for event in events:
        if event.n_done > 3:
            break
    events.close()
    assert sorted(os.listdir(workshop.folder)) == sorted([*before, "out.jsonl.journal"])
    assert (workshop.folder / "out.jsonl").read_text() == "old"


def test_an_input_that_changes_under_the_job_is_noticed(workshop, plugins):
    for n in (4, 2):
        job = prepare(workshop.job(rows=varied(3)), plugins)
        workshop.rows(varied(n))
        with pytest.raises(ConfigError, match="was changed while its rows were computed"):
            list(run(job, loader(plugins)))
        assert not (workshop.folder / "out.jsonl").exists()


def test_the_models_of_a_matrix_are_loaded_in_turn(workshop, plugins, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "other")
    matrix = f"{{model: [{tiny}, other], seed: [1, 2]}}"
    rows = varied(5)
    path = workshop.job(rows=rows, model=None, matrix=matrix, sampling="{chain: [temperature: 1]}")
    job = prepare(path, plugins)
    loaded = []
    load = loader(plugins, loaded)
    events = list(run(job, load))
    assert [source.path.name for source in loaded] == ["tiny", "other"]
    started = [event for event in events if isinstance(event, Started)]
    assert [[cell.seed for cell in event.cells] for event in started] == [[1, 2], [1, 2]]
    out = workshop.out()
    assert [row["index"] for row in out] == [i for i in range(5) for _ in range(4)]
    texts = [row["text"] for row in out]
    assert texts[0::4] == texts[2::4] != texts[1::4] == texts[3::4]  # the models are the same
    assert events[-2].n_rows == events[-2].n_ok == 20


@pytest.mark.parametrize(
    ("item", "blank"),
    [
        ("Q: $text\\nA: $answer", " "),
        ("Q: $text\\nA: \\t$answer", " \t"),
        ("Q: $text\\nA:\\n$answer", ""),
        ("Q: $text\\nA:$answer", ""),
    ],
)
def test_the_blank_before_the_output_is_the_template_s(workshop, plugins, item, blank):
    path = workshop.job(rows=varied(1), template=f'{{item: "{item}", output: answer}}')
    assert blank_before_output(prepare(path, plugins).cells[0].template) == blank


def test_the_blank_before_a_chat_answer_is_the_template_s(plugins):
    assert blank_before_output(assembly.template("dialogue", plugins)) == " "
