"""No command, query or poll costs more because the store is larger: SQLite does the same work for each.

It is counted and not timed: statements, steps of SQLite's virtual machine, rows of full scans and pages written.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from adapters.clock import now_us
from adapters.crypto.bucket_keys import TAG_BUCKETS
from adapters.log import Log
from adapters.sqlite.read_model import SqliteReadModel
from adapters.sqlite.vault import PAGE_BYTES
from domain.kernel.history import History
from domain.kernel.projection import Put
from domain.kernel.uuid7 import Uuid7s
from domain.users.projection import USERS
from tests.support.accounts import change, create, delete, rename
from tests.support.meters import Cost, Meter, metering
from tests.support.port_calls import fill_event_store, fill_vault
from tests.support.read_side import ReadSide
from tests.support.vaults import destroy

SMALL, LARGE = 1_000, 30_000

_EVENT_PAGE_BYTES = 4096
_MARGIN_STEPS = 1.1
_MARGIN_STATEMENTS = 1
"""A key of a bucket is read unless it is cached."""
_MARGIN_PAGES = {"events.db": 8, "read.db": 8, "vault.db": 32}
"""A page is divided now and then, at each level of a tree: in the vault more of them, since its pages are small."""


class Filled(ReadSide):
    """Accounts beside many other rows in each table."""

    def __init__(self, folder: Path, read_model: SqliteReadModel, log: Log, rows: int) -> None:
        super().__init__(folder, read_model, log)
        fill_event_store(self.store, rows, kind="thing")
        fill_vault(self.vault, rows)
        new = {name: "x" * 100 if kind == "TEXT" else 1 for name, kind in USERS.columns.items()}
        puts = [Put(number, new) for number in range(1, rows)]
        assert read_model.apply(USERS, self.prepare(), puts, reached=History(rows), events=rows)
        self._new_ids = itertools.count(1_000_000)

    def take_ids(self, count: int) -> Sequence[int]:
        return [next(self._new_ids) for _ in range(count)]

    def work(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Commands, queries and polls by name. Everything was done once before, so that all is open and cached."""
        for times in itertools.count():
            user_id = self.a_user(f"user-{times}@example.org")
            self.project()
            done: dict[str, Callable[[], object]] = {
                "create": partial(self.done, create(f"new-{times}@example.org")),
                "rename": partial(self.done, rename(user_id, f"Name {times}")),
                "change": partial(self.done, change(user_id, f"other-{times}@example.org")),
                "project": self.project,
                "get": partial(self.answer, "users.get", user_id=str(user_id)),
                "list": partial(self.answer, "users.list", after="5", limit=100),
                "list deleted": partial(self.answer, "users.list", status="deleted", limit=100),
                "delete": partial(self.done, delete(user_id)),
                "janitor": self.run_the_janitor,
            }
            yield from done.items()


@contextmanager
def filled(folder: Path, log: Log, rows: int) -> Iterator[tuple[Filled, Meter]]:
    folder.mkdir()
    with (
        metering() as meter,
        closing(SqliteReadModel(folder / "read.db")) as read_model,
        closing(Filled(folder, read_model, log, rows)) as system,
    ):
        yield system, meter


def costs(folder: Path, log: Log, rows: int) -> dict[str, Cost]:
    """What each piece of work costs the second time."""
    with filled(folder, log, rows) as (system, meter):
        found: dict[str, Cost] = {}
        for name, work in itertools.islice(system.work(), 18):
            found[name] = meter.cost(work)
        return found


def test_no_work_costs_more_in_a_larger_store(tmp_path: Path, log: Log) -> None:
    small, large = (costs(tmp_path / str(rows), log, rows) for rows in (SMALL, LARGE))

    assert small.keys() == large.keys()
    for name, cost in large.items():
        before = small[name]
        assert cost.statements <= before.statements + _MARGIN_STATEMENTS, f"{name}: {before} became {cost}"
        assert cost.steps <= before.steps * _MARGIN_STEPS, f"{name}: {before} became {cost}"
        assert cost.rows == before.rows, name
        for file, pages in cost.pages.items():
            assert pages <= before.pages[file] + _MARGIN_PAGES[file], f"{name}: {before} became {cost}"


def test_a_batch_writes_its_keys_side_by_side(tmp_path: Path, log: Log) -> None:
    """Of a registration only the tag of the address is random, and dirties a page of its own in a large store."""
    count, event_size, vault_size = 200, 700, 300
    with filled(tmp_path / "large", log, LARGE) as (system, meter):
        new_id = Uuid7s(now_us, os.urandom)
        requests = [create(f"batch-{number}@example.org", new_id()) for number in range(count)]

        cost = meter.cost(lambda: system.service(new_id=new_id).handle(requests))

    assert cost.pages["events.db"] <= count * event_size // _EVENT_PAGE_BYTES + 3 * _MARGIN_PAGES["events.db"]
    tags = 3 * count  # one page for each, and its neighbours if it is full
    assert cost.pages["vault.db"] <= tags + count * vault_size // PAGE_BYTES + 3 * _MARGIN_PAGES["vault.db"]


def test_an_erasure_writes_its_buckets_and_not_the_vault(tmp_path: Path, log: Log) -> None:
    """The addresses share a fixed number of buckets: one has a few more of them in a large store."""
    found = []
    for rows in (SMALL, LARGE):
        with filled(tmp_path / str(rows), log, rows) as (system, meter):
            for number in range(2):  # the first time it opens and caches
                user_id = system.a_user(f"gone-{number}@example.org")
                destroy(system.vault, user_id)
                cost = meter.cost(partial(system.vault.remove_residue, [user_id]))
            found.append(cost)

    small, large = found
    assert large.rows == small.rows
    of_one_bucket = LARGE // TAG_BUCKETS + 1
    assert large.pages["vault.db"] <= small.pages["vault.db"] + 2 * of_one_bucket + _MARGIN_PAGES["vault.db"]
