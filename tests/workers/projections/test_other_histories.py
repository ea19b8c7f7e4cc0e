"""Projections that run as in a worker, over a store that was restored from an older copy, replaced or swapped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters import wiring
from adapters.log import Log
from adapters.settings import load_settings
from domain.kernel.errors import OtherHistory, StoreBehind
from domain.kernel.events import NO_STREAM
from domain.kernel.history import History
from domain.kernel.ports.event_store import Append, Appended
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel
from domain.kernel.projection import Projection
from domain.users.account import USER, UserRegistered
from domain.users.projection import USERS
from tests.support.builders import an_event
from tests.support.histories import Restorable, RestorableMemory, restorable
from tests.support.parts import before_call, replaced
from tests.support.waiting import DEADLINE_S, before, eventually
from workers.projections.filling import Filling
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuild, Rebuilds
from workers.runtime.followers import Follower

CURRENT, BUILDING = GenerationState.CURRENT, GenerationState.BUILDING
_SEALED = b'{"email":"es1:a","name":"es1:b"}'


class Users:
    """Registrations in a store, and the projection of them."""

    def __init__(self, place: Restorable, read_model: ReadModel, log: Log) -> None:
        self.place = place
        self.read_model = read_model
        self.log = log

    def register(self, ids: Sequence[int]) -> None:
        appends = [
            Append(USER.stream_of(id_), NO_STREAM, [an_event(UserRegistered.type, data=_SEALED)])
            for id_ in ids
        ]
        assert all(isinstance(result, Appended) for result in self.place.store.append(appends))

    def filling(self, **parts: Any) -> Filling:
        return Filling(
            USERS,
            **{"store": self.place.store, "read_model": self.read_model, **parts},
            codec=wiring.open_codec(()),
            now_us=lambda: 1,
            log=self.log,
        )

    def project(self) -> Projector:
        """Run a projector and what it requests until its rows are those of all events."""
        with self.projecting() as projector:
            head = self.place.store.head()
            eventually(lambda: projector.reached is not None and projector.reached >= head, "projected")
        return projector

    def projector(self, ensure_rebuild: Callable[[Projection], None] = lambda _: None) -> Projector:
        return Projector(self.filling(), ensure_rebuild)

    @contextmanager
    def projecting(self) -> Iterator[Projector]:
        stopping = threading.Event()
        rebuilds = Rebuilds(
            lambda _: Rebuild(self.filling()), stopping.is_set, log=self.log, now_us=lambda: 1
        )
        projector = self.projector(rebuilds.ensure)
        follower = Follower(
            "projector",
            projector.run,
            stopping=stopping,
            on_wait=lambda *_: None,
            on_work=lambda _: None,
            log=self.log,
        )
        try:
            yield projector
        finally:
            stopping.set()
            follower.join()
            rebuilds.join()
        assert follower.crashed is None

    def rows(self) -> set[int]:
        return {int(row["user_id"] or 0) for row in self.read_model.rows(USERS)}

    def generation(self, state: GenerationState) -> Generation:
        (found,) = [each for each in self.read_model.generations(USERS) if each.state is state]
        return found

    def rebuild(self, **parts: Any) -> Generation | None:
        return Rebuild(self.filling(**parts)).run(before(DEADLINE_S))


@pytest.fixture(params=["sqlite", "postgres"])
def read_models(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReadModel]:
    environment = {"ES_HOME": str(tmp_path)}
    if request.param == "postgres":
        environment["ES_DATABASE"] = request.getfixturevalue("postgres_url")
    with closing(wiring.open_read_model(load_settings(environment=environment))) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "node"])
def users(
    request: pytest.FixtureRequest, tmp_path: Path, read_models: ReadModel, log: Log
) -> Iterator[Users]:
    with restorable(request.param, tmp_path) as place:
        yield Users(place, read_models, log)


@pytest.fixture
def in_memory(read_model: ReadModel, log: Log) -> Users:
    return Users(RestorableMemory(), read_model, log)


# --- restored while no worker runs -----------------------------------------------------------


def test_a_store_that_grew_past_the_checkpoint_after_a_restore_shows_its_own_users(
    users: Users, log_text: Callable[[], str]
) -> None:
    kept, lost, meanwhile = range(1, 41), range(101, 141), range(1001, 1121)
    users.register(kept)
    restore = users.place.backup()
    users.register(lost)
    users.project()
    assert users.rows() == {*kept, *lost}
    restore()
    users.register(meanwhile)

    users.project()

    assert users.rows() == {*kept, *meanwhile}
    assert users.generation(CURRENT).number == 2
    assert log_text().count('"other-history"') == 1


def test_a_store_that_ends_before_the_checkpoint_shows_its_own_users(users: Users) -> None:
    users.register(range(1, 6))
    restore = users.place.backup()
    users.register(range(6, 11))
    users.project()
    restore()

    users.project()

    assert users.rows() == {*range(1, 6)}
    users.register([20])
    users.project()
    assert users.rows() == {*range(1, 6), 20}
    assert users.generation(CURRENT).number == 2, "rebuilt once"


def test_an_empty_store_in_the_place_of_another_shows_no_user(users: Users) -> None:
    users.register(range(1, 6))
    users.project()
    users.place.swap()

    users.project()

    assert users.rows() == set()


def test_the_same_store_after_a_restart_is_not_rebuilt(users: Users) -> None:
    for id_ in range(1, 8):
        users.register([id_])
        users.project()

    assert users.generation(CURRENT).number == 1
    assert users.rows() == {*range(1, 8)}


# --- restored while a projector runs ---------------------------------------------------------


def test_a_store_that_is_replaced_while_a_projector_runs_is_noticed(
    in_memory: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.followers._VERIFY_INTERVAL_S", 0.0)
    place = in_memory.place
    in_memory.register(range(1, 6))
    restore = place.backup()
    in_memory.register(range(6, 11))
    with in_memory.projecting() as projector:
        eventually(lambda: projector.reached == place.store.head(), "projected")
        restore()
        in_memory.register(range(20, 40))

        eventually(lambda: in_memory.rows() == {*range(1, 6), *range(20, 40)}, "rebuilt")


@pytest.mark.parametrize("new", [0, 20], ids=["shorter", "grown past the checkpoint"])
def test_rows_are_not_shown_from_the_moment_on_at_which_another_history_is_noticed(
    in_memory: Users, monkeypatch: pytest.MonkeyPatch, new: int
) -> None:
    monkeypatch.setattr("workers.runtime.followers._VERIFY_INTERVAL_S", 0.0)
    restore = in_memory.place.backup()
    in_memory.register(range(1, 6))
    projector = in_memory.projector()
    steps: list[Callable[[], None]] = [restore, lambda: in_memory.register(range(20, 20 + new))]

    def stopped() -> bool:
        """Replace the store once the projector has reached its head."""
        if steps and projector.reached == 5:
            steps.pop(0)()
        return False

    with pytest.raises((OtherHistory, StoreBehind)):
        projector.run(stopped)

    assert projector.reached is None


# --- unfinished rebuilds ---------------------------------------------------------------------


def test_an_unfinished_rebuild_of_a_lost_history_starts_over(users: Users) -> None:
    users.register(range(1, 6))
    restore = users.place.backup()
    users.register(range(6, 11))
    users.project()
    unpromoted = replaced(users.read_model, promote=lambda *_, **__: False)
    filled = before_call(unpromoted, "prepare", lambda: filled_up.append(1))
    filled_up: list[int] = []
    Rebuild(users.filling(read_model=filled)).run(lambda: bool(filled_up))
    assert users.generation(BUILDING).events == 10
    restore()
    users.register(range(30, 60))

    users.project()

    assert users.rows() == {*range(1, 6), *range(30, 60)}
    assert users.generation(CURRENT).number == 3


def test_a_store_that_changes_during_a_rebuild_begins_it_again(in_memory: Users, log: Log) -> None:
    in_memory.register(range(1, 6))
    restore = in_memory.place.backup()
    in_memory.register(range(6, 11))
    in_memory.project()

    def change() -> None:
        restore()
        in_memory.register(range(30, 60))

    # The head is asked for before the events are read: the rebuild has filled nothing or all of the lost history.
    changing = before_call(in_memory.read_model, "promote", change)
    rebuilds = Rebuilds(
        lambda _: Rebuild(in_memory.filling(read_model=changing)),
        before(DEADLINE_S),
        log=log,
        now_us=lambda: 1,
    )
    rebuilds.ensure(USERS)
    rebuilds.join()
    in_memory.project()

    assert in_memory.rows() == {*range(1, 6), *range(30, 60)}


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_of_an_earlier_version_is_trusted_if_the_store_goes_as_far(users: Users) -> None:
    users.register(range(1, 6))
    users.project()
    current = users.generation(CURRENT)
    reached = users.read_model.apply(USERS, current, [], reached=History(current.checkpoint), events=0)
    assert reached is not None
    assert not reached.marks

    users.register([6])
    users.project()

    assert users.generation(CURRENT).number == 1
    assert users.generation(CURRENT).marks, "it has marks from now on"


def test_a_projector_saves_marks_of_events_that_it_read(users: Users) -> None:
    for id_ in range(1, 20):
        users.register([id_])
        users.project()

    stored = {(event.position, event.event_id) for event in users.place.store.read_all(0, 100)}
    marks = users.generation(CURRENT).history.marks
    assert {(mark.position, mark.event_id) for mark in marks} <= stored
    assert len(marks) > 3
