"""A long rebuild is read and translated by another process: the same rows, also if that process fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.codec import JsonCodec
from adapters.log import Log
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from domain.features import registry
from domain.kernel.behaviour import behaviour_of
from domain.kernel.events import Event, Recorded
from domain.kernel.history import Mark
from domain.kernel.ports.event_store import Append
from domain.kernel.ports.read_model import Generation, Parked, Why
from domain.kernel.projection import Merged, Put, Shape, Value
from domain.users.account import EVENTS
from domain.users.projection import USERS
from scripts.bench.cpu import with_children
from tests.support.builders import an_event
from tests.support.waiting import eventually
from workers.projections import ahead
from workers.projections.check import Check
from workers.projections.filling import Filler, Filling
from workers.projections.rebuild import Rebuild, begin_rebuild

_USERS = 25_000
"""Five batches."""
_CODE = behaviour_of(USERS, registry().aggregates)


def _registered(number: int, data: bytes = b'{"email":"es1:a","name":"es1:b"}') -> Append:
    return Append(f"user-{number}", -1, [an_event("user-registered.v1", data=data)])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("filled")
    with closing(SqliteStore(home / "events.db")) as store:
        for first in range(1, _USERS, 5_000):
            store.append([_registered(number) for number in range(first, first + 5_000)])
    return home


class Decoding(JsonCodec):
    """Counts what this process decodes."""

    decoded = 0

    def decode(self, recorded: Recorded, **more: Any) -> Event:
        self.decoded += 1
        return super().decode(recorded, **more)


class Desk:
    """The parts of a rebuild over a store with many users."""

    def __init__(self, home: Path, log: Log) -> None:
        self.store = SqliteStore(home / "events.db")
        self.codec = Decoding(EVENTS)
        self.read_model = SqliteReadModel(home / "read.db")
        self.read_model.prepare(USERS, now_us=0)
        self.parts = Filling(
            USERS,
            store=self.store,
            codec=self.codec,
            read_model=self.read_model,
            now_us=lambda: 0,
            log=log,
            code=_CODE,
            home=home,
        )

    def rebuild(
        self,
        stopped: Callable[[], bool] = lambda: False,
        progressed: Callable[[], None] = lambda: None,
        **parts: Any,
    ) -> Generation | None:
        return Rebuild(replace(self.parts, **parts)).run(stopped, progressed)

    def begin(self) -> Generation:
        return begin_rebuild(USERS, store=self.store, read_model=self.read_model, now_us=0, code=_CODE)

    def filled_alone(self) -> tuple[list[dict[str, Value]], Generation]:
        """The rows as this process makes them, and their generation."""
        built = self.rebuild(home=None)
        assert built is not None
        return self.read_model.rows(USERS), built

    def parked(self, generation: Generation) -> list[Parked]:
        return [*self.read_model.parked(USERS, generation)]

    def close(self) -> None:
        self.store.close()
        self.read_model.close()


@pytest.fixture
def desk(filled: Path, tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(ahead, "WORTH_IT", 1)
    home = tmp_path / "home"
    shutil.copytree(filled, home)
    with closing(Desk(home, log)) as opened:
        yield opened


def _translators() -> list[int]:
    """The processes that translate for this one."""
    found = []
    for pid in with_children([os.getpid()]):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found += [pid] if b"translate" in words else []
    return found


def _signal(number: signal.Signals) -> None:
    (pid,) = _translators()
    os.kill(pid, number)


class Once:
    """Acts at the first call."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 1:
            self._act()


# --- the same rows ---------------------------------------------------------------------------


def test_the_rows_and_the_generation_are_those_of_one_process(desk: Desk) -> None:
    rows, alone = desk.filled_alone()
    desk.codec.decoded = 0

    built = desk.rebuild()

    assert desk.codec.decoded == 0
    assert desk.read_model.rows(USERS) == rows
    assert built is not None
    assert (built.events, built.history.position) == (alone.events, alone.history.position)
    assert built.history.marks[-1] == alone.history.marks[-1]
    assert len(rows) == _USERS
    assert _translators() == []


def test_events_that_arrive_meanwhile_are_filled_too(desk: Desk, log_text: Callable[[], str]) -> None:
    def arrives() -> None:
        desk.store.append([_registered(_USERS + 1)])

    built = desk.rebuild(progressed=Once(arrives))

    assert built is not None
    assert f'"action": "translated-ahead", "projection": "users", "events": {_USERS}' in log_text()
    assert (built.events, desk.codec.decoded) == (_USERS + 1, 1)
    assert len(desk.read_model.rows(USERS)) == _USERS + 1


def test_a_check_is_translated_ahead_too_up_to_its_position(desk: Desk) -> None:
    desk.filled_alone()
    desk.store.append([_registered(_USERS + 1)])
    desk.codec.decoded = 0
    begun = begin_rebuild(
        USERS,
        store=desk.store,
        read_model=desk.read_model,
        now_us=0,
        code=_CODE,
        why=Why.CHECK,
    )

    checked = Check(desk.parts, Filler(desk.parts, begun)).run(lambda: False, lambda: None)

    assert checked is not None
    assert (checked.checkpoint, checked.events, desk.codec.decoded) == (_USERS, _USERS, 0)


def test_a_rebuild_that_was_interrupted_goes_on(desk: Desk) -> None:
    rows, _ = desk.filled_alone()
    batches: list[None] = []
    assert desk.rebuild(lambda: len(batches) > 0, lambda: batches.append(None)) is None
    (half,) = [each for each in desk.read_model.generations(USERS) if each.state.value == "building"]
    assert 0 < half.events < _USERS
    desk.codec.decoded = 0

    built = desk.rebuild()

    assert built is not None
    assert (built.number, built.events, desk.codec.decoded) == (half.number, _USERS, 0)
    assert desk.read_model.rows(USERS) == rows


# --- what the other process cannot tell ------------------------------------------------------


def test_an_event_that_cannot_be_applied_is_parked_and_so_is_its_stream(desk: Desk) -> None:
    poison = [an_event("user-exploded.v9"), an_event("user-renamed.v1", data=b'{"name":"es1:c"}')]
    desk.store.append([Append("user-7", 0, poison)])
    desk.store.append([_registered(number) for number in range(_USERS + 1, _USERS + 10)])

    built = desk.rebuild()

    assert built is not None
    assert [each.position for each in desk.parked(built)] == [_USERS + 1, _USERS + 2]
    assert built.events == _USERS + 11
    assert len(desk.read_model.rows(USERS)) == _USERS + 9
    assert desk.codec.decoded < 2 * ahead.BATCH  # the batches before it came from the other process


def test_other_code_translates_nothing(desk: Desk) -> None:
    built = desk.rebuild(code="of another version")

    assert built is not None
    assert (built.events, desk.codec.decoded) == (_USERS, _USERS)


def test_a_projection_with_few_new_events_starts_no_process(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "WORTH_IT", _USERS + 1)
    monkeypatch.setattr(subprocess, "Popen", None)

    built = desk.rebuild()

    assert built is not None
    assert built.events == _USERS


def test_a_system_that_starts_no_process_now_rebuilds_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError("no process can be started")

    monkeypatch.setattr(subprocess, "Popen", refused)

    built = desk.rebuild()

    assert built is not None
    assert (built.events, desk.codec.decoded) == (_USERS, _USERS)


# --- rows that cannot be stored --------------------------------------------------------------


def _rows_of(numbers: range, version: int = 0) -> Merged:
    columns = ("email", "name", "status", "version", "registered_at_us", "updated_at_us")
    rows: list[tuple[Value, ...]] = [
        ("es1:a", "es1:b", "active", version, 0, 0, number) for number in numbers
    ]
    return Merged({Shape(Put, columns): rows})


def _mark(desk: Desk, position: int) -> Mark:
    (event,) = desk.store.read_all(position - 1, 1)
    return Mark(position, event.event_id)


def test_rows_that_cannot_be_stored_are_translated_here(desk: Desk) -> None:
    filler = Filler(desk.parts, desk.begin())

    assert filler.begin_rows(_rows_of(range(1, 101), version=1 << 64), 100, _mark(desk, 100))
    assert filler.finish()

    assert (filler.generation.events, filler.generation.checkpoint) == (100, 100)
    assert desk.codec.decoded == 100
    rows = desk.read_model.rows(USERS, generation=filler.generation)
    assert [row["version"] for row in rows] == [0] * 100


def test_no_rows_of_another_process_are_stored_once_an_event_is_parked(desk: Desk) -> None:
    desk.store.append([Append("user-7", 0, [an_event("user-exploded.v9")])])
    filler = Filler(desk.parts, replace(desk.begin(), checkpoint=0))
    head = desk.store.head()
    before = [*desk.store.read_all(0, head)]
    assert filler.fill(before, filler.generation.history.reach(Mark(head, before[-1].event_id)))
    assert filler.has_parked

    assert filler.begin_rows(_rows_of(range(7, 8), version=5), 1, _mark(desk, head))
    assert filler.finish()

    (row,) = desk.read_model.rows(USERS, keys=[7], generation=filler.generation)
    assert row["version"] == 0


def test_another_filler_that_was_faster_ends_it(desk: Desk) -> None:
    generation = desk.begin()
    filler, faster = Filler(desk.parts, generation), Filler(desk.parts, generation)
    assert faster.begin_rows(_rows_of(range(1, 11)), 10, _mark(desk, 10))
    assert faster.finish()

    assert filler.begin_rows(_rows_of(range(1, 101)), 100, _mark(desk, 100))

    assert not filler.finish()


# --- the life of the other process -----------------------------------------------------------


def test_a_killed_process_is_replaced_by_this_one(desk: Desk) -> None:
    rows, _ = desk.filled_alone()
    desk.codec.decoded = 0

    def suspend_then_kill() -> None:
        _signal(signal.SIGSTOP)  # before its last batches
        _signal(signal.SIGKILL)

    built = desk.rebuild(progressed=Once(suspend_then_kill))

    assert built is not None
    assert desk.codec.decoded > 0
    assert built.events == _USERS
    assert desk.read_model.rows(USERS) == rows


def test_a_rebuild_that_is_stopped_leaves_no_process(desk: Desk) -> None:
    stopping: list[bool] = []
    stop = Once(lambda: stopping.append(True))

    assert desk.rebuild(lambda: bool(stopping), stop) is None

    assert _translators() == []


def test_a_suspended_process_does_not_keep_a_rebuild_from_its_end(desk: Desk) -> None:
    looks = 0

    def stopped() -> bool:
        nonlocal looks
        looks += 1
        return looks > 5  # each look is one while nothing arrives

    assert desk.rebuild(stopped, Once(lambda: _signal(signal.SIGSTOP))) is None

    assert _translators() == []


@contextmanager
def _translator(desk: Desk, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    given = {"projection": "users", "code": _CODE, "after": 0, "until": _USERS, "home": desk.parts.home}
    words = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "workers", "translate", *words],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **streams,
    ) as process:
        yield process


def test_a_suspended_process_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def suspend() -> None:
        _signal(signal.SIGSTOP)
        monkeypatch.setattr(ahead, "SILENCE_S", 0.5)

    built = desk.rebuild(progressed=Once(suspend))

    assert built is not None
    assert built.events == _USERS
    assert desk.codec.decoded > 0
    assert _translators() == []


def test_a_few_events_of_a_server_start_no_process(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "WORTH_IT", 50)  # with a thousand addresses for each
    monkeypatch.setattr(SqliteStore, "is_remote", True)
    monkeypatch.setattr(subprocess, "Popen", None)

    built = desk.rebuild()

    assert built is not None
    assert built.events == _USERS


def test_the_process_ends_with_the_one_that_started_it(desk: Desk) -> None:
    reading, writing = os.pipe()  # which is full soon: without an end it would wait to write
    with _translator(desk, stdout=writing) as process:
        os.close(writing)
        assert process.stdin is not None
        assert os.read(reading, 1)  # it has begun
        assert process.poll() is None

        process.stdin.close()

        eventually(lambda: process.poll() is not None, "the process ended")
    os.close(reading)


def test_the_process_ends_in_order_once_all_is_translated(desk: Desk) -> None:
    with _translator(desk, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        batches = [*ahead._received(process.stdout.fileno(), lambda: False)]

        eventually(lambda: process.poll() is not None, "the process ended")

        assert (process.returncode, process.stderr.read()) == (0, b"")
    assert [batch.events for batch in batches] == [ahead.BATCH] * 5
    assert batches[-1].last.position == _USERS
