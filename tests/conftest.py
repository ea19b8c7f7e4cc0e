"""Options and fixtures of every test.

`pytest tests/contract --store-url esdb://…` runs the contract suite against a real event store instead of
the built-in ones. The option may be given several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from domain.ports import EventStore
from tests.builders import open_store
from tests.contract.postgres_fixture import postgres_database, postgres_url  # noqa: F401  # fixtures
from tests.servers import rabbitmq, write_summary  # noqa: F401  # a fixture

# No deadline per example: the machine may be busy, and slow isn't wrong. `--hypothesis-profile=thorough` digs.
settings.register_profile("project", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("project")

BUILT_IN_STORES = ("memory:", "sqlite:", "esdb:")
"""A URL without a path gets a fresh place for each test; `esdb:` is the test node of tests/node."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store-url",
        action="append",
        metavar="URL",
        help="run the event store contract against this store (memory:, sqlite:PATH, esdb://…) only; repeatable",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chosen_store" in metafunc.fixturenames:
        urls = metafunc.config.getoption("--store-url") or BUILT_IN_STORES
        metafunc.parametrize("chosen_store", urls, ids=lambda url: url.partition(":")[0])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    write_summary(terminalreporter)


@pytest.fixture
def node_url() -> Iterator[str]:
    """A fresh test node that speaks EventStoreDB's protocol."""
    from tests.contract.esdb_fixture import running_node  # it imports grpc, which most tests don't need

    with running_node() as url:
        yield url


@pytest.fixture
def store_url(chosen_store: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where the store under test is. A place of its own for each test, unless it was named on the command line."""
    if chosen_store == "esdb:":
        return str(request.getfixturevalue("node_url"))
    return f"sqlite:{tmp_path / 'events.db'}" if chosen_store == "sqlite:" else chosen_store


@pytest.fixture
def store(store_url: str) -> Iterator[EventStore]:
    with closing(open_store(store_url)) as opened:
        yield opened


@pytest.fixture
def fresh_store(store: EventStore, request: pytest.FixtureRequest) -> EventStore:
    """A store that nobody has written to."""
    if request.config.getoption("--store-url"):
        pytest.skip("a store named by --store-url may hold events of earlier runs")
    return store


@pytest.fixture
def shared_store_url(store_url: str) -> str:
    """The URL of a store that several processes can have open at once."""
    if store_url == "memory:":
        pytest.skip("the store in memory lives and dies with one process, by design")
    return store_url


@pytest.fixture
def open_again(shared_store_url: str) -> Iterator[Callable[[], EventStore]]:
    """Opens the store under test once more, as another worker would."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(open_store(shared_store_url)))
