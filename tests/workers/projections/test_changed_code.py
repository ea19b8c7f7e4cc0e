"""Two workers with different code of one projection over the same parts: as in a deployment without a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from adapters.log import Log
from domain.kernel.errors import EsError
from domain.kernel.events import Event, Recorded
from domain.kernel.messages import LATER, Body, Reply, Request
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel
from domain.kernel.projection import Change, Operation, Projection, Put, Row, Value
from domain.users.projection import USERS, Users
from tests.support.accounts import create
from tests.support.model_places import Places
from tests.support.read_side import ReadSide, a_busy_history
from tests.support.waiting import DEADLINE_S, eventually
from workers.projections.errors import OtherColumns
from workers.projections.filling import Filling
from workers.projections.generation_queries import GenerationQueries
from workers.projections.parked_queries import ParkedQueries
from workers.projections.projector import Projector
from workers.projections.queries import ProjectionQueries
from workers.projections.rebuild import Rebuild, Rebuilds
from workers.runtime.queries import Sources

CURRENT, RETIRED, CHECKED = GenerationState.CURRENT, GenerationState.RETIRED, GenerationState.CHECKED


class Renamed(Users):
    """The changed code: a column more, and another text in `status`."""

    columns: ClassVar[Mapping[str, str]] = {**Users.columns, "renames": "INTEGER"}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        return [_changed(operation) for operation in super().apply(recorded, event, row)]


def _changed(operation: Operation) -> Operation:
    match operation:
        case Put(key=key, row=row):
            return Put(key, {**row, "status": "new", "renames": 0})
        case Change(key=key, columns=columns) if columns.get("name"):
            return Change(key, {**columns, "renames": 1})
    return operation


class Restated(Users):
    """Changed code with the same columns."""

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        operations = super().apply(recorded, event, row)
        return [Put(o.key, {**o.row, "status": "new"}) if isinstance(o, Put) else o for o in operations]


class Worker:
    """The parts of one `projections` worker that deal with generations."""

    def __init__(self, side: ReadSide, model: ReadModel, projection: Projection, code: str) -> None:
        self.code, self.projection = code, projection
        self._side, self._model = side, model
        self.stopping = threading.Event()
        self.rebuilds = Rebuilds(
            lambda _: Rebuild(self._filling),
            self.stopping.is_set,
            log=side.log,
            now_us=lambda: side.now_us,
        )
        self.projector = Projector(
            self._filling, self.rebuilds.ensure, resume=lambda each: self.rebuilds.resume(each)
        )

    @property
    def _filling(self) -> Filling:
        side = self._side
        return Filling(
            self.projection,
            store=side.store,
            codec=side.codec,
            read_model=self._model,
            now_us=lambda: side.now_us,
            log=side.log,
            code=self.code,
        )

    def run(self) -> None:
        end_s = time.monotonic() + DEADLINE_S
        self.projector.run(lambda: self.stopping.is_set() or time.monotonic() > end_s)

    def stop(self) -> None:
        self.stopping.set()
        self.rebuilds.join()

    def begin(self, what: str, **body: object) -> Reply:
        return self.ask(Request(what, {"name": "users", **body}))

    def ask(self, request: Request) -> Reply:
        side = self._side
        sources = Sources(
            store=side.store,
            codec=side.codec,
            vault=side.vault,
            keyring=lambda _: side.codec,  # type: ignore[arg-type,return-value]
            erased_keyring=None,  # type: ignore[arg-type]
            read_model=self._model,
            projections=[self.projection],
            reached=lambda _: self.projector.reached,
            last_error=lambda _: self.projector.last_error.body,
            ensure_rebuild=self.rebuilds.resume,
            rebuild_error=lambda _: None,
            now_us=lambda: side.now_us,
            monotonic_s=lambda: side.now_s,
            code_of=lambda _: self.code,
        )
        queries: Any = GenerationQueries(sources)
        found = {
            "rebuild": queries.rebuild,
            "switch": queries.switch,
            "status": ProjectionQueries(sources).status,
            "retry": ParkedQueries(sources).retry,
        }
        try:
            reply: Reply = found[request.kind](request)
        except EsError as error:  # as QueriesService
            return error
        return reply

    def rows(self) -> dict[int, dict[str, Value]]:
        return {int(row["user_id"] or 0): row for row in self._model.rows(self.projection)}

    def current(self) -> Generation:
        (found,) = [each for each in self._model.generations(self.projection) if each.state is CURRENT]
        return found


Start = Callable[[Worker], Worker]


@pytest.fixture
def side(places: Places, tmp_path: Path, log: Log) -> Iterator[ReadSide]:
    with places.new() as opening, closing(ReadSide(tmp_path / "accounts", opening(), log)) as opened:
        opened.read_model.prepare(USERS, now_us=opened.now_us, code="1-a")
        a_busy_history(opened)
        yield opened


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs the projector of a worker in a thread. Workers are stopped after the test."""
    with ExitStack() as ending:
        pool = ending.enter_context(ThreadPoolExecutor(4))

        def started(worker: Worker) -> Worker:
            running = pool.submit(worker.run)
            ending.callback(running.result, DEADLINE_S)
            ending.callback(worker.stop)
            return worker

        yield started


def old(side: ReadSide) -> Worker:
    return Worker(side, side.read_model, USERS, "1-a")


def new(side: ReadSide, projection: Projection | None = None) -> Worker:
    return Worker(side, side.read_model, projection or Renamed(), "2-b")


def caught_up(side: ReadSide, *workers: Worker) -> None:
    head = side.store.head()
    eventually(lambda: all((each.projector.reached or 0) >= head for each in workers), "rows are complete")


def answer(worker: Worker, kind: str, **body: object) -> Body:
    """The reply once a worker of the right code has taken up the work."""
    request = Request(kind, {"name": "users", **body})
    replies: list[Reply] = []

    def is_answered() -> bool:
        replies.append(worker.ask(request))
        return replies[-1] is not LATER

    eventually(is_answered, "it is taken up")
    assert isinstance(replies[-1], dict), replies[-1]
    return replies[-1]


def states(side: ReadSide) -> list[tuple[int, GenerationState, str]]:
    return [(each.number, each.state, each.code) for each in side.generations()]


def statuses(worker: Worker) -> set[Value]:
    return {row["status"] for row in worker.rows().values()}


def ended(side: ReadSide, number: int, state: GenerationState) -> None:
    def is_ended() -> bool:
        return any((each.number, each.state) == (number, state) for each in side.generations())

    eventually(is_ended, f"generation {number} is {state.value}")


def test_a_worker_of_new_code_leaves_the_current_rows_to_that_of_the_old_code(
    side: ReadSide, start: Start
) -> None:
    workers = start(old(side)), start(new(side))
    user = int(side.done(create("late@example.com"))["user_id"])
    caught_up(side, *workers)

    assert states(side) == [(1, CURRENT, "1-a")]
    assert [each.rows()[user]["status"] for each in workers] == ["active", "active"]
    assert workers[1].rows()[user]["renames"] is None, (
        "its column is null where the old code made no such column"
    )


def test_new_code_fills_its_generation_while_the_old_one_serves_and_back(
    side: ReadSide, start: Start
) -> None:
    before, after = start(old(side)), start(new(side))
    caught_up(side, before, after)

    checked = answer(before, "rebuild", check=True, code="2-b")["generation"]
    ended(side, checked, CHECKED)
    assert states(side) == [(1, CURRENT, "1-a"), (checked, CHECKED, "2-b")]
    answer(before, "switch")
    ended(side, checked, CURRENT)
    user = int(side.done(create("late@example.com"))["user_id"])
    caught_up(side, before, after)
    assert after.rows()[user]["status"] == before.rows()[user]["status"] == "new"

    answer(after, "switch", rollback=True)
    ended(side, 1, CURRENT)
    late = int(side.done(create("later@example.com"))["user_id"])
    caught_up(side, before, after)
    assert states(side) == [(1, CURRENT, "1-a"), (checked, RETIRED, "2-b")]
    assert [before.rows()[each]["status"] for each in (user, late)] == ["active", "active"]


def test_a_rollback_without_a_worker_of_the_old_code_is_refused_by_name(side: ReadSide, start: Start) -> None:
    before, after = start(old(side)), start(new(side))
    built = answer(before, "rebuild", code="2-b")["generation"]
    ended(side, built, CURRENT)
    before.stop()
    request = Request("switch", {"name": "users", "rollback": True})

    assert after.ask(request) is LATER
    side.now_s += 7
    refused = str(after.ask(request))

    assert refused == "generation 1 of users was built by 1-a, and this worker has 2-b"
    assert states(side) == [(1, RETIRED, "1-a"), (built, CURRENT, "2-b")]


def test_a_rebuild_with_code_that_no_worker_has_is_refused_by_name(side: ReadSide, start: Start) -> None:
    worker = start(old(side))
    request = Request("rebuild", {"name": "users", "check": True, "code": "3-c"})

    assert worker.ask(request) is LATER
    side.now_s += 7

    assert "no projections worker has the code 3-c" in str(worker.ask(request))
    assert [each.state for each in side.generations() if each.why.value != "cancelled"] == [CURRENT]


def test_new_code_that_fills_old_rows_is_recorded_and_the_old_code_refuses_them(
    side: ReadSide, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.projector.ADOPT_S", 0.0)
    side.projector(code="1-a").run(lambda: side.current().checkpoint == side.store.head())
    side.done(create("late@example.com"))
    worker = start(new(side, Restated()))
    caught_up(side, worker)
    assert states(side) == [(1, CURRENT, "1-a>2-b")]
    assert statuses(worker) == {"active", "deleted", "erased", "new"}, "a mixture"
    state = answer(worker, "status")["projections"][0]
    assert state["other_code"] is True

    answer(worker, "rebuild", code="2-b")
    ended(side, 2, CURRENT)

    for each in (old(side), worker):
        reply = str(each.begin("switch", rollback=True))
        assert "generation 1 of users was built by 1-a and then by 2-b, and this worker has" in reply
    assert states(side) == [(1, RETIRED, "1-a>2-b"), (2, CURRENT, "2-b")]


def test_new_columns_are_no_reason_to_fill_or_hide_old_rows(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.projector.ADOPT_S", 0.0)
    side.projector(code="1-a").run(lambda: side.current().checkpoint == side.store.head())
    side.done(create("late@example.com"))
    worker = new(side)

    with pytest.raises(OtherColumns, match="generation 1 lacks the columns renames of the present code"):
        worker.run()

    assert states(side) == [(1, CURRENT, "1-a")]
    assert len(worker.rows()) == 3


def test_a_retry_of_parked_events_records_its_code(side: ReadSide) -> None:
    (user, *_) = [int(row["user_id"] or 0) for row in _rows_of(side)]
    side.store_event(user, "user-exploded.v9")
    side.projector(code="1-a").run(lambda: side.current().checkpoint == side.store.head())
    worker = new(side, Restated())

    assert isinstance(worker.begin("retry", all=True), dict)

    assert states(side) == [(1, CURRENT, "1-a>2-b")]


def _rows_of(side: ReadSide) -> Sequence[Mapping[str, Value]]:
    side.projector(code="1-a").run(lambda: side.current().checkpoint == side.store.head())
    return side.read_model.rows(USERS)


def test_work_of_other_code_is_left_to_its_worker_while_it_goes_on(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", 2)
    side.projector(code="1-a").run(lambda: side.current().checkpoint == side.store.head())
    begun = side.read_model.begin_rebuild(USERS, now_us=side.now_us, code="1-a")
    looks = iter([False, False, True, True])
    other = new(side, Restated())
    monkeypatch.setattr(
        "workers.projections.rebuild.pause",
        lambda *_: side.rebuild(code="1-a").run(lambda: next(looks), begins=None),
    )

    other.rebuilds.resume(USERS)
    other.rebuilds.join()

    assert [(each.number, each.code) for each in side.generations()] == [(1, "1-a"), (begun.number, "1-a")]
