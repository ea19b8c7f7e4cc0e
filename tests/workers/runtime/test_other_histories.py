"""Followers of a store that was restored from an older copy, or replaced: no event is passed over."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from adapters.log import Log
from adapters.sqlite.vault import SqliteVault
from domain.kernel.errors import OtherHistory, PartUnavailable, StoreBehind
from domain.kernel.events import BEGINNING, Recorded
from domain.kernel.history import Fit, History, Mark
from tests.support.histories import Restorable, RestorableMemory, RestorableNode, register, restorable
from tests.support.relaying import Checkpoints
from tests.support.vaults import KEK
from tests.support.waiting import DEADLINE_S, before, eventually
from workers.runtime.followers import CheckpointedFollowing, resume

STORES = ["sqlite", "node"]


class Process:
    """A process over a store. A run of it stops at the head."""

    def __init__(self, place: Restorable, log: Log, **options: Any) -> None:
        self.checkpoints = Checkpoints()
        self.seen: list[UUID] = []
        self._place = place
        self._log = log
        self._options = options

    def run(self, stopped: Callable[[], bool] | None = None) -> list[UUID]:
        """Run to the head, or until `stopped()`; return the ids of the events that it saw."""
        store, at_head, is_late, first = (
            self._place.store,
            threading.Event(),
            before(DEADLINE_S),
            len(self.seen),
        )
        following = CheckpointedFollowing(
            "bookkeeping",
            store=store,
            log=self._log,
            **{
                "checkpoints": self.checkpoints,
                "batch_limit": 20,
                "monotonic_s": repeat(0.0).__next__,
                **self._options,
            },
        )

        def is_over() -> bool:
            assert not is_late(), "the head was not reached"
            return at_head.is_set() if stopped is None else stopped()

        def after_each() -> None:
            if following.reached == store.head():
                at_head.set()

        following.run(self._react, is_over, after_each=after_each)
        return self.seen[first:]

    def _react(self, batch: Sequence[Recorded], reached: History) -> None:
        assert reached.position >= batch[-1].position
        self.seen += [recorded.event_id for recorded in batch]


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Restorable]:
    with restorable(request.param, tmp_path) as place:
        yield place


@pytest.fixture
def node_place(tmp_path: Path) -> Iterator[RestorableNode]:
    with restorable("node", tmp_path) as place:
        assert isinstance(place, RestorableNode)
        yield place


@pytest.fixture
def memory() -> RestorableMemory:
    return RestorableMemory()


def moves_of(log_file: Path) -> list[tuple[int, int]]:
    """`seen` and `back_to` of each time a follower went back."""
    lines = map(json.loads, log_file.read_text().splitlines()) if log_file.exists() else []
    return [(line["seen"], line["back_to"]) for line in lines if line.get("action") == "other-history"]


# --- while the workers are down --------------------------------------------------------------


def test_no_user_registered_after_a_restore_is_lost(place: Restorable, log: Log, log_file: Path) -> None:
    process = Process(place, log)
    register(place.store, 200)
    restore = place.backup()
    register(place.store, 100)
    assert len(process.run()) == 300
    seen = process.checkpoints.position

    restore()
    shared = place.store.head()
    new = register(place.store, 300)

    assert place.store.head() > seen, "the store has grown past the checkpoint"
    again = process.run()
    assert again[-300:] == new
    assert len(again) < 500, "it does not start at the beginning"
    ((logged, back_to),) = moves_of(log_file)
    assert logged == seen
    assert BEGINNING < back_to <= shared


def test_a_store_that_is_behind_after_a_restore_is_followed_from_there(place: Restorable, log: Log) -> None:
    process = Process(place, log)
    register(place.store, 50)
    restore = place.backup()
    register(place.store, 50)
    process.run()

    restore()
    process.run()
    new = register(place.store, 3)

    assert process.run() == new


def test_every_event_of_another_store_is_seen(place: Restorable, log: Log, log_file: Path) -> None:
    process = Process(place, log)
    register(place.store, 30)
    process.run()

    place.swap()
    new = register(place.store, 60)

    assert process.run() == new
    assert [back_to for _, back_to in moves_of(log_file)] == [BEGINNING]


def test_a_second_restore_is_noticed_like_the_first(place: Restorable, log: Log) -> None:
    process = Process(place, log)
    register(place.store, 20)
    first = place.backup()
    second = place.backup()
    for restore in (first, second):
        register(place.store, 20)
        process.run()
        restore()
        new = register(place.store, 30)
        assert process.run()[-30:] == new


def test_an_unchanged_store_is_followed_from_the_checkpoint(
    place: Restorable, log: Log, log_file: Path
) -> None:
    process = Process(place, log)
    register(place.store, 100)
    process.run()

    new = register(place.store, 10)

    assert process.run() == new
    assert moves_of(log_file) == []


def test_a_scavenged_mark_proves_nothing(node_place: RestorableNode, log: Log, log_file: Path) -> None:
    process = Process(node_place, log)
    register(node_place.store, 20)
    process.run()
    new = register(node_place.store, 5)
    last = process.checkpoints.reached.marks[-1]
    (stream,) = {e.stream for e in node_place.store.read_all(BEGINNING, 100) if e.event_id == last.event_id}
    node_place.node.log.delete(stream, 0)
    node_place.node.log.scavenge()

    assert node_place.store.fit(last) is Fit.ABSENT
    assert process.run() == new
    assert moves_of(log_file) == []


# --- checkpoints of an earlier version -------------------------------------------------------


def test_a_checkpoint_without_marks_is_trusted_and_gets_marks(place: Restorable, log: Log) -> None:
    process = Process(place, log)
    ids = register(place.store, 10)
    fifth = [event.position for event in place.store.read_all(BEGINNING, 5)][-1]
    process.checkpoints.reached = History(fifth)

    assert process.run() == ids[5:]
    assert process.checkpoints.reached.marks


def test_a_checkpoint_without_marks_at_the_head_gets_the_mark_of_the_head(
    place: Restorable, log: Log
) -> None:
    process = Process(place, log)
    ids = register(place.store, 3)
    head = place.store.head()
    process.checkpoints.reached = History(head)

    assert process.run() == []
    assert process.checkpoints.reached == History(head, (Mark(head, ids[-1]),))


def test_a_checkpoint_without_marks_after_the_head_starts_at_the_beginning(
    place: Restorable, log: Log
) -> None:
    process = Process(place, log)
    ids = register(place.store, 3)
    process.checkpoints.reached = History(place.store.head() + 100)

    assert process.run() == ids


# --- while the workers run -------------------------------------------------------------------


def end_of_a_run(process: Process, change: Callable[[], object]) -> None:
    """Change the store below a run that has reached the head. Raises the error that ends the run."""
    is_late = before(DEADLINE_S)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(process.run, is_late)
        eventually(lambda: process.checkpoints.position > BEGINNING, "it has saved a checkpoint")
        change()
        run.result(2 * DEADLINE_S)


def test_a_store_that_is_replaced_below_a_follower_ends_its_run(memory: RestorableMemory, log: Log) -> None:
    clock_s = 0.0
    process = Process(memory, log, monotonic_s=lambda: clock_s)
    register(memory.store, 10)
    process.run()
    new: list[UUID] = []

    def replace() -> None:
        nonlocal clock_s
        other = RestorableMemory().store
        new.extend(register(other, 40))
        memory.replace(other)
        eventually(lambda: process.seen[-1] == new[-1], "it follows the other store")
        clock_s = 6.0

    with pytest.raises(OtherHistory):
        end_of_a_run(process, replace)

    assert process.run() == new


def test_another_event_at_the_head_ends_the_run_at_once(memory: RestorableMemory, log: Log) -> None:
    process = Process(memory, log, monotonic_s=chain([0.0], repeat(2.0)).__next__)
    register(memory.store, 10)

    def replace() -> None:
        other = RestorableMemory().store
        register(other, 10)
        memory.replace(other)

    with pytest.raises(OtherHistory):
        end_of_a_run(process, replace)


def test_a_store_behind_ends_the_run_and_the_next_one_goes_on(memory: RestorableMemory, log: Log) -> None:
    process = Process(memory, log, monotonic_s=count(0.0, 1.1).__next__)
    register(memory.store, 4)
    restore = memory.backup()
    register(memory.store, 6)

    with pytest.raises(StoreBehind):
        end_of_a_run(process, restore)

    process.run()
    new = register(memory.store, 2)
    assert process.run() == new


def test_a_restart_of_the_server_with_an_older_copy_is_noticed_after_the_reconnect(
    node_place: RestorableNode, log: Log
) -> None:
    process = Process(node_place, log, monotonic_s=count(0.0, 1.1).__next__)
    register(node_place.store, 30)
    restore = node_place.backup()
    register(node_place.store, 10)
    new: list[UUID] = []

    def replace() -> None:
        restore()
        new.extend(register(node_place.store, 30))

    with pytest.raises((PartUnavailable, StoreBehind, OtherHistory)):
        end_of_a_run(process, replace)

    assert process.run()[-30:] == new


@pytest.mark.parametrize("change", ["restored", "swapped"])
def test_a_server_that_goes_on_with_another_history_loses_no_event(
    node_place: RestorableNode, log: Log, change: str
) -> None:
    """It has grown past everything that was seen before the follower is back."""
    process = Process(node_place, log, monotonic_s=count(0.0, 1.1).__next__)
    register(node_place.store, 30)
    restore = node_place.backup() if change == "restored" else node_place.swap
    register(node_place.store, 10)
    new: list[UUID] = []

    def replace() -> None:
        before_it = node_place.store.head()
        restore()
        while node_place.store.head() <= before_it:
            new.extend(register(node_place.store, 50))

    with pytest.raises((PartUnavailable, StoreBehind, OtherHistory)):
        end_of_a_run(process, replace)

    assert process.run()[-50:] == new[-50:]
    assert {*new} <= {*process.seen}


# --- resume ----------------------------------------------------------------------------------


def test_resume_moves_the_checkpoint_back_and_never_forwards(place: Restorable, log: Log) -> None:
    ids, checkpoints = register(place.store, 3), Checkpoints()
    events = list(place.store.read_all(BEGINNING, 3))
    checkpoints.reached = History().reach(Mark(events[0].position, ids[0]))
    checkpoints.reached = checkpoints.reached.reach(Mark(events[2].position, UUID(int=0)))

    found = resume("bookkeeping", place.store, checkpoints, log, 0)

    assert found == checkpoints.reached == History().reach(Mark(events[0].position, ids[0]))
    assert checkpoints.moves == [("rewind", events[0].position)]


def test_the_vault_keeps_that_a_process_went_back(place: Restorable, log: Log, tmp_path: Path) -> None:
    with closing(SqliteVault(tmp_path / "vault.db", kek=KEK)) as vault:
        process = Process(place, log, checkpoints=vault)
        register(place.store, 30)
        restore = place.backup()
        register(place.store, 10)
        process.run()
        seen = vault.checkpoint("bookkeeping")

        restore()
        new = register(place.store, 20)

        assert process.run()[-20:] == new
        (kept,) = vault.divergences()
        assert (kept.process, kept.seen) == ("bookkeeping", seen.position)
        assert kept.back_to < seen.position
        assert vault.checkpoint("bookkeeping").marks[-1].event_id == new[-1]
