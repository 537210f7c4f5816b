"""The history of conversations in SQLite: every turn, from the moment it is said.

A chat never dies because of its history. What can't be written now is kept and tried again where
somebody else holds the lock, and else goes into memory, with one line that says why. A lock is not
damage; a damaged file is copied, never moved or emptied, before a new one takes its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gptkit.chat.schema import VERSION, create, migrate, read_turns, recover, version_of
from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BUSY_S = 5.0
LOCKED = "the history is locked by another program; what is said is written later"
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_ID_LENGTH = 8


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One turn of a conversation, by number; `details` say how an answer was made."""

    number: int
    parent: int | None
    role: str
    text: str
    finish_reason: str | None = None
    seed: int | None = None
    edited: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation in a list."""

    id: str
    model: str
    created_at: float
    updated_at: float
    n_turns: int
    first_words: str


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation with all its turns."""

    id: str
    model: str
    template: str
    system: str | None
    settings: Mapping[str, Any]
    created_at: float
    updated_at: float
    cursor: int | None
    turns: tuple[StoredTurn, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A turn that a search found."""

    id: str
    number: int
    role: str
    snippet: str
    created_at: float


class Store:
    """The history; `problem` says in a line why it is not in its file, or not only there."""

    def __init__(self, path: Path, db: sqlite3.Connection, *, problem: str | None = None) -> None:
        self.path = path
        self.problem = problem
        self.read_only = False
        self._db = db
        self._waiting: list[Callable[[], None]] = []

    @classmethod
    def open(cls, path: Path, *, busy_s: float = BUSY_S) -> Self:
        """Open or create the history. It never fails: at worst it lives in memory."""
        try:
            return cls._open_patiently(path, busy_s)
        except sqlite3.Error as error:
            if _code(error) in _DAMAGED:
                return cls._mend(path, busy_s)
            return cls._in_memory(path, _why(error))
        except OSError as error:
            return cls._in_memory(path, error.strerror or str(error))

    @classmethod
    def _open_patiently(cls, path: Path, busy_s: float) -> Self:
        """Open it, again while others hold it: the change to WAL does not wait by itself."""
        until = time.monotonic() + busy_s
        while True:
            try:
                return cls._open(path, busy_s)
            except sqlite3.Error as error:
                if _code(error) not in _LOCKED or time.monotonic() > until:
                    raise
            time.sleep(0.02)

    @classmethod
    def _open(cls, path: Path, busy_s: float) -> Self:
        with _private():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            db = _connect(str(path), busy_s)
            try:
                found = version_of(db)
                if found > VERSION:
                    db.close()
                    return cls._newer(path, busy_s, found)
                wal = db.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal"
                db.execute("PRAGMA synchronous=NORMAL")
                migrate(db, path)
                if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise _damage()
            except BaseException:
                db.close()
                raise
            for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                if name.exists():
                    name.chmod(0o600)
        problem = None if wal else "this file system knows no write-ahead log; history is slower"
        return cls(path, db, problem=problem)

    @classmethod
    def _newer(cls, path: Path, busy_s: float, found: int) -> Self:
        db = _connect(f"file:{path}?mode=ro", busy_s, uri=True)
        store = cls(path, db)
        store.problem = f"written by a newer gptkit (schema {found} > {VERSION}); opened read-only"
        store.read_only = True
        return store

    @classmethod
    def _in_memory(cls, path: Path, why: str) -> Self:
        return cls(path, _memory(), problem=f"history is kept in memory alone: {path}: {why}")

    @classmethod
    def _mend(cls, path: Path, busy_s: float) -> Self:
        """Copy a damaged file aside, and begin a new one with all that can be read of it."""
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        try:
            with _private():
                aside.write_bytes(path.read_bytes())
                fresh = path.with_name(f"{path.name}.new-{os.getpid()}")
                n_turns = recover(aside, fresh)
                for tail in ("-wal", "-shm"):
                    Path(f"{path}{tail}").unlink(missing_ok=True)
                fresh.replace(path)
            store = cls._open(path, busy_s)
        except (sqlite3.Error, OSError) as error:
            return cls._in_memory(path, f"it is damaged ({error}); a copy is {aside}")
        store.problem = f"{path} was damaged; {n_turns:,} turns were saved, a copy is {aside}"
        return store

    # Writing ----------------------------------------------------------------------------------

    def begin(
        self, *, model: str, template: str, system: str | None, settings: Mapping[str, Any]
    ) -> str:
        """Add a conversation and return its id."""
        id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
        now = time.time()
        row = (id, model, template, _text(system), json.dumps(settings), now, now)

        def write() -> None:
            self._db.execute(
                "INSERT INTO conversations (id, model, template, system, settings, created_at,"
                " updated_at, touched) VALUES (?, ?, ?, ?, ?, ?, ?, "
                "(SELECT coalesce(max(touched), 0) + 1 FROM conversations))",
                row,
            )

        self._write(write)
        return id

    def save_turn(self, id: str, turn: StoredTurn) -> None:
        """Write a turn, or write it again; the talk now goes on from it."""
        row = (
            id,
            turn.number,
            turn.parent,
            turn.role,
            _text(turn.text),
            turn.finish_reason,
            turn.seed,
            int(turn.edited),
            json.dumps(turn.details),
            turn.created_at or time.time(),
        )

        def write() -> None:
            self._db.execute(
                "INSERT OR REPLACE INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row
            )
            self._touch(id, turn.number)

        self._write(write)

    def set_cursor(self, id: str, number: int | None) -> None:
        """Note from which turn the talk goes on."""
        self._write(lambda: self._touch(id, number))

    def delete(self, id: str) -> None:
        """Delete a conversation, its bytes too."""

        def write() -> None:
            self._db.execute("DELETE FROM turns WHERE conversation = ?", (id,))
            self._db.execute("DELETE FROM conversations WHERE id = ?", (id,))

        self._write(write)
        self._tidy()

    def delete_all(self) -> int:
        """Delete everything; return how many conversations there were."""
        n = int(self._db.execute("SELECT count(*) FROM conversations").fetchone()[0])

        def write() -> None:
            self._db.execute("DELETE FROM turns")
            self._db.execute("DELETE FROM conversations")

        self._write(write)
        self._tidy()
        return n

    def close(self) -> None:
        """Write what waits, and close the file."""
        if self._waiting:
            self._write(lambda: None)
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def _touch(self, id: str, number: int | None) -> None:
        # A counter, since a clock may go back.
        self._db.execute(
            "UPDATE conversations SET cursor = ?, updated_at = ?, touched = "
            "(SELECT coalesce(max(touched), 0) + 1 FROM conversations) WHERE id = ?",
            (number, time.time(), id),
        )

    def _write(self, change: Callable[[], None]) -> None:
        """Do one change, and those that waited before it, in one transaction.

        A transaction that begins by reading and then writes fails where another has written in
        between, whatever the timeout; hence IMMEDIATE.
        """
        if self.read_only:
            return
        self._waiting.append(change)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for one in self._waiting:
                one()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if _code(error) in _LOCKED:
                self.problem = LOCKED
                return
            self._give_up(error)
        if self.problem == LOCKED:
            self.problem = None
        self._waiting.clear()

    def _give_up(self, error: sqlite3.Error) -> None:
        """Go on in memory, with what is there of the file, if that can be read."""
        memory = _memory()
        with contextlib.suppress(sqlite3.Error):
            self._db.backup(memory)
        self._db = memory
        self.problem = f"history is kept in memory alone: {self.path}: {_why(error)}"
        with contextlib.suppress(sqlite3.Error):
            for one in self._waiting:
                one()

    def _tidy(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            # The index of words keeps those of deleted turns until it is built anew.
            self._db.execute("INSERT INTO found (found) VALUES ('rebuild')")
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # Reading ----------------------------------------------------------------------------------

    def latest(self) -> str | None:
        """Return the id of the conversation that was touched last."""
        query = "SELECT id FROM conversations ORDER BY touched DESC LIMIT 1"
        row = self._db.execute(query).fetchone()
        return str(row[0]) if row else None

    def find(self, prefix: str) -> str:
        """Return the id that begins so; raise ConfigError where none does, or several do."""
        query = "SELECT id FROM conversations WHERE substr(id, 1, ?) = ? LIMIT 3"
        found = [str(row[0]) for row in self._db.execute(query, (len(prefix), prefix))]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"several conversations begin with {prefix!r}: {', '.join(found)}")
        raise ConfigError(f"no conversation {prefix!r}", hint="gptkit history list shows them")

    def load(self, prefix: str) -> StoredConversation:
        """Return a conversation by its id, or by what that begins with."""
        id = self.find(prefix)
        model, template, system, settings, created, updated, cursor = self._db.execute(
            "SELECT model, template, system, settings, created_at, updated_at, cursor "
            "FROM conversations WHERE id = ?",
            (id,),
        ).fetchone()
        turns = tuple(_turn(row) for row in read_turns(self._db, id))
        return StoredConversation(
            id, model, template, system, json.loads(settings), created, updated, cursor, turns
        )

    def conversations(self, limit: int = 50) -> list[Summary]:
        """Return the conversations, the last touched first."""
        query = (
            "SELECT c.id, c.model, c.created_at, c.updated_at, "
            "(SELECT count(*) FROM turns t WHERE t.conversation = c.id), "
            "(SELECT substr(text, 1, 80) FROM turns t WHERE t.conversation = c.id "
            "AND t.role = 'user' ORDER BY number LIMIT 1) "
            "FROM conversations c ORDER BY touched DESC LIMIT ?"
        )
        return [
            Summary(row[0], row[1], row[2], row[3], row[4], " ".join((row[5] or "").split()))
            for row in self._db.execute(query, (limit,))
        ]

    def search(self, text: str, limit: int = 50) -> list[Hit]:
        """Return the turns that have all words of a text, the best match first."""
        words = re.findall(r"\w+", text)
        if not words:
            raise ConfigError("nothing to search for", hint="give a word")
        query = (
            "SELECT t.conversation, t.number, t.role, "
            "snippet(found, 0, '[', ']', '…', 12), t.created_at "
            "FROM found JOIN turns t ON t.rowid = found.rowid "
            "WHERE found MATCH ? ORDER BY rank LIMIT ?"
        )
        match = " ".join(f'"{word}"' for word in words)
        return [Hit(*row) for row in self._db.execute(query, (match, limit))]


def _turn(row: tuple[Any, ...]) -> StoredTurn:
    number, parent, role, text, reason, seed, edited, details, created = row
    return StoredTurn(
        number, parent, role, text, reason, seed, bool(edited), json.loads(details), created
    )


def _connect(name: str, busy_s: float, *, uri: bool = False) -> sqlite3.Connection:
    # Opened in the thread that loads the model, then used by the one that talks: never by both.
    db = sqlite3.connect(
        name, timeout=busy_s, isolation_level=None, uri=uri, check_same_thread=False
    )
    db.execute("PRAGMA secure_delete=ON")
    db.execute("PRAGMA foreign_keys=OFF")
    return db


def _memory() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    create(db)
    return db


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """Make files that are the user's alone, those too that SQLite makes beside its own."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _text(text: str | None) -> str | None:
    """Return a text that can be stored: half a surrogate pair is no character."""
    return text if text is None else re.sub("[\ud800-\udfff]", "\ufffd", text)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _damage() -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _why(error: sqlite3.Error) -> str:
    return "locked by another program" if _code(error) in _LOCKED else str(error)
