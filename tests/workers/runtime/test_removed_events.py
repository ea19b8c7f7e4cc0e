"""Followers of a store whose administrator deleted streams at or below a checkpoint: nothing is taken for another history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient
from adapters.log import Log
from domain.kernel.events import BEGINNING, Recorded
from domain.kernel.history import Fit, History
from domain.kernel.ports.event_store import CaughtUp
from tests.support.histories import RestorableNode, register, restorable
from tests.support.node.protos import StreamState
from tests.support.relaying import Checkpoints
from tests.support.waiting import DEADLINE_S, before, eventually
from workers.runtime.followers import CheckpointedFollowing, reached_with, resume

PROCESS = "bookkeeping"
Delete = Callable[[EventStoreDBClient, str], object]
DELETIONS: dict[str, Delete] = {
    "softly": lambda admin, stream: admin.delete_stream(
        stream, current_version=StreamState.ANY, timeout=DEADLINE_S
    ),
    "for good": lambda admin, stream: admin.tombstone_stream(
        stream, current_version=StreamState.ANY, timeout=DEADLINE_S
    ),
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[RestorableNode]:
    with restorable("node", tmp_path) as place:
        assert isinstance(place, RestorableNode)
        yield place


@pytest.fixture(params=DELETIONS.values(), ids=[*DELETIONS])
def delete_last(request: pytest.FixtureRequest, place: RestorableNode) -> Callable[[], None]:
    """Deletes the stream of the last event."""

    def delete_last() -> None:
        (*_, last) = place.store.read_all(BEGINNING, 10_000)
        with closing(EventStoreDBClient(place.node.url)) as admin:
            request.param(admin, last.stream)

    return delete_last


def follow_to_the_head(place: RestorableNode, history: History | None = None) -> tuple[list[UUID], History]:
    """The events after a history, and the history with them."""
    history, seen = history or History(), list[UUID]()
    for item in place.store.follow(history.position, stopped=before(DEADLINE_S)):
        history = reached_with(history, [item])
        if isinstance(item, CaughtUp):
            return seen, history
        seen.append(item.event_id)
    raise AssertionError("the head was not reached")


class Running:
    """A process that runs until it has seen an event, and saves its checkpoint after each step."""

    def __init__(self, place: RestorableNode, log: Log) -> None:
        self.seen: list[UUID] = []
        self.checkpoints = Checkpoints()
        self._last: UUID | None = None
        self._following = CheckpointedFollowing(
            PROCESS,
            store=place.store,
            checkpoints=self.checkpoints,
            log=log,
            monotonic_s=count(0.0, 1.1).__next__,
            batch_limit=20,
        )

    def until(self, last: UUID) -> None:
        self._last = last

    def __call__(self) -> None:
        is_late = before(DEADLINE_S)

        def is_over() -> bool:
            assert not is_late(), "the event was not seen"
            return self._last in self.seen

        def react(batch: Sequence[Recorded], reached: History) -> None:
            self.seen += [recorded.event_id for recorded in batch]

        self._following.run(react, is_over)


@pytest.mark.parametrize("is_scavenged", [False, True], ids=["kept", "scavenged"])
def test_the_last_event_may_be_deleted_while_the_workers_are_down(
    place: RestorableNode, log: Log, delete_last: Callable[[], None], is_scavenged: bool
) -> None:
    ids, checkpoints = register(place.store, 20), Checkpoints()
    seen, checkpoints.reached = follow_to_the_head(place)
    assert seen == ids
    delete_last()
    if is_scavenged:
        place.node.log.scavenge()

    found = resume(PROCESS, place.store, checkpoints, log, 0)
    seen, reached = follow_to_the_head(place, found)

    assert (found, checkpoints.moves) == (checkpoints.reached, [])
    assert seen == []
    assert reached.position >= found.position
    assert place.store.fit(found.marks[-1]) is (Fit.ABSENT if is_scavenged else Fit.SAME)
    new = register(place.store, 3)
    assert follow_to_the_head(place, found)[0] == new


def test_the_last_event_may_be_scavenged_while_the_workers_run(
    place: RestorableNode, log: Log, delete_last: Callable[[], None]
) -> None:
    process, ids = Running(place, log), register(place.store, 20)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(process)
        eventually(lambda: process.checkpoints.reached.marks or run.done(), "a checkpoint is saved")
        eventually(lambda: process.seen == ids or run.done(), "everything is seen")
        delete_last()
        place.node.log.scavenge()
        reads = place.node.calls["Read"]
        eventually(lambda: place.node.calls["Read"] > reads + 4 or run.done(), "the head is read")
        new = register(place.store, 3)
        process.until(new[-1])
        run.result(2 * DEADLINE_S)

    assert process.seen == [*ids, *new]
    assert all(move == "save" for move, _ in process.checkpoints.moves)


def test_a_checkpoint_at_a_tombstone_is_followed_from_there(
    place: RestorableNode, log: Log, delete_last: Callable[[], None]
) -> None:
    register(place.store, 5)
    delete_last()
    checkpoints = Checkpoints()
    _, checkpoints.reached = follow_to_the_head(place)
    place.node.log.scavenge()
    new = register(place.store, 3)

    found = resume(PROCESS, place.store, checkpoints, log, 0)

    assert checkpoints.moves == []
    assert follow_to_the_head(place, found)[0] == new
