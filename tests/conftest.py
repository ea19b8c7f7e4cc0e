"""Options and fixtures of every test.

`pytest tests/contract --store-url esdb://…` runs the contract suite against a real event store instead of
the built-in ones. The option may be given several times. `eventstoredb:`, which stands for a real server, is
found as tests/support/servers.py says, and comes on top of the built-in ones.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from domain.kernel.ports.event_store import EventStore
from tests.support.builders import PROFILES, open_store
from tests.support.postgres import postgres_database, postgres_url  # noqa: F401  # fixtures
from tests.support.servers import find_eventstoredb, fold_skips, private_rabbitmq, rabbitmq  # noqa: F401  # fixtures

# No deadline per example, and no health check of their speed: the machine may be busy, and slow isn't wrong.
# The same examples every time, so that a run tells about what was changed; `--hypothesis-profile=thorough` digs.
_SLOW_IS_FINE = [HealthCheck.too_slow]
settings.register_profile(
    "project", deadline=None, max_examples=60, derandomize=True, suppress_health_check=_SLOW_IS_FINE
)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=_SLOW_IS_FINE)
settings.load_profile("project")

BUILT_IN_STORES = ("memory:", "sqlite:", "esdb:", "eventstoredb:")
"""A URL without a path gets a fresh place for each test; `esdb:` is the test node of tests/support/node, and
`eventstoredb:` a real server, if there is one."""


def _has_room(folder: Path) -> bool:
    """Whether temporary files may lie there: a container's has 64 MB, and runs no programs."""
    try:
        about = os.statvfs(folder)
    except OSError:
        return False
    return (
        os.access(folder, os.W_OK | os.X_OK)
        and not about.f_flag & os.ST_NOEXEC
        and shutil.disk_usage(folder).free >= _ROOM_BYTES
    )


# Whoever starts this in the background of a shell without job control has it ignored, and so would every process
# that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# These tests start thousands of processes, and each would compile anew what has changed since the installation.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Every store is synced at each write, and every system is new: on a disk half of the time is spent on waiting for it.
_IN_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 << 30
if "TMPDIR" not in os.environ and _has_room(_IN_MEMORY):
    os.environ["TMPDIR"] = tempfile.tempdir = str(_IN_MEMORY)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store-url",
        action="append",
        metavar="URL",
        help="run the event store contract and the acceptance tests against this store (sqlite:PATH, esdb://…) only; repeatable",
    )
    # Here, and not where the systems are: an option is known only if it is declared above every test.
    parser.addoption(
        "--profile",
        choices=(*PROFILES, "all"),
        help="run the acceptance tests over these parts; those that make no sense there are skipped and say why",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chosen_store" in metafunc.fixturenames:
        urls = metafunc.config.getoption("--store-url") or BUILT_IN_STORES
        metafunc.parametrize("chosen_store", urls, ids=lambda url: url.partition(":")[0])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    fold_skips(terminalreporter)


@pytest.fixture
def node_url() -> Iterator[str]:
    """A fresh test node that speaks EventStoreDB's protocol."""
    from tests.support.node import Node

    with closing(Node()) as node:
        yield node.url


@pytest.fixture
def store_url(chosen_store: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where the store under test is. A place of its own for each test, unless it was named on the command line."""
    if chosen_store == "esdb:":
        return str(request.getfixturevalue("node_url"))
    if chosen_store == "eventstoredb:":
        return find_eventstoredb()
    return f"sqlite:{tmp_path / 'events.db'}" if chosen_store == "sqlite:" else chosen_store


@pytest.fixture
def store(store_url: str) -> Iterator[EventStore]:
    with closing(open_store(store_url)) as opened:
        yield opened


@pytest.fixture
def fresh_store(store: EventStore, chosen_store: str, request: pytest.FixtureRequest) -> EventStore:
    """A store that nobody has written to."""
    if request.config.getoption("--store-url") or chosen_store == "eventstoredb:":
        pytest.skip("a real store may hold events of earlier runs")
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
