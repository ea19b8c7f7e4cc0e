"""A system in the embedded profile in a throw-away home, its processes and files. All of it is removed at the end.

tests/support/guard.py removes it even if the benchmark is killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import apsw

from scripts.bench.cpu import Group, peak_mb, with_children
from tests.support.runs import ES
from tests.support.servers import Guarded
from tests.support.system import System, new_root
from tests.support.waiting import DEADLINE_S, eventually

FILES = ("events", "read", "vault")
_REBUILD_LIMIT_S = 1200.0


@contextmanager
def throw_away_home() -> Iterator[System]:
    """A running system. Only processes of this home are ended, and only its folder is removed."""
    root = new_root()
    system = System(root)
    with closing(Guarded(afterwards=[[ES, "down"]], environment=system.environment, folder=root)):
        try:
            system.up().ready()
            yield system
        finally:
            system.close()


def roles(system: System) -> dict[str, Group]:
    """The processes of each role, with those that they started, as they are now."""
    pids: dict[str, list[int]] = {}
    for worker in system.supervised():
        if worker["pid"]:
            pids.setdefault(worker["role"], []).append(int(worker["pid"]))
    groups = {role: with_children(found) for role, found in pids.items()}
    return {role: lambda found=found: found for role, found in groups.items()}  # type: ignore[misc]


def peaks_mb(system: System) -> dict[str, float]:
    """The greatest memory of each role so far."""
    return {role: sum(map(peak_mb, group())) for role, group in roles(system).items()}


def caught_up(system: System, *, within_s: float = DEADLINE_S) -> None:
    """Wait until all followers have read everything that is stored by now."""

    def is_caught_up() -> bool:
        status = system.status()
        projections, followers = status["projections"], status["followers"]
        # A follower that did not reply has no lag, and projections that did not reply are none.
        return bool(projections and followers) and all(
            each.get("lag") == 0 for each in (*projections, *followers)
        )

    eventually(is_caught_up, "the followers have caught up", within_s=within_s)


def rebuilt(system: System) -> tuple[int, float]:
    """Rebuild the projection `users`: the number of its events, and the seconds from its start to the switch."""
    before = system.generation()["generation"]
    system.es("projections", "rebuild", "users", deadline_s=_REBUILD_LIMIT_S).ok()
    current = system.generation()
    assert current["generation"] != before
    begun, finished = (
        datetime.fromisoformat(current[name].replace("Z", "+00:00")) for name in ("started_at", "finished_at")
    )
    return current["events"], (finished - begun).total_seconds()


def stored_bytes(system: System) -> dict[str, int]:
    """The bytes of each database file that are in use, with those that are still in its log."""
    return {name: used_bytes(system.home / f"{name}.db") for name in FILES}


def used_bytes(path: Path) -> int:
    if not path.exists():
        return 0
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        pages, free, size = (
            int(connection.pragma(name)) for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size
