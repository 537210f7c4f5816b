"""`task: score`: given texts scored by hand, alone and together, and what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch

from gptkit import assembly
from gptkit.decoding.method import resolve_method
from gptkit.errors import ConfigError
from gptkit.jobs.preflight import Given, prepare
from gptkit.jobs.score import WRITING, batch_of, measures
from gptkit.model.forward import Span
from gptkit.plugin_host import registry

WHOLE = '{item: "$text", output: text}'
SHOTS = '{instruction: "Add.", item: "Q: $text\\nA: $answer", output: answer}'
EXAMPLES = '[{text: "1 - 1", answer: "2"}, {text: "2 - 2", answer: "4"}]'


@pytest.fixture(scope="module")
def plugins():
    return registry()


@pytest.fixture
def prepared(workshop, plugins):
    """Return a function: a checked job that scores these rows."""

    def make(rows, given=None, assignments=(), **changes):
        keys = {"task": "score", "template": WHOLE, "sampling": None, "stop": None, **changes}
        path = workshop.job(rows=rows, **keys)
        return prepare(path, plugins, given or Given(), assignments)

    return make


def outputs(job, plugins, notes=None, bos_id=None):
    """Return the lines of output of a job by index, and append what it says."""
    from dataclasses import replace

    model = assembly.load_model(job.cells[0].source, plugins, device="cpu")
    batch = batch_of(job, job.cells[0], replace(model, bos_id=bos_id))
    found = {}
    for step in batch.run(job.inputs):
        found.update({result.row.index: result.output for result in step.results})
    if notes is not None:
        notes += batch.notes
    return found


def by_hand(job, plugins, prompt, text):
    """Return the log-probability of a text after a prompt, one token at a time."""
    model = assembly.load_model(job.cells[0].source, plugins, device="cpu")
    ids = model.tokenizer.encode_ordinary(prompt + text)
    n_given, total = len(model.tokenizer.encode_ordinary(prompt)), 0.0
    cache = model.forward.new_cache(1)
    for at in range(len(ids) - 1):
        spans = [Span(0, at, 1)] + [Span(None, 0, 1)] * 3
        logits = torch.as_tensor(model.forward.step([ids[at], 0, 0, 0], spans, cache, [0]))
        if at + 1 >= n_given:
            total += logits[0].double().log_softmax(-1)[ids[at + 1]].item()
    return total


def test_figures_worked_by_hand():
    half, quarter = math.log(1 / 2), math.log(1 / 4)
    found = measures([half, quarter, quarter, half], n_bytes=12)
    assert found == {
        "tokens": 4,
        "logprob": pytest.approx(-6 * math.log(2)),
        "perplexity": pytest.approx(2**1.5),
        "bits_per_byte": pytest.approx(0.5),
    }


def test_a_text_is_scored_after_the_prompt_that_asks_for_it(prepared, plugins):
    rows = [{"text": "3 - 3", "answer": "6"}, {"text": "4 - 4", "answer": "eight"}]
    job = prepared(rows, template=SHOTS, examples=EXAMPLES)
    prompt = "Add.\n\nQ: 1 - 1\nA: 2\n\nQ: 2 - 2\nA: 4\n\nQ: {text}\nA:"
    for index, output in outputs(job, plugins).items():
        answer = " " + rows[index]["answer"]
        total = by_hand(job, plugins, prompt.format(**rows[index]), answer)
        assert output == {
            "index": index,
            "id": None,
            "tokens": len(answer),
            "logprob": pytest.approx(total, abs=1e-4),
            "perplexity": pytest.approx(math.exp(-total / len(answer)), rel=1e-5),
            "bits_per_byte": pytest.approx(-total / math.log(2) / len(answer), rel=1e-5),
        }


def test_without_a_prompt_the_whole_text_is_scored(prepared, plugins):
    job, notes = prepared([{"id": "a", "text": "It rained."}]), []
    (output,) = outputs(job, plugins, notes, bos_id=3).values()
    model = assembly.load_model(job.cells[0].source, plugins, device="cpu")
    start = model.tokenizer.decode([3])
    assert output["tokens"] == 10 and notes == []
    assert output["logprob"] == pytest.approx(by_hand(job, plugins, start, "It rained."), abs=1e-4)


def test_without_a_token_to_start_from_the_first_is_not_counted_and_that_is_said(prepared, plugins):
    job, notes = prepared([{"text": "It rained."}, {"text": "I"}, {"text": ""}]), []
    found = outputs(job, plugins, notes)
    assert found[0]["tokens"] == 9
    assert found[0]["logprob"] == pytest.approx(by_hand(job, plugins, "I", "t rained."), abs=1e-4)
    bits = found[0]["bits_per_byte"] * 9 * math.log(2)
    assert bits == pytest.approx(-found[0]["logprob"])
    for index in (1, 2):
        assert found[index]["error"] == {
            "type": "nothing_to_score",
            "message": "field 'text' has no token to score",
        }
    assert notes == [
        "tiny has no token to start a text from: the first token of each text is not counted"
    ]


def test_a_long_text_is_scored_whole(prepared, plugins):
    text = "It rained all day. " * 40
    found = outputs(prepared([{"text": text}, {"text": text[:100]}]), plugins)
    assert found[0]["tokens"] == len(text) - 1
    assert found[1]["tokens"] == 99


def test_neighbours_and_batch_size_change_no_bit(prepared, plugins):
    rows = [{"id": i, "text": f"{i} - {i}", "answer": "7" * (i * 9 + 1)} for i in range(9)]
    changes = {"template": SHOTS, "examples": EXAMPLES}
    want = outputs(prepared(rows, **changes), plugins)
    assert not any("error" in output for output in want.values())
    for size in (1, 3, 16):
        assert outputs(prepared(rows, Given(batch_size=size), **changes), plugins) == want
    for row in rows:
        (alone,) = outputs(prepared([row], **changes), plugins).values()
        assert {**alone, "index": row["id"]} == want[row["id"]]


def test_examples_are_left_out_where_the_text_needs_their_room(prepared, plugins):
    rows = [{"text": "x", "answer": "y" * n} for n in (20, 100, 300)]
    many = json.dumps([{"text": "a", "answer": "b" * 20}] * 3)
    job = prepared(rows, template=SHOTS, examples=many)
    shortened = {}
    batch = batch_of(job, job.cells[0], assembly.load_model(job.cells[0].source, plugins))
    for step in batch.run(job.inputs):
        for result in step.results:
            assert result.output["tokens"] == len(rows[result.row.index]["answer"]) + 1
            shortened[result.row.index] = result.is_shortened, result.prompt_tokens
    # Three examples take 84 tokens of 128, the head and the item 12 and 7 of them.
    assert [shortened[i][0] for i in range(3)] == [False, True, True]
    assert all(n <= max(128 - len(rows[i]["answer"]) - 1, 64) for i, (_, n) in shortened.items())


def test_a_prompt_that_does_not_fit_is_an_error_of_its_row(prepared, plugins):
    rows = [{"text": "x" * 200, "answer": "y"}, {"text": "x", "answer": "y"}]
    found = outputs(prepared(rows, template=SHOTS), plugins)
    assert found[0]["error"]["type"] == "context_overflow"
    assert found[1]["tokens"] == 2
    cut = outputs(prepared(rows, template=SHOTS, on_overflow="truncate_left"), plugins)
    assert cut[0]["tokens"] == 2


def test_numbers_that_are_not_finite_are_an_error_of_their_row(prepared, plugins):
    from dataclasses import replace

    job = prepared([{"text": "a$b"}, {"text": "cd"}])
    model = assembly.load_model(job.cells[0].source, plugins, device="cpu", backend="numpy")
    weights = {name: w.copy() for name, w in model.forward.w.items()}
    dollar = model.tokenizer.encode_ordinary("$")[0]
    weights["lm_head.weight"] = weights["wte.weight"].copy()
    weights["wte.weight"][dollar] = float("nan")
    config = model.config.model_copy(update={"tied": False})
    broken = replace(model, forward=type(model.forward)(config, weights), config=config)
    found = {}
    for step in batch_of(job, job.cells[0], broken).run(job.inputs):
        found.update({result.row.index: result for result in step.results})
    assert found[0].output["error"]["type"] == "non_finite_logits"
    assert found[0].may_retry
    assert found[1].output["tokens"] == 1


@pytest.mark.parametrize("path", WRITING, ids=".".join)
def test_keys_about_writing_are_refused_with_their_line(prepared, workshop, path):
    value = {
        "preset": "hf",
        "chain": ["greedy"],
        "n": 2,
        "logprobs": 1,
        "speculate": "prompt_lookup",
    }
    value |= {"strategy": "beam", "sampler": ["hf"], "stop": {"max_new_tokens": 3}}
    block = {path[1]: value[path[1]]} if len(path) > 1 else value[path[0]]
    with pytest.raises(ConfigError) as caught:
        prepared([{"text": "x"}], **{path[0]: json.dumps(block)})
    lines = (workshop.folder / "job.yaml").read_text().splitlines()
    line = next(i for i, line in enumerate(lines, 1) if line.startswith(f"{path[0]}:"))
    assert str(caught.value) == (
        f"{workshop.folder / 'job.yaml'}:{line}: '{'.'.join(path)}' is about writing, and "
        "`task: score` writes nothing"
    )


def test_a_seed_is_no_key_about_writing(prepared):
    assert prepared([{"text": "x"}], sampling="{seed: 7}").cells[0].seed == 7


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("-s", {"stages": ("greedy",)}),
        ("--top-k", {"shorthands": {"top_k": "3"}}),
        ("--stop", {"stop": {"strings": ["x"]}}),
        ("--max-new-tokens", {"stop": {"max_new_tokens": 3}}),
        ("--stop-when", {"stop": {"sentences": 3}}),
        ("--strategy", {"strategy": "beam"}),
    ],
)
def test_options_about_writing_are_refused(prepared, plugins, option, given):
    if "strategy" in given:
        given = {"method": resolve_method(None, given["strategy"], plugins)}
    with pytest.raises(ConfigError, match=f"^{option} is about writing"):
        prepared([{"text": "x"}], Given(**given))


def test_a_chat_template_has_no_output_to_score(prepared):
    with pytest.raises(ConfigError, match="job.yaml:2: .*a chat template has none"):
        prepared([{"text": "x"}], template="chat")


def test_the_output_must_be_in_the_rows(prepared, plugins):
    with pytest.raises(ConfigError, match=r"template uses \$answer; input has: text"):
        prepared([{"text": "x"}], template=SHOTS)
    job = prepared([{"text": "x", "reply": "y"}], template=SHOTS, fields="{answer: reply}")
    assert outputs(job, plugins)[0]["tokens"] == 2


def test_nothing_is_said_of_sampling(prepared):
    assert prepared([{"text": "x"}]).notes == ()


def test_a_job_that_scores_runs(prepared, workshop, plugins):
    from gptkit.jobs.events import Progress
    from gptkit.jobs.run import run

    job = prepared([{"id": "a", "text": "It rained."}, {"id": "b", "text": "It did."}])
    events = run(job, lambda source: assembly.load_model(source, plugins, device="cpu"))
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert (last.n_ok, last.new_tokens) == (2, 15)
    assert [(row["id"], row["tokens"]) for row in workshop.out()] == [("a", 9), ("b", 6)]


def test_each_model_of_a_matrix_scores(prepared, workshop, plugins, tiny):
    from gptkit.jobs.run import run

    models = json.dumps({"one": str(tiny), "other": str(tiny)})
    job = prepared(
        [{"text": "It rained."}], model=None, matrix=f"{{model: {models}}}", outputs="out.csv"
    )
    for _ in run(job, lambda source: assembly.load_model(source, plugins, device="cpu")):
        pass
    head, *lines = (workshop.folder / "out.csv").read_text().splitlines()
    assert head.split(",")[:5] == ["index", "id", "cell_model", "tokens", "logprob"]
    assert [line.split(",")[2] for line in lines] == ["one", "other"]
    assert lines[0].split(",")[3:] == lines[1].split(",")[3:]
