"""The benchmark of rebuilds: it runs, and measures both sides over all events."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path

from adapters.sqlite.event_store import SqliteStore
from domain.users.account import UserRegistered, UserRenamed
from scripts.bench.rebuild import append, appends_of_users, measure


def test_a_rebuild_and_a_bare_loop_are_measured() -> None:
    figures = measure(2_000, 1)

    assert set(figures) == {"bare loop", "rebuild", "peak MB"}
    assert all(figure > 0 for figure in figures.values())


def test_every_generated_event_is_stored_also_in_two_parts(tmp_path: Path) -> None:
    appends = appends_of_users(2_000)
    with closing(SqliteStore(tmp_path / "events.db")) as store:
        append(store, islice(appends, 500))
        append(store, appends)
        stored = Counter(recorded.type for recorded in store.read_all(0, 3_000))

    assert stored.total() == 2_000
    assert 100 < stored[UserRenamed.type] < 300
    assert stored[UserRegistered.type] == 2_000 - stored[UserRenamed.type]
