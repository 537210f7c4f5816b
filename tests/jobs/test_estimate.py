"""What a job will cost: counts by hand, beside what the engine then does, and samples of rows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gptkit import assembly
from gptkit.cli.dry_run import dry_run
from gptkit.decoding.engine import n_trunk_slots
from gptkit.jobs import estimate as estimates
from gptkit.jobs.batch import Batch
from gptkit.jobs.estimate import estimate
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.prompts import SHARE_FROM
from gptkit.plugin_host import registry

EXAMPLES = '[{text: "one one one one one", answer: "111111"}, {text: "two", answer: "2"}]'
LONG = f'[{{text: "{"x" * 40}", answer: "{"y" * 30}"}}]'
HEAD = len("Q: one one one one one\nA: 111111\n\nQ: two\nA: 2\n\n")


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture
def look(workshop, plugins):
    """Return a function: the estimates of a job's cells."""

    def run(rows, **changes):
        job = prepare(workshop.job(rows=rows, **changes), plugins)
        own = {}

        def tokenizer(source):
            return own.setdefault(id(source), assembly.open_tokenizer(source, plugins)[0])

        return job, estimate(job, job.inputs, tokenizer)

    return run


def test_the_tokens_of_a_few_shot_job_by_hand(look):
    rows = [{"text": "x" * n} for n in (1, 5, 3)]
    job, (one,) = look(rows, examples=EXAMPLES)
    item = len("Q: \nA:")
    assert one.lengths == [HEAD + item + n for n in (1, 5, 3)]
    assert one.prompt_tokens == one.prefill_alone == 3 * (HEAD + item) + 9
    # The last token of a shared prefix may be another one where the item follows.
    assert one.prefill_shared == HEAD - 1 + 3 * (item + 1) + 9
    assert one.new_tokens == 3 * 12
    assert (one.n_prompts, one.median, one.n_shortened) == (3, HEAD + item + 3, 0)
    assert one.examples == [2, 2, 2]


@pytest.mark.parametrize("n", [1, 3, SHARE_FROM, 20])
@pytest.mark.parametrize("examples", [EXAMPLES, "[]", LONG])
def test_a_batch_prefills_what_is_estimated(look, n, examples, monkeypatch):
    rows = [{"text": "x" * (3 * i)} for i in range(1, 9)]
    job, (one,) = look(rows, examples=examples, n=str(n))
    model = assembly.load_model(job.cells[0].source, job.registry, device="cpu")
    batch = Batch(job, job.cells[0], model)
    computed = 0
    real = model.forward.step

    def counted(ids, spans, cache, wanted):
        nonlocal computed
        computed += sum(span.n for span in spans if span.slot is not None)
        return real(ids, spans, cache, wanted)

    monkeypatch.setattr(model.forward, "step", counted)
    monkeypatch.setattr(model.forward, "ranks", False)
    results = [r for step in batch.run(job.inputs) for r in step.results]
    samples = [one for r in results for one in r.output.get("samples", [r.output])]
    decoded = sum(sample["new_tokens"] - 1 for sample in samples)
    assert decoded <= one.new_tokens
    # What is there already when a row comes may be less, for those that come at once, or more.
    at_once = n_trunk_slots(job.batch_size) * one.n_shared if n >= SHARE_FROM else 0
    assert 0.5 * one.prefill_shared < computed - decoded <= one.prefill_shared + at_once
    assert one.prefill_alone == n * one.prompt_tokens >= one.prefill_shared


def test_rows_without_a_prompt_are_counted_by_their_reason(look):
    rows = [{"text": "x"}, {"id": 1}, {"text": "x" * 500}, {"text": ["x"]}, '"x"']
    job, (one,) = look(rows, on_bad_row="error_row")
    assert one.failures == {
        "missing_field": 1,
        "context_overflow": 1,
        "invalid_field": 1,
        "not_an_object": 1,
    }
    assert one.n_prompts == 1 and one.first[0].index == 0


def test_prompts_that_lose_something_are_counted(look):
    rows = [{"text": "x" * n} for n in (1, 66, 500)]
    job, (one,) = look(rows, examples=EXAMPLES, on_overflow="truncate_left")
    assert (one.n_shortened, one.examples) == (2, [2, 1, 0])


def test_each_cell_has_its_own(look):
    template = '{short: {item: "$text: $answer", output: answer}, qa: qa}'
    rows = [{"text": "xxx", "question": "why", "context": "c"}]
    job, (short, qa) = look(rows, template=None, matrix=f"{{template: {template}}}")
    assert short.lengths == [len("xxx:")] and qa.lengths != short.lengths


def test_cells_that_differ_in_the_chain_are_looked_at_once(look, monkeypatch):
    made = []
    real = estimates.prompt

    def counted(*args):
        made.append(args)
        return real(*args)

    monkeypatch.setattr(estimates, "prompt", counted)
    rows = [{"text": "x"}, {"text": "y"}]
    job, found = look(rows, sampling=None, matrix="{sampler: [hf, openai], seed: [1, 2]}")
    assert len(found) == 4 and len(made) == 2
    assert all(one.lengths == found[0].lengths for one in found)


def test_of_many_rows_some_are_looked_at_in_equal_steps(look, monkeypatch):
    monkeypatch.setattr(estimates, "LOOK_AT", 10)
    rows = [{"text": "x" * (i % 50)} for i in range(95)]
    job, (one,) = look(rows)
    assert one.n_looks == 10
    lengths = [len("Q: \nA:") + i % 50 for i in range(0, 95, 10)]
    assert one.lengths == lengths
    assert one.prompt_tokens == round(sum(lengths) * 9.5)
    assert one.n_prompts == 95


def test_a_score_counts_the_text(look):
    template = "{item: $text, output: text}"
    job, (one,) = look(
        [{"text": "abc"}, {"text": "de"}],
        task="score",
        template=template,
        sampling=None,
        stop=None,
    )
    assert (one.scored_tokens, one.new_tokens) == (5, 0)


def test_no_rows_are_no_trouble(look, capsys, workshop, plugins):
    job, (one,) = look([])
    assert (one.n_prompts, one.prefill_shared, one.new_tokens, one.n_looks) == (0, 0, 0, 0)
    dry_run(job, None, as_json=False)
    assert "dry run      0 rows; nothing is computed" in capsys.readouterr().out


# What is shown --------------------------------------------------------------------------------


def test_a_dry_run_shows_figures_files_and_the_first_prompt(workshop, plugins, capsys):
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": "x" * 200}]
    path = workshop.job(rows=rows, examples='[{text: "e", answer: "f"}]')
    dry_run(prepare(path, plugins), None, as_json=False)
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "dry run      2 rows; nothing is computed or written",
        "model        tiny, context 128",
        "sampling     temperature=0.9 sample, seed 7",
        "no prompt    1 row, context_overflow",
        "prompts      20 tokens; 20 to 20 a row, median 20",
        "examples     1 a row, of 1",
        "to prefill   20 tokens",
        "to write     at most 12 tokens; 12 each",
        "writes       out.jsonl; beside it .journal, .lock, .manifest.json",
        "",
        "first prompt 20 tokens, for id 'a'",
        "Q: e",
        "A: f",
        "",
        "Q: one",
        "A:",
    ]
    assert sorted(one.name for one in workshop.folder.iterdir()) == ["in.jsonl", "job.yaml"]


def test_a_dry_run_for_programs(workshop, plugins, capsys):
    path = workshop.job(
        rows=[{"id": "a", "text": "one"}], sampling=None, matrix="{sampler: [hf], seed: [1, 2]}"
    )
    dry_run(prepare(path, plugins), None, as_json=True)
    made = json.loads(capsys.readouterr().out)
    assert (made["rows"], made["looked_at"], made["estimated"], made["n"]) == (1, 1, False, 1)
    assert [one["cell"]["seed"] for one in made["cells"]] == ["1", "2"]
    assert made["new_tokens_at_most"] == 24 and made["prefill_tokens"] == 18
    (first,) = made["first_prompts"]
    assert first["pieces"] == [{"text": "Q: one\nA:"}] and first["tokens"] == 9


def test_control_tokens_are_told_from_text_that_says_the_same(workshop, plugins, capsys):
    rows = [{"id": 1, "text": "<|user|> \u001b[2J"}]
    path = workshop.job(rows=rows, template="chat", model="mini", sampling="{chain: [greedy]}")
    job = prepare(path, plugins)
    dry_run(job, None, as_json=False)
    shown = capsys.readouterr().out
    dry_run(job, None, as_json=True)
    pieces = json.loads(capsys.readouterr().out)["first_prompts"][0]["pieces"]
    controls = [one["control"] for one in pieces if "control" in one]
    assert controls and all(f"\u27ea{name}\u27eb" in shown for name in controls)
    assert "\u27ea<|user|>\u27eb" in shown and shown.count("<|user|>") == 2
    assert "\u001b" not in shown


def test_a_matrix_is_a_table(workshop, plugins, capsys):
    path = workshop.job(rows=[{"text": "x"}], sampling=None, matrix="{sampler: [hf, openai]}")
    dry_run(prepare(path, plugins), None, as_json=False)
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["hf", "1", "0", "0", "7", "7", "7", "12"] in lines
    assert ["openai", "1", "0", "0", "7", "7", "7", "12"] in lines
    assert "to write     at most 24 tokens in all" in out


def test_a_dry_run_needs_no_torch(workshop, plugins):
    workshop.job(rows=[{"text": "x"}])
    code = (
        "import sys; from gptkit.cli import main;"
        "code = main(['run', 'job.yaml', '--dry-run']);"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "first prompt" in done.stdout


def test_the_notes_of_a_job_are_told(workshop, plugins, capsys):
    path = workshop.job(rows=[{"text": "x"}], sampling="{preset: nanogpt}")
    dry_run(prepare(path, plugins, Given()), None, as_json=False)
    assert "note: preset nanogpt: temperature=0.8" in capsys.readouterr().err
