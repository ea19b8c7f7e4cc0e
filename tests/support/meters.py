"""What SQLite does for a piece of work, in counts that do not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw


@dataclass(frozen=True)
class Cost:
    """`statements` that ran, a commit included; their `steps` in SQLite's virtual machine; `rows` of full scans;
    `pages` written to the log, by the name of the file."""

    statements: int
    steps: int
    rows: int
    pages: dict[str, int]


@dataclass
class Meter:
    """Counts the statements of every connection that is opened meanwhile."""

    _connections: list[apsw.Connection] = field(default_factory=list)
    _statements: int = 0
    _steps: int = 0
    _rows: int = 0

    def opened(self, connection: apsw.Connection) -> None:
        self._connections.append(connection)
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._ran)

    def _ran(self, event: dict[str, dict[str, int]]) -> None:
        self._statements += 1
        self._steps += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]
        self._rows += event["stmt_status"]["SQLITE_STMTSTATUS_FULLSCAN_STEP"]

    def cost(self, work: Callable[[], object]) -> Cost:
        self._statements = self._steps = self._rows = 0
        before = self._pages()
        work()
        pages = {name: count - before.get(name, 0) for name, count in self._pages().items()}
        return Cost(self._statements, self._steps, self._rows, pages)

    def _pages(self) -> dict[str, int]:
        pages: dict[str, int] = {}
        for connection in self._connections:
            name = Path(connection.filename).name
            written, _ = connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)
            pages[name] = pages.get(name, 0) + written
        return pages


@contextmanager
def metering() -> Iterator[Meter]:
    meter = Meter()
    apsw.connection_hooks.append(meter.opened)
    try:
        yield meter
    finally:
        apsw.connection_hooks.remove(meter.opened)
