"""The commits of a read model, as a test sees and disturbs them: a look after each, a kill before or after one.

A read model of a test stands for that of one process. Once it is killed, no thread that uses it commits again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.ports.read_model import ReadModel
from tests.support.parts import Crash


class Commits:
    """Runs `look` after each commit of a read model, and a disturbance after a chosen one."""

    def __init__(self, read_model: ReadModel, look: Callable[[], object] = lambda: None) -> None:
        self._look = look
        self._left = 0
        self._act: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self.is_killed = False
        database: Any = read_model._database  # type: ignore[attr-defined]
        if isinstance(read_model, SqliteReadModel):
            self._watch_sqlite(database)
        else:
            self._watch_postgres(database)

    def disturb(self, after: int, act: Callable[[], object]) -> None:
        """Act after that many commits, counted from now; 0 means never."""
        with self._lock:
            self._left, self._act = after, act

    def kill(self) -> None:
        """Let the process end here, and its other threads before their next commit."""
        self.is_killed = True
        raise Crash("killed")

    def _watch_sqlite(self, database: Any) -> None:
        writing = database.writing

        @contextmanager
        def watched() -> Iterator[Any]:
            with writing() as connection:
                yield connection
                self._need_life()  # before the commit: it is rolled back
            self._committed()

        database.writing = watched

    def _watch_postgres(self, database: Any) -> None:
        write = database.write

        def watched(work: Callable[[Any], Any], **options: Any) -> Any:
            def alive(connection: Any) -> Any:
                result = work(connection)
                self._need_life()
                return result

            result = write(alive, **options)
            self._committed()
            return result

        database.write = watched

    def _need_life(self) -> None:
        if self.is_killed:
            raise Crash("killed")

    def _committed(self) -> None:
        with self._lock:
            self._left -= 1
            is_here = self._left == 0
        self._look()
        if is_here:
            self._act()
