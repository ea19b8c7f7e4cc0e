"""SQLite files of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from adapters.sqlite.database import Database
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.events import NO_STREAM
from tests.support.builders import append, some_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path)) as opened:
        yield opened


@pytest.fixture
def other(path: Path, store: SqliteStore) -> Iterator[apsw.Connection]:
    """Another program's connection to a store with three events of `user-1`."""
    append(store, "user-1", NO_STREAM, some_events(3))
    with closing(apsw.Connection(str(path))) as connection:
        yield connection


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "notes.sql"
    path.write_text(
        "CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT"
    )
    return path


@pytest.fixture
def database(schema: Path, tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "notes.db", part="notes", migrations=[schema])) as opened:
        yield opened
