"""Projector and rebuild over real stores: every event once, poison parked, readers never see less."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.log import Log, open_log
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.errors import PartUnavailable
from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.ports.event_store import Append, Appended
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel
from domain.kernel.projection import Value
from domain.users.account import USER, UserRegistered
from domain.users.projection import Users
from tests.support.builders import a_stream, append, some_events
from tests.support.waiting import DEADLINE_S, eventually
from tests.workers.users.test_users_service import (
    ADA,
    ALAN,
    GRACE,
    Hooked,
    People,
    change,
    create,
    delete,
    erase,
    rename,
)
from workers.projections.filling import Filling
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuild, Rebuilds, unfinished

USERS = Users()


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    with closing(People(tmp_path / "people", store=SqliteStore(tmp_path / "events.db"))) as opened:
        yield opened


@pytest.fixture
def read_model(tmp_path: Path) -> Iterator[SqliteReadModel]:
    with closing(SqliteReadModel(tmp_path / "read.db")) as opened:
        yield opened


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(f"projector-{tmp_path.name}", tmp_path / "log" / "projector.log")


@pytest.fixture
def log_text(tmp_path: Path) -> Callable[[], str]:
    return lambda: (tmp_path / "log" / "projector.log").read_text()


class Running:
    """Projectors in threads, stopped together."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self.stopping = threading.Event()
        self.ended: list[Future[None]] = []

    def start(self, projector: Projector) -> Projector:
        self.ended.append(self._pool.submit(projector.run, self.stopping.is_set))
        return projector

    def stop(self) -> None:
        self.stopping.set()
        for ended in self.ended:
            ended.result(DEADLINE_S)


@pytest.fixture
def running() -> Iterator[Running]:
    with ThreadPoolExecutor(4) as pool:
        running = Running(pool)
        yield running
        running.stop()


def parts_of(people: People, model: ReadModel, log: Log, *, store: Any = None) -> Filling:
    return Filling(
        USERS,
        store=store or people.store,
        codec=people.codec,
        read_model=model,
        now_us=lambda: people.now_us,
        log=log,
    )


def a_projector(people: People, model: ReadModel, log: Log, *, store: Any = None) -> Projector:
    return Projector(parts_of(people, model, log, store=store))


def a_rebuild(people: People, model: ReadModel, log: Log, *, store: Any = None) -> Rebuild:
    return Rebuild(parts_of(people, model, log, store=store))


def project_all(people: People, model: ReadModel, log: Log) -> None:
    """Run a projector until it has seen everything."""
    projector = a_projector(people, model, log)
    head = people.store.head()
    projector.run(lambda: projector.reached >= head)


def rows(model: ReadModel) -> dict[int, dict[str, Value]]:
    return {int(row["user_id"] or 0): row for row in model.rows(USERS)}


def a_busy_history(people: People) -> list[int]:
    """Some people, with every kind of event and other streams between."""
    ids = [people.a_user(email) for email in (ADA, GRACE, ALAN)]
    append(people.store, a_stream(), NO_STREAM, some_events(3))
    people.handle(
        rename(ids[0], "Countess"),
        change(ids[1], "new@example.com"),
        delete(ids[1]),
        erase(ids[2]),
        rename(ids[0]),
    )
    append(people.store, a_stream(), NO_STREAM, some_events(3))
    return ids


def poison(people: People, user_id: int, *, type_: str = "user-exploded.v9", data: bytes = b"{}") -> None:
    version = len(list(people.store.read_stream(USER.stream_of(user_id)))) - 1
    result = append(people.store, USER.stream_of(user_id), version, [EventData(uuid4(), type_, data, b"{}")])
    assert isinstance(result, Appended)


# --- the projector ---------------------------------------------------------------------------


def test_every_event_is_in_the_rows(people: People, read_model: SqliteReadModel, log: Log) -> None:
    ada, grace, alan = a_busy_history(people)

    project_all(people, read_model, log)

    shown = rows(read_model)
    assert [(shown[id_]["status"], shown[id_]["version"]) for id_ in (ada, grace, alan)] == [
        ("active", 2),
        ("deleted", 2),
        ("erased", 1),
    ]
    assert (shown[alan]["email"], shown[alan]["name"]) == (None, None)
    assert str(shown[ada]["email"]).startswith(f"es1:{ada}:"), "sealed, as it came"
    (generation,) = read_model.generations(USERS)
    assert generation.events == sum(len(list(people.store.read_stream(USER.stream_of(id_)))) for id_ in shown)


def test_what_is_appended_is_in_the_rows_soon(
    people: People, read_model: SqliteReadModel, log: Log, running: Running
) -> None:
    projector = running.start(a_projector(people, read_model, log))
    for number in range(20):
        reply = people.done(create(f"user{number}@example.com"))
        eventually(lambda: projector.reached >= reply["position"], "projected")  # noqa: B023
        assert int(reply["user_id"]) in rows(read_model)


def test_a_projector_that_is_stopped_goes_on_where_it_was(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    for round_ in range(3):
        a_busy_history_of(people, round_)
        project_all(people, read_model, log)

    (generation,) = read_model.generations(USERS)
    assert generation.events == 9, "each event once"
    assert {row["version"] for row in rows(read_model).values()} == {2}


def a_busy_history_of(people: People, round_: int) -> None:
    user_id = people.a_user(f"user{round_}@example.com")
    people.handle(rename(user_id, "One"), rename(user_id, "Two"))


def test_two_projectors_apply_every_event_once(
    people: People, read_model: SqliteReadModel, log: Log, running: Running
) -> None:
    projectors = [running.start(a_projector(people, read_model, log)) for _ in range(2)]
    replies = [people.done(create(f"user{number}@example.com")) for number in range(60)]
    last = replies[-1]["position"]

    eventually(lambda: all(projector.reached >= last for projector in projectors), "both are there")

    (generation,) = read_model.generations(USERS)
    assert generation.events == 60
    assert len(rows(read_model)) == 60


def test_how_far_a_projector_is_is_never_said_too_early(
    people: People, read_model: SqliteReadModel, log: Log, running: Running
) -> None:
    read_model.prepare(USERS, now_us=0)
    projector = running.start(a_projector(people, read_model, log))
    for number in range(200):
        people.done(create(f"user{number}@example.com"))
        reached = projector.reached
        registered = [r for r in people.store.read_all(0, 1000) if r.position <= reached]
        assert len(rows(read_model)) >= len(registered)


def test_an_outage_of_the_store_is_raised_and_nothing_is_skipped(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    a_busy_history(people)

    class Cut:
        """Ends with an error after two events."""

        def follow(self, *args: Any, **more: Any) -> Iterator[Any]:
            for number, item in enumerate(people.store.follow(*args, **more)):
                if number == 2:
                    raise PartUnavailable("event store", "the connection was lost")
                yield item

    with pytest.raises(PartUnavailable):
        a_projector(people, read_model, log, store=Cut()).run(lambda: False)

    project_all(people, read_model, log)
    assert len(rows(read_model)) == 3
    assert read_model.generations(USERS)[0].events == 8


def test_an_outage_of_the_read_model_is_raised_and_nothing_is_skipped(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    a_busy_history(people)

    class Full:
        def apply(self, *args: Any, **more: Any) -> Any:
            raise PartUnavailable("read models", "the disk is full")

        def __getattr__(self, name: str) -> Any:
            return getattr(read_model, name)

    projector = a_projector(people, Full(), log)  # type: ignore[arg-type]
    with pytest.raises(PartUnavailable):
        projector.run(lambda: False)
    assert projector.reached == 0

    project_all(people, read_model, log)
    assert len(rows(read_model)) == 3


# --- poison ----------------------------------------------------------------------------------


def test_poison_parks_its_own_stream_only(
    people: People, read_model: SqliteReadModel, log: Log, log_text: Callable[[], str]
) -> None:
    bad, good = people.a_user(ADA), people.a_user(GRACE)
    poison(people, bad)
    people.done(rename(good, "Still here"))
    append(people.store, USER.stream_of(bad), 1, [EventData(uuid4(), "user-deleted.v1", b"{}", b"{}")])
    people.done(delete(good))

    project_all(people, read_model, log)

    shown = rows(read_model)
    assert (shown[bad]["status"], shown[bad]["version"]) == ("active", 0)
    assert (shown[good]["status"], shown[good]["version"]) == ("deleted", 2)
    (generation,) = read_model.generations(USERS)
    parked = read_model.parked(USERS, generation)
    assert [(item.stream, item.error) for item in parked] == [
        (USER.stream_of(bad), "unknown event type 'user-exploded.v9'"),
        (USER.stream_of(bad), "behind a parked event"),
    ]
    assert log_text().count("event-parked") == 2


def test_what_comes_behind_a_parked_event_is_parked_after_a_restart_too(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    bad = people.a_user(ADA)
    poison(people, bad)
    project_all(people, read_model, log)
    append(people.store, USER.stream_of(bad), 1, [EventData(uuid4(), "user-deleted.v1", b"{}", b"{}")])

    project_all(people, read_model, log)

    (generation,) = read_model.generations(USERS)
    assert len(read_model.parked(USERS, generation)) == 2
    assert rows(read_model)[bad]["status"] == "active"


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        ("user-7", b'{"email":["es1:a"],"name":"es1:b"}'),
        ("user-7", b'{"email":"\\ud800","name":"es1:b"}'),
        ("user-7", b'{"email":' + b"9" * 400 + b',"name":"es1:b"}'),
        ("user-7", b'{"email":' + b"[" * 5000 + b"]" * 5000 + b',"name":"es1:b"}'),
        (f"user-{1 << 70}", b'{"email":"es1:a","name":"es1:b"}'),
        ("user-seven", b'{"email":"es1:a","name":"es1:b"}'),
    ],
    ids=["a list", "a lone surrogate", "a huge number", "deep nesting", "a huge id", "no id"],
)
def test_no_event_whatever_it_holds_stops_the_projection_of_others(
    people: People, read_model: SqliteReadModel, log: Log, stream: str, data: bytes
) -> None:
    events = [EventData(uuid4(), UserRegistered.type, data, b"{}")]
    assert isinstance(append(people.store, stream, NO_STREAM, events), Appended)
    good = people.a_user(ADA)

    project_all(people, read_model, log)

    assert list(rows(read_model)) == [good]
    (generation,) = read_model.generations(USERS)
    assert [item.stream for item in read_model.parked(USERS, generation)] == [stream]


def test_what_is_sealed_in_the_log_and_the_parked_reasons_stays_hidden(
    people: People, read_model: SqliteReadModel, log: Log, log_text: Callable[[], str]
) -> None:
    bad = people.a_user("canary-5f1d@example.com")
    poison(people, bad, type_="user-renamed.v1", data=b'{"name":"x","canary-77aa":1}')

    project_all(people, read_model, log)

    (generation,) = read_model.generations(USERS)
    assert len(read_model.parked(USERS, generation)) == 1
    assert "canary" not in log_text() + str(read_model.parked(USERS, generation))


# --- rebuild ---------------------------------------------------------------------------------


def test_a_rebuild_makes_the_same_rows_in_a_new_generation(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    a_busy_history(people)
    project_all(people, read_model, log)
    before = rows(read_model)

    built = a_rebuild(people, read_model, log).run(lambda: False)

    assert built is not None
    assert (built.number, built.events) == (2, 8)
    assert rows(read_model) == before
    states = [(g.number, g.state) for g in read_model.generations(USERS)]
    assert states == [(1, GenerationState.RETIRED), (2, GenerationState.CURRENT)]


def test_a_rebuild_mends_rows_that_were_wrong(people: People, read_model: SqliteReadModel, log: Log) -> None:
    ada, *_ = a_busy_history(people)
    project_all(people, read_model, log)
    before = rows(read_model)
    with read_model._database.writing() as connection:
        connection.execute("UPDATE users_g1 SET version = 99 WHERE user_id = ?", (ada,))

    assert a_rebuild(people, read_model, log).run(lambda: False) is not None

    assert rows(read_model) == before


def test_a_projector_goes_over_to_the_generation_that_was_promoted(
    people: People, read_model: SqliteReadModel, log: Log, running: Running
) -> None:
    a_busy_history(people)
    projector = running.start(a_projector(people, read_model, log))
    eventually(lambda: projector.reached >= people.store.head(), "projected")

    assert a_rebuild(people, read_model, log).run(lambda: False) is not None
    reply = people.done(create("late@example.com"))
    eventually(lambda: projector.reached >= reply["position"], "projected into the new one")

    assert int(reply["user_id"]) in rows(read_model)
    retired, current = read_model.generations(USERS)
    assert (retired.state, retired.events) == (GenerationState.RETIRED, 8)
    assert (current.state, current.events) == (GenerationState.CURRENT, 9)


def test_a_rebuild_while_people_register_misses_nobody_and_readers_never_see_less(
    people: People, read_model: SqliteReadModel, log: Log, running: Running
) -> None:
    projector = running.start(a_projector(people, read_model, log))
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(len(read_model.rows(USERS)))

    a_busy_history(people)
    eventually(lambda: projector.reached >= people.store.head(), "projected")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            for round_ in range(4):
                for number in range(10):
                    people.done(create(f"user{round_}-{number}@example.com"))
                assert a_rebuild(people, read_model, log).run(lambda: False) is not None
        finally:
            done.set()
        reading.result(DEADLINE_S)
    eventually(lambda: projector.reached >= people.store.head(), "projected")

    assert seen == sorted(seen), "never less"
    assert seen[0] >= 3
    assert len(rows(read_model)) == 43
    assert read_model.generations(USERS)[-1].number == 5


def test_a_rebuild_that_was_cut_off_is_resumed_where_it_was(
    people: People, read_model: SqliteReadModel, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.rebuild.REBUILD_BATCH", 3)
    a_busy_history(people)
    project_all(people, read_model, log)
    before = rows(read_model)
    looks = iter([False, True])

    assert a_rebuild(people, read_model, log).run(lambda: next(looks)) is None

    (half,) = [g for g in read_model.generations(USERS) if g.state is GenerationState.BUILDING]
    assert half.events == 3
    assert rows(read_model) == before, "readers see the old one"
    assert unfinished(read_model, [USERS]) == [USERS]
    read_from: list[int] = []

    class Watched:
        def read_all(self, after: int, *args: Any, **more: Any) -> Iterator[Any]:
            read_from.append(after)
            return people.store.read_all(after, *args, **more)

        def __getattr__(self, name: str) -> Any:
            return getattr(people.store, name)

    built = a_rebuild(people, read_model, log, store=Watched()).run(lambda: False)

    assert built is not None
    assert (built.number, built.events) == (half.number, 8)
    assert read_from[0] == half.checkpoint, "not from the beginning"
    assert rows(read_model) == before
    assert unfinished(read_model, [USERS]) == []


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9])
def test_a_rebuild_is_whole_whatever_its_batches(
    people: People, read_model: SqliteReadModel, log: Log, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("workers.projections.rebuild.REBUILD_BATCH", size)
    a_busy_history(people)
    project_all(people, read_model, log)
    before = rows(read_model)

    built = a_rebuild(people, read_model, log).run(lambda: False)

    assert built is not None
    assert built.events == 8
    assert rows(read_model) == before


def test_events_that_come_during_a_rebuild_are_in_it(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    a_busy_history(people)
    read_model.prepare(USERS, now_us=0)
    late: list[int] = []

    class Busy:
        """Somebody registers between every two looks, a few times."""

        def read_all(self, *args: Any, **more: Any) -> Iterator[Any]:
            found = list(people.store.read_all(*args, **more))
            if len(late) < 5:
                late.append(people.a_user(f"late{len(late)}@example.com"))
            return iter(found)

        def __getattr__(self, name: str) -> Any:
            return getattr(people.store, name)

    assert a_rebuild(people, read_model, log, store=Busy()).run(lambda: False) is not None
    project_all(people, read_model, log)

    assert set(late) <= set(rows(read_model))
    assert read_model.generations(USERS)[-1].events == 8 + len(late)


def test_two_rebuilds_at_once_end_in_one_new_generation(
    people: People, read_model: SqliteReadModel, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.rebuild.REBUILD_BATCH", 2)
    a_busy_history(people)
    project_all(people, read_model, log)
    before = rows(read_model)
    starting = threading.Barrier(2)

    def rebuild(_: int) -> Generation | None:
        starting.wait(DEADLINE_S)
        return a_rebuild(people, read_model, log).run(lambda: False)

    with ThreadPoolExecutor(2) as pool:
        built = [generation for generation in pool.map(rebuild, range(2)) if generation is not None]

    assert len(built) >= 1
    assert rows(read_model) == before
    assert {g.state for g in read_model.generations(USERS)} == {
        GenerationState.RETIRED,
        GenerationState.CURRENT,
    }
    assert read_model.generations(USERS)[-1].events == 8, "no event twice"


def test_a_rebuild_parks_what_it_cannot_apply_and_goes_on(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    bad = people.a_user(ADA)
    poison(people, bad)
    good = people.a_user(GRACE)
    read_model.prepare(USERS, now_us=0)

    built = a_rebuild(people, read_model, log).run(lambda: False)

    assert built is not None
    assert len(read_model.parked(USERS, built)) == 1
    assert set(rows(read_model)) == {bad, good}


def test_a_rebuild_after_an_erasure_needs_no_key(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    *_, alan = a_busy_history(people)
    project_all(people, read_model, log)
    before = rows(read_model)
    people.vault.destroy_key(alan, process="erasures", position=1)
    people.vault.close()  # nothing is opened by projecting, so nothing of it is needed

    assert a_rebuild(people, read_model, log).run(lambda: False) is not None

    assert rows(read_model) == before
    assert before[alan]["email"] is None


def test_a_rebuild_that_hits_an_outage_is_logged_and_goes_on_by_itself(
    people: People,
    read_model: SqliteReadModel,
    log: Log,
    log_text: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.projections.rebuild._REBUILD_PAUSE_S", 0.0)
    a_busy_history(people)
    project_all(people, read_model, log)
    outages: Sequence[Exception] = [PartUnavailable("event store", "it is down")]
    left = list(outages)

    class Flaky:
        def head(self) -> int:
            if left:
                raise left.pop()
            return people.store.head()

        def __getattr__(self, name: str) -> Any:
            return getattr(people.store, name)

    rebuilds = Rebuilds(lambda _: a_rebuild(people, read_model, log, store=Flaky()), lambda: False, log)
    rebuilds.ensure(USERS)
    rebuilds.join()

    assert "rebuild-waits" in log_text()
    assert [g.number for g in read_model.generations(USERS)] == [1, 2]
    assert read_model.generations(USERS)[-1].state is GenerationState.CURRENT


def test_a_rebuild_that_meets_a_bug_is_logged_and_may_be_asked_for_again(
    people: People, read_model: SqliteReadModel, log: Log, log_text: Callable[[], str]
) -> None:
    a_busy_history(people)
    project_all(people, read_model, log)
    stores: list[Any] = [Hooked(people.store, "head", lambda: 1 // 0), people.store]
    rebuilds = Rebuilds(lambda _: a_rebuild(people, read_model, log, store=stores.pop(0)), lambda: False, log)

    rebuilds.ensure(USERS)
    rebuilds.join()
    logged = log_text()
    rebuilds.ensure(USERS)
    rebuilds.join()

    assert "rebuild-crashed" in logged
    assert read_model.generations(USERS)[-1].state is GenerationState.CURRENT


def test_a_rebuild_that_is_asked_for_twice_runs_once(
    people: People, read_model: SqliteReadModel, log: Log
) -> None:
    a_busy_history(people)
    project_all(people, read_model, log)
    started: list[int] = []
    go_on = threading.Event()

    class Slow:
        def head(self) -> int:
            started.append(1)
            assert go_on.wait(DEADLINE_S)
            return people.store.head()

        def __getattr__(self, name: str) -> Any:
            return getattr(people.store, name)

    rebuilds = Rebuilds(lambda _: a_rebuild(people, read_model, log, store=Slow()), lambda: False, log)
    with ExitStack() as ending:
        ending.callback(rebuilds.join)
        ending.callback(go_on.set)
        rebuilds.ensure(USERS)
        eventually(lambda: bool(started), "it runs")
        rebuilds.ensure(USERS)
        rebuilds.ensure(USERS)

    assert len(read_model.generations(USERS)) == 2


def test_an_idle_projector_notices_that_the_rows_lost_their_last_commits(
    people: People, read_model: SqliteReadModel, log: Log, log_text: Callable[[], str]
) -> None:
    a_busy_history(people)
    lost: list[int] = []

    class Lossy:
        """Says that it holds less than was applied, as a database after the crash of its server."""

        def prepare(self, *arguments: Any, **named: Any) -> Any:
            generation = read_model.prepare(*arguments, **named)
            if generation.checkpoint and not lost:
                lost.append(1)
                return replace(generation, checkpoint=0)
            return generation

        def __getattr__(self, name: str) -> Any:
            return getattr(read_model, name)

    deadline = time.monotonic() + DEADLINE_S
    a_projector(people, Lossy(), log).run(  # type: ignore[arg-type]
        lambda: log_text().count('"projecting"') >= 2 or time.monotonic() > deadline
    )

    assert log_text().count('"projecting"') == 2, "it took up its work anew"


def test_a_stream_that_no_projection_follows_moves_the_checkpoint_only(
    people: People, read_model: SqliteReadModel, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.projector._IDLE_SAVE_S", 0.0)
    people.store.append([Append(a_stream(), NO_STREAM, some_events(5))])

    project_all(people, read_model, log)

    (generation,) = read_model.generations(USERS)
    assert (generation.checkpoint, generation.events) == (5, 0)
    assert read_model.rows(USERS) == []
