"""The tables of the history, and the way from each older version of them to the newest."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = (
    # 1: conversations and their turns.
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY, model TEXT NOT NULL, template TEXT NOT NULL, system TEXT,
        settings TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
        touched INTEGER NOT NULL, cursor INTEGER
    );
    CREATE TABLE turns (
        conversation TEXT NOT NULL, number INTEGER NOT NULL, parent INTEGER, role TEXT NOT NULL,
        text TEXT NOT NULL, finish_reason TEXT, seed INTEGER, edited INTEGER NOT NULL,
        details TEXT NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (conversation, number)
    );
    """,
    # 2: the words of all turns, kept in step by triggers.
    """
    CREATE VIRTUAL TABLE found USING fts5 (text, content='turns');
    INSERT INTO found (found) VALUES ('rebuild');
    CREATE TRIGGER turn_added AFTER INSERT ON turns BEGIN
        INSERT INTO found (rowid, text) VALUES (new.rowid, new.text);
    END;
    CREATE TRIGGER turn_removed AFTER DELETE ON turns BEGIN
        INSERT INTO found (found, rowid, text) VALUES ('delete', old.rowid, old.text);
    END;
    """,
)
VERSION = len(STEPS)

_COLUMNS = "number, parent, role, text, finish_reason, seed, edited, details, created_at"


def version_of(db: sqlite3.Connection) -> int:
    """Return the version of the tables, 0 where there are none."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def create(db: sqlite3.Connection) -> None:
    """Make the newest tables in an empty database."""
    for step in STEPS:
        for statement in _statements(step):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("PRAGMA recursive_triggers = ON")  # or a turn that is replaced is found twice


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to the newest version; a file that has some is copied first.

    The version is read again under the lock, for others may be about the same.
    """
    db.execute("PRAGMA recursive_triggers = ON")
    if version_of(db) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        found = version_of(db)
        if 0 < found < VERSION:
            _back_up(path, found)
        for step in STEPS[found:]:
            for statement in _statements(step):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def read_turns(db: sqlite3.Connection, id: str) -> Iterator[tuple[Any, ...]]:
    """Yield the turns of a conversation, by number."""
    query = f"SELECT {_COLUMNS} FROM turns WHERE conversation = ? ORDER BY number"
    yield from db.execute(query, (id,))


def recover(damaged: Path, fresh: Path) -> int:
    """Write all that can be read of a damaged file into a new one; return how many turns."""
    fresh.unlink(missing_ok=True)
    new = sqlite3.connect(fresh, isolation_level=None)
    create(new)
    n_turns = 0
    with contextlib.suppress(sqlite3.Error):
        old = sqlite3.connect(f"file:{damaged}?mode=ro&immutable=1", uri=True)
        old.text_factory = lambda data: data.decode("utf-8", "replace")
        for table in ("conversations", "turns"):
            with contextlib.suppress(sqlite3.Error):
                for row in old.execute(f"SELECT * FROM {table}"):
                    marks = ", ".join("?" * len(row))
                    new.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
                    n_turns += table == "turns"
        old.close()
    new.close()
    return n_turns


def _back_up(path: Path, version: int) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
        with contextlib.closing(sqlite3.connect(f"{path}.bak-v{version}")) as target:
            source.backup(target)


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script; `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
