"""The history under torture: many writers, kills, damage, locks, no space, other versions."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from gptkit.chat import schema
from gptkit.chat.store import Store, StoredTurn
from gptkit.errors import ConfigError

BEGIN = {"model": "mini", "template": "chat", "system": None, "settings": {"seed": 7}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "history.db"


def turns(n, text="turn {}"):
    return [
        StoredTurn(
            i, i - 1 or None, "user" if i % 2 else "assistant", text.format(i), seed=2**63 - 1
        )
        for i in range(1, n + 1)
    ]


def filled(path, n=6):
    store = Store.open(path)
    id = store.begin(**BEGIN)
    for turn in turns(n):
        store.save_turn(id, turn)
    return store, id


def test_a_conversation_comes_back_as_it_was(path):
    store, id = filled(path)
    store.save_turn(
        id, StoredTurn(7, 6, "assistant", "x", "length", 3, True, {"chain": ["greedy"]})
    )
    store.set_cursor(id, 4)
    store.close()
    again = Store.open(path)
    assert again.problem is None and again.latest() == id
    found = again.load(id[:4])
    assert (found.model, found.template, found.system) == ("mini", "chat", None)
    assert found.settings == {"seed": 7} and found.cursor == 4
    assert [turn.text for turn in found.turns] == [*(f"turn {i}" for i in range(1, 7)), "x"]
    assert found.turns[6].details == {"chain": ["greedy"]} and found.turns[6].edited
    assert found.turns[0].seed == 2**63 - 1


def test_a_turn_that_grows_is_one_turn_and_found_once(path):
    store, id = filled(path, 1)
    for text in ("zebra", "zebra cross", "zebra crossing"):
        store.save_turn(id, StoredTurn(2, 1, "assistant", text, "partial"))
    assert [hit.snippet for hit in store.search("zebra")] == ["[zebra] crossing"]
    assert store.search("cross") == []
    assert len(store.load(id).turns) == 2


def test_search_takes_words_not_syntax(path):
    store, id = filled(path)
    store.save_turn(id, StoredTurn(9, None, "user", 'say "AND" OR* (near)'))
    assert [hit.number for hit in store.search('"and" OR* (')] == [9]
    with pytest.raises(ConfigError, match="nothing to search"):
        store.search("()*")


def test_ids_by_their_beginning(path):
    store, id = filled(path)
    other = store.begin(**BEGIN)
    assert store.find(id) == id
    with pytest.raises(ConfigError, match="no conversation '?"):
        store.find("zzzzzzzzz")
    with pytest.raises(ConfigError, match="several"):
        store.find("")
    assert [one.id for one in store.conversations()] == [other, id]
    assert store.conversations()[1].first_words == "turn 1"


def test_files_are_the_users_alone(path):
    before = os.umask(0)
    try:
        store, _ = filled(path)
    finally:
        os.umask(before)
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["history.db", "history.db-shm", "history.db-wal"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    store.close()


def test_any_text_is_stored(path):
    store, id = filled(path, 0)
    texts = ["nul \0 inside", "half \ud800 pair", "x" * 10_000_000, "[bold] \x1b[31m 🙂"]
    for i, text in enumerate(texts, start=1):
        store.save_turn(id, StoredTurn(i, None, "user", text))
    got = [turn.text for turn in store.load(id).turns]
    assert got == [texts[0], "half \ufffd pair", *texts[2:]]


def test_deleted_bytes_are_gone(path):
    store, id = filled(path)
    store.save_turn(id, StoredTurn(9, None, "user", "verysecretword"))
    keep = store.begin(**BEGIN)
    store.delete(id)
    assert [one.id for one in store.conversations()] == [keep]
    assert store.delete_all() == 1
    store.close()
    for file in path.parent.iterdir():
        assert b"verysecret" not in file.read_bytes(), file


# Locks ----------------------------------------------------------------------------------------


def test_a_lock_is_waited_for_and_is_never_damage(path):
    """While another holds the lock turns wait; later they are written, in order."""
    store, id = filled(path, 2)
    store.close()
    store = Store.open(path, busy_s=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store.save_turn(id, StoredTurn(3, 2, "user", "while locked"))
    assert "locked" in store.problem
    holder.execute("COMMIT")
    store.save_turn(id, StoredTurn(4, 3, "assistant", "after"))
    assert store.problem is None
    assert [t.text for t in Store.open(path).load(id).turns][2:] == ["while locked", "after"]
    assert [p.name for p in path.parent.iterdir() if "damaged" in p.name] == []


def test_what_waits_is_written_at_the_end(path):
    store, id = filled(path, 2)
    store.close()
    store = Store.open(path, busy_s=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store.save_turn(id, StoredTurn(3, 2, "user", "last words"))
    holder.execute("COMMIT")
    store.close()
    assert Store.open(path).load(id).turns[2].text == "last words"


def test_a_lock_at_the_start_leaves_a_chat_in_memory(path):
    store, _ = filled(path)
    store.close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("UPDATE conversations SET model = 'x'")
    store = Store.open(path, busy_s=0.05)
    id = store.begin(**BEGIN)
    store.save_turn(id, turns(1)[0])
    assert "memory alone" in store.problem and "locked" in store.problem
    assert store.load(id).turns[0].text == "turn 1"
    holder.execute("ROLLBACK")


# Damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["zeroed", "garbage", "truncated", "page"])
def test_a_damaged_file_is_copied_and_the_chat_goes_on(path, how):
    store, _ = filled(path, 200)
    store.close()
    data = path.read_bytes()
    bad = {
        "zeroed": bytes(len(data)),
        "garbage": random.Random(1).randbytes(9000),
        "truncated": data[: len(data) // 2],
        "page": data[:4096] + bytes(4096) + data[8192:],
    }[how]
    path.write_bytes(bad)
    store = Store.open(path)
    (copy,) = [p for p in path.parent.iterdir() if "damaged" in p.name]
    assert copy.read_bytes() == bad
    assert str(copy) in store.problem and str(path) in store.problem
    id = store.begin(**BEGIN)
    store.save_turn(id, turns(1)[0])
    store.close()
    again = Store.open(path)
    assert again.problem is None and again.load(id).turns[0].text == "turn 1"


def test_what_can_be_read_of_a_damaged_file_is_saved(path):
    store, id = filled(path, 200)
    store.close()
    data = bytearray(path.read_bytes())
    data[-4096:] = bytes(4096)
    path.write_bytes(data)
    store = Store.open(path)
    if store.problem is not None:  # the last page was in use
        assert len(store.load(id).turns) > 100


def test_an_empty_file_is_a_new_history(path):
    path.parent.mkdir()
    path.touch()
    store = Store.open(path)
    assert store.problem is None and store.conversations() == []


def test_a_newer_history_is_read_and_not_written(path):
    store, id = filled(path)
    store.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.commit()
    db.close()
    store = Store.open(path)
    assert (
        store.problem
        == f"written by a newer gptkit (schema 99 > {schema.VERSION}); opened read-only"
    )
    store.save_turn(id, StoredTurn(9, None, "user", "new"))
    assert len(store.load(id).turns) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_can_not_be_written(path):
    store, _ = filled(path)
    store.close()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    store = Store.open(path)
    store.begin(**BEGIN)
    assert "memory alone" in store.problem


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "home").write_text("")
    store = Store.open(tmp_path / "home" / "history.db")
    assert "memory alone" in store.problem
    assert store.load(store.begin(**BEGIN)).turns == ()


def test_no_space_left(path):
    """A limit on the size of files stands in for a full disk."""
    code = """
        import resource, signal, sys
        from pathlib import Path
        from gptkit.chat.store import Store, StoredTurn
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Store.open(Path(sys.argv[1]))
        id = store.begin(model="m", template="t", system=None, settings={})
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        for i in range(1, 60):
            store.save_turn(id, StoredTurn(i, None, "user", "x" * 10_000))
        print(len(store.load(id).turns), store.problem)
    """
    out = _python(code, path)
    n, problem = out.split(" ", 1)
    assert int(n) == 59 and "memory alone" in problem


def test_the_folder_vanishes_while_it_runs(path):
    import shutil

    store, id = filled(path, 2)
    shutil.rmtree(path.parent)
    for turn in turns(9)[2:]:
        store.save_turn(id, turn)
    assert len(store.load(id).turns) == 9
    store.close()


def test_a_clock_that_goes_back_changes_no_order(path, monkeypatch):
    store, first = filled(path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e6)
    second = store.begin(**BEGIN)
    assert store.latest() == second
    store.set_cursor(first, 3)
    assert store.latest() == first


# Versions -------------------------------------------------------------------------------------


def old_file(path, n=50):
    """Write a history as version 1 wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path)
    db.executescript(schema.STEPS[0])
    db.execute("INSERT INTO conversations VALUES ('abcdefgh','mini','chat',NULL,'{}',1,1,1,2)")
    for i in range(1, n + 1):
        row = ("abcdefgh", i, i - 1 or None, "user", f"old turn {i}", None, None, 0, "{}", 1.0)
        db.execute(f"INSERT INTO turns VALUES ({','.join('?' * 10)})", row)
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()


def test_an_old_history_is_brought_up_to_date_with_a_copy(path):
    old_file(path)
    store = Store.open(path)
    assert store.problem is None
    assert len(store.load("abcdefgh").turns) == 50
    assert [hit.number for hit in store.search("old turn 33")] == [33]
    copy = sqlite3.connect(f"{path}.bak-v1")
    assert copy.execute("PRAGMA user_version").fetchone() == (1,)
    assert copy.execute("SELECT count(*) FROM turns").fetchone() == (50,)


def _python(code, *args, **kwargs):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        **kwargs,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


OPEN = """
    import sys
    from pathlib import Path
    from gptkit.chat.store import Store
    store = Store.open(Path(sys.argv[1]))
    print(store.problem, len(store.load("abcdefgh").turns))
"""


@pytest.mark.parametrize("n", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_many_programs_bring_it_up_to_date_at_once(path, n):
    old_file(path)
    said = []
    threads = [threading.Thread(target=lambda: said.append(_python(OPEN, path))) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["None 50\n"] * n
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


WRITER = """
    import sys
    from pathlib import Path
    from gptkit.chat.store import Store, StoredTurn
    store = Store.open(Path(sys.argv[1]))
    id = store.begin(model="m", template="t", system=None, settings={})
    print(id, flush=True)
    for i in range(1, int(sys.argv[2]) + 1):
        store.save_turn(id, StoredTurn(i, i - 1 or None, "user", f"{id} says {i}"))
        assert store.problem is None, store.problem
        print(i, flush=True)
"""


@pytest.mark.parametrize("n, each", [(3, 60), pytest.param(8, 200, marks=pytest.mark.slow)])
def test_many_writers_lose_nothing(path, n, each):
    """F10, the runs without locks: every turn of every process is there."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(each)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    said = [run.communicate(timeout=120)[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0] * n
    store = Store.open(path)
    for id, *numbers in said:
        assert numbers == [str(i) for i in range(1, each + 1)]
        assert [turn.text for turn in store.load(id).turns] == [
            f"{id} says {i}" for i in range(1, each + 1)
        ]
    assert sum(one.n_turns for one in store.conversations()) == n * each


@pytest.mark.parametrize("n", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_what_was_written_before_a_kill_is_there(path, n):
    """F10, kill -9 at random: each turn that a process said it had written is whole."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), "100000"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    rng = random.Random(3)
    ids = [run.stdout.readline().strip() for run in runs]
    for run in runs:  # SQLite's writers wait in no order: one may be held back for a second
        assert run.stdout.readline() == "1\n"
    said = {}
    for id, run in zip(ids, runs, strict=True):
        time.sleep(rng.random() / 10)
        run.send_signal(signal.SIGKILL)
        whole_lines = run.communicate()[0].split("\n")[:-1]
        said[id] = int(whole_lines[-1]) if whole_lines else 1
    store = Store.open(path)
    assert store.problem is None
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    written = {one.id: one.n_turns for one in store.conversations()}
    assert written.keys() == said.keys()
    assert all(written[id] >= n for id, n in said.items())
