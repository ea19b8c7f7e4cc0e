"""A vault, read models and a schema with one table, in a shared server or in one of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import pytest

from adapters.postgres.database import Database
from adapters.postgres.read_model import PostgresReadModel
from adapters.postgres.vault import PostgresVault
from tests.support.postgres import Server, a_database, private_server
from tests.support.vaults import KEK


@pytest.fixture
def vault(postgres_url: str) -> Iterator[PostgresVault]:
    with closing(PostgresVault(postgres_url, kek=KEK)) as opened:
        yield opened


@pytest.fixture
def read_model(postgres_url: str) -> Iterator[PostgresReadModel]:
    with closing(PostgresReadModel(postgres_url)) as opened:
        yield opened


@pytest.fixture
def open_notes(postgres_url: str, tmp_path: Path) -> Iterator[Callable[..., Database]]:
    """Opens a schema with the table `notes`, migrated by these further steps."""
    first = "CREATE TABLE {schema}.notes(id integer PRIMARY KEY, text text NOT NULL)"

    calls = count()

    def open_with(*steps: str) -> Database:
        folder = tmp_path / str(next(calls))  # of its own: threads read theirs while others write
        folder.mkdir()
        files = [folder / f"notes_{number}.sql" for number in range(len(steps) + 1)]
        for file, step in zip(files, [first, *steps], strict=True):
            file.write_text(step)
        return opened.enter_context(closing(Database(postgres_url, part="vault", migrations=files)))

    with ExitStack() as opened:
        yield open_with


@pytest.fixture
def notes(open_notes: Callable[..., Database]) -> Database:
    return open_notes()


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with private_server() as server:
        yield server


@pytest.fixture
def server(own_server: Server) -> Iterator[Server]:
    """A server that a test may stop."""
    yield own_server
    own_server.ensure_running()


@pytest.fixture
def own_url(server: Server) -> Iterator[str]:
    with a_database(server.url) as url:
        yield url
