"""Options and fixtures of all tests.

`pytest tests/contract --store-url esdb://…` runs the contract suite against a real event store instead of the built-in
ones. The option may be repeated. The built-in store `eventstoredb:` is the real server that tests/support/servers.py
finds, if there is one.
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
from tests.support import effort
from tests.support.builders import open_store
from tests.support.model_places import places  # noqa: F401  # a fixture, like the following
from tests.support.own_parts import vhosts  # noqa: F401
from tests.support.postgres import postgres_database, postgres_url  # noqa: F401
from tests.support.processes import forbid_opening_beside_sqlite
from tests.support.profiles import PROFILES, profile, running, shared, system, systems  # noqa: F401
from tests.support.servers import NeedsExtra, find_eventstoredb, fold_skips, private_rabbitmq, rabbitmq  # noqa: F401

# No deadline and no health check for the speed of examples: a busy machine is slow. The short form draws the same
# examples each time, so that a failure comes from a change.
settings.register_profile(
    "project",
    deadline=None,
    max_examples=effort.EXAMPLES,
    derandomize=not effort.IS_LONG,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")

BUILT_IN_STORES = ("memory:", "sqlite:", "esdb:", "eventstoredb:")
"""A URL without a path gets a new place for each test; `esdb:` is the test node of tests/support/node."""

# A shell without job control starts background processes with SIGINT ignored, and `nohup` with SIGHUP. The processes
# that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

forbid_opening_beside_sqlite()
sys.meta_path.append(NeedsExtra())

# Thousands of processes start; without the cache each would compile the changed modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 << 30


def _has_room(folder: Path) -> bool:
    """Whether a folder can hold temporary files: in a container it may have 64 MB and run no programs."""
    try:
        about = os.statvfs(folder)
    except OSError:
        return False
    return (
        os.access(folder, os.W_OK | os.X_OK)
        and not about.f_flag & os.ST_NOEXEC
        and shutil.disk_usage(folder).free >= _ROOM_BYTES
    )


# Every store is synced at each write and every system is new: on a disk, half of the time is waiting for it.
if "TMPDIR" not in os.environ and _has_room(_MEMORY):
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store-url",
        action="append",
        metavar="URL",
        help="run the event store contract and the acceptance tests against this store only (sqlite:PATH, esdb://…); repeatable",
    )
    parser.addoption(
        "--profile",
        choices=(*PROFILES, "all"),
        help="run the acceptance tests over these parts; a test that is skipped over them gives a reason",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chosen_store" in metafunc.fixturenames:
        urls = metafunc.config.getoption("--store-url") or BUILT_IN_STORES
        metafunc.parametrize("chosen_store", urls, ids=lambda url: url.partition(":")[0])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    fold_skips(terminalreporter)


@pytest.fixture
def node_url() -> Iterator[str]:
    """A new test node that speaks EventStoreDB's protocol."""
    from tests.support.node import Node

    with closing(Node()) as node:
        yield node.url


@pytest.fixture
def store_url(chosen_store: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The store under test: a new place for each test, unless --store-url names one."""
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
    """An empty store."""
    if request.config.getoption("--store-url") or chosen_store == "eventstoredb:":
        pytest.skip("a real store may hold events of earlier runs")
    return store


@pytest.fixture
def shared_store_url(store_url: str) -> str:
    """The URL of a store that several processes can have open at once."""
    if store_url == "memory:":
        pytest.skip("the store in memory ends with its process")
    return store_url


@pytest.fixture
def open_again(shared_store_url: str) -> Iterator[Callable[[], EventStore]]:
    """Opens the store under test once more, as another worker would."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(open_store(shared_store_url)))
