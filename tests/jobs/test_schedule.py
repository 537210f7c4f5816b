"""The order of rows: a prefix at a time, the longest first; compared with brute force."""

import random
from types import SimpleNamespace

from gptkit.jobs.schedule import Waiting


def task(index, prefix, own):
    request = SimpleNamespace(prompt_ids=(*prefix, *range(own)), n_shared=len(prefix))
    return SimpleNamespace(row=SimpleNamespace(index=index), request=request)


def test_rows_of_one_prefix_come_together_and_the_longest_of_them_first():
    waiting = Waiting()
    for i, (prefix, own) in enumerate(
        [((1, 2), 5), ((7,), 9), ((1, 2), 8), ((7,), 3), ((1, 2), 8), ((), 50)]
    ):
        waiting.add(task(i, prefix, own))
    assert len(waiting) == 6
    assert [waiting.take().row.index for _ in range(6)] == [2, 4, 0, 1, 3, 5]
    assert len(waiting) == 0


def test_a_prefix_goes_on_while_more_of_it_comes():
    waiting = Waiting()
    waiting.add(task(0, (1,), 5))
    waiting.add(task(1, (1,), 4))
    assert waiting.take().row.index == 0
    for i in range(2, 6):
        waiting.add(task(i, (2,), 90))
    waiting.add(task(6, (1,), 1))
    assert [waiting.take().row.index for _ in range(2)] == [1, 6]


def test_a_dropped_row_is_gone_with_all_its_answers():
    rng = random.Random(0)
    for _ in range(50):
        waiting, left = Waiting(), []
        for _ in range(rng.randrange(1, 20)):
            one = task(rng.randrange(5), (rng.randrange(3),), rng.randrange(9))
            waiting.add(one)
            left.append(one)
        gone = rng.randrange(5)
        waiting.drop(SimpleNamespace(index=gone))
        left = [one for one in left if one.row.index != gone]
        taken = [waiting.take() for _ in range(len(waiting))]
        assert sorted(map(id, taken)) == sorted(map(id, left))
        for a, b in zip(taken, taken[1:], strict=False):
            if a.request.prompt_ids[:1] == b.request.prompt_ids[:1]:
                assert len(a.request.prompt_ids) >= len(b.request.prompt_ids)
