"""Figures of outputs, against tables worked by hand and against brute force."""

from __future__ import annotations

import json
import math
import random
import statistics
import tracemalloc

import pytest

from gptkit.errors import ConfigError
from gptkit.jobs import manifest
from gptkit.jobs.journal import line_of
from gptkit.jobs.reports.figures import entropy_at_least
from gptkit.jobs.reports.report import make_report
from gptkit.jobs.reports.results import open_results
from gptkit.jobs.reports.tally import KEPT, Different, Grams, Repeats, Spread, text_hash
from gptkit.jobs.writers import columns, write_rows


def answer(index, text="a b", *, cell=None, id=None, new=2, prompt=10, why="eos", **more):
    """Return a line of an output."""
    place = {"index": index, "id": id, **({"cell": cell} if cell else {})}
    said = {"text": text, "finish_reason": why, "prompt_tokens": prompt, "new_tokens": new}
    return {**place, **said, "seed": 1, **more}


def failed(index, type="context_overflow", message="too long", cell=None):
    return {
        "index": index,
        "id": None,
        **({"cell": cell} if cell else {}),
        "error": {"type": type, "message": message},
    }


def score(index, tokens, logprob, n_bytes, cell=None):
    return {
        "index": index,
        "id": None,
        **({"cell": cell} if cell else {}),
        "tokens": tokens,
        "logprob": logprob,
        "perplexity": math.exp(-logprob / tokens),
        "bits_per_byte": -logprob / math.log(2) / n_bytes,
    }


@pytest.fixture
def write(tmp_path):
    def make(lines, name="out.jsonl"):
        path = tmp_path / name
        path.write_text(
            "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
        )
        return path

    return make


@pytest.fixture
def figures(write):
    """Return a function: the figures of an output that has one cell."""

    def make(lines):
        (found,) = make_report([write(lines)]).cells.values()
        return found

    return make


# Counting -------------------------------------------------------------------------------------


def test_quantiles_are_values_that_are_there():
    spread = Spread()
    for value in (1, 2, 2, 3, 5, 8, 13, 21, 34, 55):
        spread.add(value)
    assert [spread.at(q) for q in (0, 0.1, 0.5, 0.9, 1)] == [1, 1, 5, 34, 55]
    assert (len(spread), spread.total, spread.mean) == (10, 144, 14.4)
    assert spread.bins(5, 1, 55) == (11, [6, 2, 0, 1, 1])


def test_quantiles_are_those_of_a_sorted_list():
    rng = random.Random(1)
    for n in (1, 2, 7, 100):
        values = [rng.randrange(20) for _ in range(n)]
        spread = Spread()
        for value in values:
            spread.add(value)
        for q in (0, 0.1, 0.25, 0.5, 0.9, 1):
            assert spread.at(q) == sorted(values)[max(1, math.ceil(q * n)) - 1]


def test_distinct_n_of_a_hand_worked_text():
    grams = Grams()
    grams.add("the cat saw the cat")  # 3 of 5 words; the-cat cat-saw saw-the the-cat: 3 of 4
    grams.add("cat the")  # no new word, one new pair: the order counts
    assert grams.distinct(1) == 3 / 7
    assert grams.distinct(2) == 4 / 5
    assert math.isnan(Grams().distinct(1))
    assert grams.is_exact


def test_different_things_are_exact_up_to_a_limit_and_near_above_it():
    different = Different()
    for n in range(KEPT):
        different.add(text_hash(f"word {n}"))
        different.add(text_hash(f"word {n // 2}"))
    assert (different.count, different.depth) == (KEPT, 0)
    for n in range(10 * KEPT):
        different.add(text_hash(f"word {n}"))
    assert len(different.kept) <= KEPT
    assert different.count == pytest.approx(10 * KEPT, rel=0.02)


def test_repeats_are_those_of_different_rows():
    repeats = Repeats()
    for texts in (["a", "a"], ["b"], ["c"], ["b", "a"], ["b"]):
        repeats.add(texts)
    found = repeats.found()  # b in rows 1, 3 and 4, a in 0 and 3
    assert (found.n_rows, found.n_texts, found.most) == (5, 2, 3)
    assert found.hashed == text_hash("b")
    assert Repeats().found().hashed is None


def test_entropy_is_at_least_what_is_known():
    half, quarter = math.log(0.5), math.log(0.25)
    assert entropy_at_least(half, [half, quarter, quarter]) == pytest.approx(1.5 * math.log(2))
    assert entropy_at_least(half, [half]) == pytest.approx(math.log(2))  # the rest is one token
    # The token that was taken is not among the likeliest.
    assert entropy_at_least(quarter, [half]) == pytest.approx(1.5 * math.log(2))
    assert entropy_at_least(0.0, [0.0]) == 0


# One cell -------------------------------------------------------------------------------------


def test_counts_lengths_and_answers(figures):
    found = figures(
        [
            answer(0, "No.", new=2, prompt=10, why="stop_string"),
            answer(1, "a longer one", new=4, prompt=20, why="length", id="x"),
            failed(2),
            answer(3, " \n", new=1, prompt=30),
            failed(4, "missing_field", "no field 'text'"),
            failed(5, message="another"),
            answer(6, "No.", new=3, prompt=40, why="stop_string"),
        ]
    )
    assert (found.n_rows, found.n_ok, found.n_failed) == (7, 4, 3)
    assert {kind: (why.n_rows, why.index) for kind, why in found.failures.items()} == {
        "context_overflow": (2, 2),
        "missing_field": (1, 4),
    }
    assert found.failures["context_overflow"].message == "too long"
    assert dict(found.finish_reasons) == {"stop_string": 2, "length": 1, "eos": 1}
    assert [found.prompt_tokens.at(q) for q in (0, 0.5, 1)] == [10, 20, 40]
    assert found.new_tokens.mean == 2.5
    assert found.n_empty == 1
    assert (found.shortest.index, found.shortest.size, found.shortest.text) == (0, 3, "No.")
    assert (found.longest.index, found.longest.id, found.longest.size) == (1, "x", 12)
    assert (found.repeated.n_rows, found.repeated.most, found.most_common) == (2, 2, "No.")


def test_several_samples_of_a_row(figures):
    def row(index, *texts):
        one = answer(index)
        del one["text"], one["finish_reason"], one["new_tokens"], one["seed"]
        samples = [
            {"text": text, "finish_reason": "eos", "new_tokens": n, "seed": 1}
            for n, text in enumerate(texts)
        ]
        return {**one, "samples": samples}

    found = figures([row(0, "x", "y", "x"), row(1, "z", "z", "z")])
    assert found.own.mean_different == 1.5
    assert found.n_samples == 6
    assert found.repeated.n_rows == 0
    assert found.own.mean_new_tokens == 1


def test_logprobs_are_averaged_over_tokens(figures):
    half, quarter = math.log(0.5), math.log(0.25)
    tops = [{"token": "a", "logprob": half}, {"token": "b", "logprob": half}]
    found = figures(
        [
            answer(0, logprobs=[{"token": "a", "logprob": half, "top": tops}] * 3),
            answer(1, logprobs=[{"token": "c", "logprob": quarter, "top": []}]),
        ]
    )
    assert found.own.mean_logprob == pytest.approx((3 * half + quarter) / 4)
    assert found.own.mean_entropy == pytest.approx(math.log(2))  # of the three that have others


def test_perplexity_is_weighted_by_tokens(figures):
    # 1 token of 1/2 and 3 tokens of 1/4 each: 7 bits in 4 tokens; the mean of rows would be 3.
    found = figures([score(0, 1, -math.log(2), 2), score(1, 3, -6 * math.log(2), 5)])
    assert found.own.likelihood.perplexity == pytest.approx(2 ** (7 / 4))
    assert found.own.likelihood.bits_per_byte == pytest.approx(7 / 7)
    assert (found.easiest.index, found.hardest.index) == (0, 1)
    assert found.row_perplexity(1) == pytest.approx(4)
    assert found.row_perplexity(0.5) == pytest.approx(2, rel=1e-3)


def test_a_text_without_a_surprise_has_perplexity_1(figures):
    found = figures([score(0, 2, 0.0, 4), score(1, 2, -0.0, 4)])
    assert found.own.likelihood.perplexity == 1


# Cells ----------------------------------------------------------------------------------------

COLD, WARM = {"sampler": "cold"}, {"sampler": "warm"}
TWO = [
    answer(0, "a b c", cell=COLD, new=3),
    answer(0, "a b c", cell=WARM, new=3),
    answer(1, "a b", cell=COLD, new=2),
    answer(1, "a a", cell=WARM, new=9),
    answer(2, "never seen", cell=COLD, new=100),
    failed(2, cell=WARM),
]


def test_cells_are_compared_on_the_rows_that_both_answered(write):
    report = make_report([write(TWO)])
    cold, warm = report.cells.values()
    assert [cold.label, warm.label] == [(("sampler", "cold"),), (("sampler", "warm"),)]
    assert (report.n_rows, report.n_compared) == (3, 2)
    assert (cold.n_ok, warm.n_ok, warm.n_failed) == (3, 2, 1)
    assert [one.compared.mean_new_tokens for one in (cold, warm)] == [2.5, 6]
    assert cold.own.mean_new_tokens == 35
    assert [one.compared.n_same for one in (cold, warm)] == [2, 1]
    # cold: a b c a b; warm: a b c a a
    assert [one.compared.grams.distinct(1) for one in (cold, warm)] == [3 / 5, 3 / 5]
    assert [one.compared.grams.distinct(2) for one in (cold, warm)] == [2 / 3, 3 / 3]


def test_scores_of_cells_are_compared_row_by_row(write):
    lines = [
        score(0, 2, -2.0, 8, COLD),
        score(0, 4, -1.0, 8, WARM),
        score(1, 2, -2.0, 8, COLD),
        score(1, 4, -3.0, 8, WARM),
        failed(2, cell=COLD),
        score(2, 4, -1000.0, 8, WARM),
    ]
    cold, warm = make_report([write(lines)]).cells.values()
    assert warm.compared.likelihood.perplexity == pytest.approx(math.exp(4 / 8))
    assert cold.compared.likelihood.perplexity == pytest.approx(math.exp(4 / 4))
    # By bytes they are equal: their tokens differ, the texts do not.
    assert warm.compared.likelihood.bits_per_byte == cold.compared.likelihood.bits_per_byte
    assert (cold.compared.n_better, warm.compared.n_better) == (0, 1)


def test_a_cell_that_answered_nothing_leaves_the_others_their_own_figures(write):
    lines = [answer(0, cell=COLD), failed(0, cell=WARM), answer(1, cell=COLD, new=4)]
    report = make_report([write([*lines, failed(1, cell=WARM)])])
    cold = next(iter(report.cells.values()))
    assert report.n_compared == 0
    assert report.measures(cold).mean_new_tokens == 3


def test_outputs_are_put_side_by_side_by_row(write):
    one = write([answer(0, "x"), answer(1, "y"), answer(2, "z")], "one.jsonl")
    two = write([answer(0, "x"), answer(2, "q")], "two.jsonl")
    report = make_report([one, two])
    first, second = report.cells.values()
    assert (first.label, second.label) == ((("file", "one.jsonl"),), (("file", "two.jsonl"),))
    assert (report.n_rows, report.n_compared, second.compared.n_same) == (3, 2, 1)


def test_outputs_of_other_rows_are_not_compared(write):
    one = write([answer(0, id="a"), answer(1, id="b")], "one.jsonl")
    two = write([answer(0, id="b"), answer(1, id="a")], "two.jsonl")
    report = make_report([one, two])
    assert report.n_compared == 0
    assert "of another input" in report.notes[0]


def test_a_row_that_is_missing_or_there_twice_is_said(write):
    assert make_report([write([answer(0), answer(1)])]).notes == []
    (note,) = make_report([write([answer(1), answer(4)])]).notes
    assert note == "3 rows are missing, the first of them row 0"
    (note,) = make_report([write([answer(0), answer(0), answer(1)])]).notes
    assert note.startswith("1 row is out of order, given twice")


def test_only_the_first_rows_are_kept_and_long_texts_are_cut(write):
    lines = [answer(i, "x" * 5000) for i in range(300)]
    report = make_report([write(lines)])
    assert len(report.shown) == 200
    (first,) = report.shown[0].results.values()
    assert len(first.samples[0].text) == 2000


def test_figures_are_those_of_plain_lists(write):
    rng = random.Random(7)
    words = [f"w{n}" for n in range(40)]
    lines = []
    for i in range(400):
        text = " ".join(rng.choices(words, k=rng.randrange(12)))
        lines.append(answer(i, text, new=rng.randrange(50), prompt=rng.randrange(900)))
    (found,) = make_report([write(lines)]).cells.values()
    texts = [line["text"] for line in lines]
    pairs = [p for t in texts for p in zip(t.split(), t.split()[1:], strict=False)]
    assert found.own.grams.distinct(2) == len(set(pairs)) / len(pairs)
    assert found.own.mean_new_tokens == statistics.fmean(line["new_tokens"] for line in lines)
    kept = [text for text in texts if text.strip()]
    assert found.repeated.n_rows == sum(kept.count(text) > 1 for text in kept)
    assert found.n_empty == len(texts) - len(kept)
    assert found.longest.size == max(map(len, texts))


# Tables, and what is packed -------------------------------------------------------------------

FORMS = ["out.csv", "out.tsv", "out.parquet", "out.csv.gz", "out.jsonl.zst", "out.jsonl.gz"]
ODD = 'a, "b"\n\tc; '


def logprobs(*values):
    return [
        {
            "token": "a",
            "logprob": x,
            "top": [{"token": "a", "logprob": x}, {"token": "b", "logprob": -3.0}],
        }
        for x in values
    ]


def samples(index, *texts):
    made = {"index": index, "id": None, "prompt_tokens": 5}
    said = [{"text": t, "finish_reason": "eos", "new_tokens": 1, "seed": 1} for t in texts]
    return {**made, "samples": said}


OUTPUTS = {
    "plain": (
        {"task": "generate", "n": 1, "logprobs": None},
        [answer(0, ODD, id="x"), answer(1, ""), failed(2), answer(3, "null", id="007")],
    ),
    "matrix": ({"task": "generate", "n": 1, "logprobs": None, "axes": ["sampler"]}, TWO),
    "kept": (
        {"task": "generate", "n": 1, "logprobs": None, "keep": ["title"]},
        [answer(0, fields={"title": "12"}), failed(1) | {"fields": {"title": ODD}}],
    ),
    "logprobs": (
        {"task": "generate", "n": 1, "logprobs": 2},
        [answer(0, logprobs=logprobs(-0.5, -1.0)), answer(1, "", logprobs=[])],
    ),
    "samples": (
        {"task": "generate", "n": 2, "logprobs": None},
        [samples(0, "a", ODD), samples(1, "", ""), failed(2)],
    ),
    "score": (
        {"task": "score", "n": 1, "logprobs": None},
        [score(0, 5, -3.25, 20), failed(1), score(2, 1, -0.5, 4)],
    ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_table_says_the_same_as_lines_of_json(write, tmp_path, name, kind):
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    if "zst" in name:
        pytest.importorskip("zstandard")
    asked, rows = OUTPUTS[kind]
    write_rows(tmp_path / name, rows, columns(**asked))
    table, lines = list(open_results(tmp_path / name)), list(open_results(write(rows, "x.jsonl")))
    assert table == lines


def test_a_cell_of_a_table_that_is_no_number(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("index,text,finish_reason,new_tokens\n0,hello,eos,two\n")
    with pytest.raises(ConfigError, match=r"out.csv:2: .*'new_tokens' is 'two'"):
        make_report([path])


# Journals, and what is no output --------------------------------------------------------------


def journal(path, lines, tail=b""):
    with path.open("wb") as file:
        file.write(line_of({"gptkit_journal": 1, "fingerprint": {}}))
        for key, cell, row in lines:
            file.write(line_of({"cell": cell, "key": key, "digest": "0" * 16, "row": row}))
        file.write(tail)


def test_a_job_that_is_running_is_reported_from_its_journal(tmp_path):
    lines = [
        ("b", 0, answer(1, "two", cell=COLD)),
        ("a", 0, failed(0, cell=COLD)),
        ("a", 1, answer(0, "one", cell=WARM)),
        ("a", 0, answer(0, "one", cell=COLD)),  # computed again
    ]
    journal(tmp_path / "out.jsonl.journal", lines, tail=b'12345678 {"cell": 0, "ro')
    report = make_report([tmp_path / "out.jsonl"])
    cold, warm = report.cells.values()
    assert [cold.n_rows, cold.n_failed, warm.n_rows, report.n_compared] == [2, 0, 1, 1]
    assert warm.compared.n_same == 1
    with pytest.raises(ConfigError) as caught:
        make_report([tmp_path / "ut.jsonl"])
    assert caught.value.hint == "did you mean 'out.jsonl'?"
    (note,) = report.notes
    assert "is not finished: these are its rows so far" in note


def test_an_output_that_was_changed_is_said_to_be(write):
    path = write([answer(0), answer(1)])
    said = {"output": manifest.describe(path)}
    manifest.write(path.with_name("out.jsonl.manifest.json"), said)
    report = make_report([path])
    assert (report.notes, report.sources[0].manifest["output"]) == ([], said["output"])
    write([answer(0)])
    (note,) = make_report([path]).notes
    assert note.endswith("out.jsonl was changed after its job wrote it")


def test_a_journal_without_rows_says_to_look_later(tmp_path):
    journal(tmp_path / "out.jsonl.journal", [])
    with pytest.raises(ConfigError, match="no row yet") as caught:
        make_report([tmp_path / "out.jsonl"])
    assert "again" in caught.value.hint


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "out.jsonl: no rows"),
        ([answer(0), '{"index": 1, "te'], r"out.jsonl:2: not valid JSON"),
        (["[1]"], "out.jsonl:1: expected an object, got a list"),
        ([{"text": "an input"}], "out.jsonl:1: not a line of a job's output: it has no 'index'"),
        ([{"index": 0, "id": 1}], "it has no 'text'"),
        ([answer(0) | {"text": 5}], "'text' is a number, not text"),
        ([answer(-1)], "'index' is out of range, not a number"),
        ([answer(0) | {"logprobs": [1]}], "'logprobs' is no list of tokens"),
        ([answer(0) | {"samples": []}], "'samples' is no list of objects"),
        ([{"index": 0, "error": "oh"}], "'error' is text, not an object"),
        ([{"index": 0, "id": [1], "text": ""}], "id is a list"),
    ],
)
def test_what_is_no_output_is_refused_with_its_line(write, lines, said):
    with pytest.raises(ConfigError, match=said) as caught:
        make_report([write(lines)])
    assert caught.value.hint


def test_files_that_are_none(tmp_path, write):
    out = write([answer(0)])
    for path, said in (
        (tmp_path, "is a directory"),
        (tmp_path / "out.txt", "not a form"),
        (tmp_path / "ot.jsonl", "no such output"),
        (tmp_path / "out.jsonl.journal", "only accompanies an output"),
        (tmp_path / "out.jsonl.manifest.json", "only accompanies an output"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            make_report([path])
        assert caught.value.hint
    with pytest.raises(ConfigError, match="one file is given twice"):
        make_report([out, tmp_path / "." / "out.jsonl"])


def test_memory_does_not_grow_with_rows_but_for_a_few_bytes(write):
    def peak(n):
        rng = random.Random(1)
        words = [f"w{i}" for i in range(2000)]
        path = write(answer(i, " ".join(rng.choices(words, k=8))) for i in range(n))
        make_report([path])  # the cache of words is warm
        tracemalloc.start()
        make_report([path])
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(5_000), peak(10_000)
    assert (many - few) / 5_000 < 64
