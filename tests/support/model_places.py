"""Places for read models over each adapter, for tests of the code above them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.ports.read_model import ReadModel
from tests.support.postgres import own_schema

Opening = Callable[[], ReadModel]
"""Opens the read model of one place, each time as another process would."""


class Places:
    """Makes places of one adapter: a file, or a schema."""

    def __init__(self, database: str | None) -> None:
        """`database` is the URL of a PostgreSQL database; None means SQLite."""
        self.is_sqlite = database is None
        self._database = database

    @contextmanager
    def new(self) -> Iterator[Opening]:
        """A new place. What was opened is closed at the end, and the place is removed."""
        with ExitStack() as ending:
            if self._database is None:
                path = Path(ending.enter_context(tempfile.TemporaryDirectory())) / "read.db"
                yield lambda: ending.enter_context(closing(SqliteReadModel(path)))
            else:
                from adapters.postgres.read_model import PostgresReadModel

                url = ending.enter_context(own_schema(self._database))
                yield lambda: ending.enter_context(closing(PostgresReadModel(url)))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest) -> Places:
    """Places over each adapter in turn."""
    is_sqlite = request.param == "sqlite"
    return Places(None if is_sqlite else request.getfixturevalue("postgres_database"))
