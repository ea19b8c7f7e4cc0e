"""A system over throw-away parts of this machine, for one benchmark. All of it is removed at its end.

RabbitMQ and the EventStoreDB test node are processes of its own; PostgreSQL is a database of its own on the server that
the tests find. tests/support/guard.py removes them even if the benchmark is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from adapters.wiring import open_vault, prepare_home
from scripts.bench.cpu import Group, listener
from scripts.bench.home import roles
from scripts.bench.proxy import refuse_other_machines
from tests.support.postgres import a_database, a_server, execute
from tests.support.processes import ROOT
from tests.support.runs import ES
from tests.support.servers import Guarded, started_rabbitmq
from tests.support.system import System, new_root
from tests.support.waiting import eventually
from workers.users.claims import SETTLED

_LONGEST_S = 3600
FOLLOWERS = ("projections", "erasures", "relay")
IN_HOME = "sqlite:"
"""As the store of `throw_away`: the events are in a file of the home."""


@dataclass(frozen=True)
class Parts:
    """A running system, and the processes that it uses, by name."""

    system: System
    urls: Mapping[str, str]
    """The URLs of the parts by setting, without a proxy."""
    proxies: Mapping[str, subprocess.Popen[str]]
    """By setting. Each line on a proxy's standard input is another delay in milliseconds."""
    through: Mapping[str, str]
    """The URLs through the proxies."""
    servers: Mapping[str, Group]
    claims_settled: Callable[[], int]
    """The position up to which claims are settled. It is saved once a second."""

    def roles(self) -> dict[str, Group]:
        """The processes of each role, as they are now."""
        return roles(self.system)

    def restart(self, urls: Mapping[str, str]) -> None:
        """Run the workers over other addresses of the same parts."""
        self.system.es("down").ok()
        self.system.environment.update(urls)
        self.system.up().ready()

    def delay(self, ms: float, *settings: str) -> None:
        """Add a delay to each round trip to these parts, none to the others."""
        for setting, proxy in self.proxies.items():
            assert proxy.stdin is not None
            proxy.stdin.write(f"{ms if setting in settings else 0}\n")
            proxy.stdin.flush()


@contextmanager
def throw_away(store: str | None) -> Iterator[Parts]:
    """`store` is the URL of an empty EventStoreDB, or `IN_HOME`; without it the test node is started."""
    with ExitStack() as ending:
        root = new_root()
        ending.callback(shutil.rmtree, root, ignore_errors=True)
        broker = ending.enter_context(started_rabbitmq())
        database = ending.enter_context(a_database(ending.enter_context(a_server())))
        urls = {
            "ES_BROKER": broker.url,
            "ES_DATABASE": database,
            "ES_VAULT": database,
        }
        if store != IN_HOME:
            urls["ES_STORE"] = store or ending.enter_context(_node())
        refuse_other_machines(*urls.values())
        proxies, through = _proxies(urls, ending)
        kek = root / "kek"
        kek.touch(0o600)
        kek.write_text(os.urandom(32).hex())
        system = System(root, parts={**urls, "ES_KEK_FILE": str(kek)})
        ending.callback(system.close)
        # Also if this process is killed: workers outlive the command that starts them.
        down = Guarded(afterwards=[[ES, "down"]], environment=system.environment)
        ending.callback(down.close)
        _create_vault(system)
        broker_pid = broker.pid()
        servers: dict[str, Group] = {
            "RabbitMQ": lambda: [broker_pid],
            "PostgreSQL": lambda: _sessions(database),
        }
        if "ES_STORE" in urls:
            node_pid = listener(urlsplit(urls["ES_STORE"]).port or 2113)
            servers["node"] = lambda: [node_pid]
        system.up().ready()
        vault = ending.enter_context(closing(open_vault(system.settings)))
        yield Parts(system, urls, proxies, through, servers, lambda: vault.checkpoint(SETTLED).position)


def _create_vault(system: System) -> None:
    """Create it beside no store: beside one with users whose keys it does not hold, `es` refuses to."""
    prepare_home(system.settings)
    open_vault(replace(system.settings, store=f"sqlite:{system.root / 'none.db'}")).close()


def _sessions(database: str) -> list[int]:
    """The processes of PostgreSQL that serve this database. What writes for all databases is not among them."""
    select = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'es'"
    return [int(str(pid)) for (pid,) in execute(database, select)]


@contextmanager
def _node() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="es-node-"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    guarded = Guarded(
        server=[sys.executable, "-u", "-m", "tests.support.node"], environment=environment, folder=folder
    )
    try:
        yield eventually(lambda: guarded.said().strip(), "the test node printed its URL", within_s=60)
    finally:
        guarded.close()


def _proxies(
    urls: Mapping[str, str], ending: ExitStack
) -> tuple[dict[str, subprocess.Popen[str]], dict[str, str]]:
    """A process for each part, so that they share no interpreter. They end with this one."""
    proxies: dict[str, subprocess.Popen[str]] = {}
    through: dict[str, str] = {}
    for setting in sorted(urls.keys() & {"ES_BROKER", "ES_DATABASE", "ES_STORE"}):
        proxies[setting] = process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "scripts.bench.proxy",
                urls[setting],
                "--ms",
                "0",
                "--for",
                f"{_LONGEST_S}",
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ending.callback(_end, process)
        assert process.stdout is not None
        through[setting] = process.stdout.readline().strip()
    through["ES_VAULT"] = through["ES_DATABASE"]
    return proxies, through


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(OSError):
        process.communicate()
