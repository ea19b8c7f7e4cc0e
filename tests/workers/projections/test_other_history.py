"""Projections over a store that was put back to an older copy: no row of the lost history stays, or is shown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from adapters import wiring
from adapters.settings import load_settings
from domain.kernel.errors import EsError, OtherHistory, StoreBehind
from domain.kernel.events import NO_STREAM, Recorded
from domain.kernel.messages import LATER, Request
from domain.kernel.ports.read_model import GenerationState, ReadModel
from domain.users.account import USER
from domain.users.projection import USERS
from tests.support.accounts import create
from tests.support.builders import a_stream, append, some_events, streams_of
from tests.support.histories import Restorable, restorable
from tests.support.parts import before_call, replaced
from tests.support.postgres import own_schema
from tests.support.read_side import ReadSide
from tests.support.waiting import eventually
from workers.projections.projector import Projector

BUILDING, CURRENT = GenerationState.BUILDING, GenerationState.CURRENT


@pytest.fixture(params=["sqlite", "node"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Restorable]:
    with restorable(request.param, tmp_path) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def any_model(request: pytest.FixtureRequest, tmp_path: Path, read_model: ReadModel) -> Iterator[ReadModel]:
    if request.param == "sqlite":
        yield read_model
        return
    with own_schema(request.getfixturevalue("postgres_database")) as url:
        settings = load_settings(environment={"ES_HOME": str(tmp_path / "home"), "ES_DATABASE": url})
        with closing(wiring.open_read_model(settings)) as opened:
            yield opened


@pytest.fixture
def side(read_side: ReadSide, place: Restorable) -> ReadSide:
    """A read side over the store that is put back."""
    read_side.store.close()
    read_side.store = place.store
    return read_side


@pytest.fixture
def changing(read_side: ReadSide, tmp_path: Path) -> Iterator[tuple[ReadSide, Restorable]]:
    """A read side over a store in memory, whose content can be put back at any moment."""
    read_side.store.close()
    with restorable("memory", tmp_path) as found:
        read_side.store = found.store
        yield read_side, found


_numbers = count()
_ADDRESS_OF: dict[int, str] = {}


def users(side: ReadSide, number: int) -> list[int]:
    """Register users with addresses of their own."""
    emails = [f"user{next(_numbers)}@example.com" for _ in range(number)]
    replies = side.handle(*map(create, emails))
    ids = [int(reply["user_id"]) for reply in replies if isinstance(reply, dict)]
    _ADDRESS_OF.update(zip(ids, emails, strict=True))
    return ids


def another_history(
    side: ReadSide, place: Restorable, *, kept: int, lost: int, new: int
) -> tuple[set[int], set[int]]:
    """Lose the last users of a projected store, and register others; the users that are registered, and the lost ones."""
    first = users(side, kept)
    put_back = place.backup()
    gone = users(side, lost)
    side.project()
    put_back()
    side.store = place.store
    return {*first, *users(side, new)}, {*gone}


def until_projected(side: ReadSide) -> None:
    """Run a projector as a worker does, until it includes every event; its rebuilds run beside it."""
    side.rebuilds = side.rebuilds_of(side.rebuild)
    side.project()
    side.rebuilds.join()


def assert_rows_are_those_of_the_store(side: ReadSide) -> None:
    streams = streams_of(side.store, USER.prefix)
    assert {id_: row["version"] for id_, row in side.rows().items()} == {
        USER.id_of(name): version for name, version in streams
    }
    for name, _ in streams:
        registered = next(iter(side.store.read_stream(name, limit=1)))
        assert side.rows()[USER.id_of(name)]["email"] == side.codec.stored(registered)[1]["email"]
    assert side.current().checkpoint >= side.store.head()


# --- rebuilt without an operator -------------------------------------------------------------


@pytest.mark.parametrize("new", [5, 60], ids=["shorter", "grown past the checkpoint"])
def test_the_rows_become_those_of_the_restored_store(
    side: ReadSide, place: Restorable, new: int, log_text: Callable[[], str]
) -> None:
    registered, lost = another_history(side, place, kept=20, lost=30, new=new)

    until_projected(side)

    assert {*side.rows()} == registered
    assert not lost & {*side.rows()}
    assert_rows_are_those_of_the_store(side)
    assert '"other-history"' in log_text()


def test_no_user_is_missing_in_any_read_model(
    read_side: ReadSide, any_model: ReadModel, tmp_path: Path
) -> None:
    read_side.store.close()
    read_side.read_model = any_model
    with restorable("sqlite", tmp_path) as place:
        read_side.store = place.store
        registered, _ = another_history(read_side, place, kept=100, lost=100, new=300)

        until_projected(read_side)

        assert len(registered) == 400
        assert {*read_side.rows()} == registered
        assert_rows_are_those_of_the_store(read_side)
        read_side.store.close()


def test_a_store_that_was_swapped_for_an_empty_one_empties_the_rows(
    side: ReadSide, place: Restorable
) -> None:
    users(side, 5)
    side.project()
    place.swap()
    side.store = place.store

    until_projected(side)
    assert side.rows() == {}


def test_rows_of_the_same_history_are_not_rebuilt(side: ReadSide, log_text: Callable[[], str]) -> None:
    for _ in range(3):
        users(side, 5)
        append(side.store, a_stream(), NO_STREAM, some_events(3))
        until_projected(side)

    assert [each.number for each in side.generations()] == [1]
    assert '"other-history"' not in log_text()


def test_the_rows_of_an_earlier_version_have_no_marks_and_are_trusted_up_to_the_head(side: ReadSide) -> None:
    users(side, 5)
    side.project()
    side.change_rows("UPDATE generations SET marks = x''")
    users(side, 5)

    until_projected(side)

    assert [each.number for each in side.generations()] == [1]
    assert side.current().history.marks
    assert_rows_are_those_of_the_store(side)


def test_a_rebuild_that_is_asked_for_replaces_rows_that_are_ahead_of_the_store(
    side: ReadSide, place: Restorable
) -> None:
    registered, _ = another_history(side, place, kept=5, lost=30, new=1)

    looks = count()
    assert side.rebuild().run(lambda: next(looks) > 100) is not None, "promoted, though it is behind"

    assert {*side.rows()} == registered


# --- a rebuild of another history ------------------------------------------------------------


def test_an_unfinished_generation_of_another_history_starts_over(
    side: ReadSide, place: Restorable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", 20)
    first = users(side, 5)
    put_back = place.backup()
    users(side, 30)
    side.project()
    looks = iter([False, True])
    assert side.rebuild().run(lambda: next(looks)) is None
    assert [(g.number, g.state) for g in side.generations()] == [(1, CURRENT), (2, BUILDING)]
    put_back()
    side.store = place.store
    registered = {*first, *users(side, 60)}

    built = side.rebuilt()

    assert (built.number, built.events) == (3, 65)
    assert {*side.rows()} == registered


def test_a_store_that_changes_during_the_rebuild_makes_it_start_over(
    changing: tuple[ReadSide, Restorable], monkeypatch: pytest.MonkeyPatch
) -> None:
    side, place = changing
    monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", 20)
    monkeypatch.setattr("workers.projections.rebuild._REBUILD_PAUSE_S", 0.0)
    first = users(side, 5)
    put_back = place.backup()
    users(side, 60)
    registered: set[int] = {*first}

    def change() -> None:
        put_back()
        registered.update(users(side, 70))

    store = before_call(side.store, "read_all", change, at=3)
    side.rebuilds = side.rebuilds_of(lambda: side.rebuild(store=store))
    side.prepare()
    side.rebuilds.ensure(USERS)
    side.rebuilds.join()

    assert side.current().number == 3, "the one that was begun is not used"
    assert {*side.rows()} == registered


def test_a_rebuild_that_cannot_be_promoted_pauses_before_it_looks_again(
    side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    users(side, 3)
    side.project()
    steps: list[str] = []

    def read_all(*args: Any, **more: Any) -> Iterator[Recorded]:
        steps.append("read")
        return side.store.read_all(*args, **more)

    monkeypatch.setattr("workers.projections.rebuild.pause", lambda *_: steps.append("pause"))
    rebuild = side.rebuild(
        store=replaced(side.store, read_all=read_all),
        read_model=replaced(side.read_model, promote=lambda *_, **__: False),
    )

    rebuild.run(lambda: len(steps) >= 6)

    # The first batch has events: more may have come meanwhile, so it looks again at once.
    assert steps == ["read", *["read", "pause"] * 3]


# --- what is shown meanwhile -----------------------------------------------------------------


@pytest.fixture
def waiting(side: ReadSide, place: Restorable) -> Iterator[tuple[ReadSide, set[int]]]:
    """A read side whose projector waits for a rebuild that does not come; and the lost users."""
    _, lost = another_history(side, place, kept=5, lost=30, new=60)
    stopping = threading.Event()
    projector = side.become(Projector(side._filling(), lambda _: None))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(projector.run, stopping.is_set)
        try:
            eventually(lambda: projector.last_error.body or running.done(), "noticed")
            yield side, lost
        finally:
            stopping.set()
            running.result()


@pytest.mark.parametrize("kind", ["users.get", "users.list", "users.find"])
def test_no_row_of_another_history_is_shown(waiting: tuple[ReadSide, set[int]], kind: str) -> None:
    side, lost = waiting
    reply = side.ask(kind, user_id=str(min(lost)), email=_ADDRESS_OF[min(lost)])

    assert isinstance(reply, EsError)
    assert (reply.code, reply.kind.value) == ("other-history", "unavailable")
    assert "being rebuilt" in str(reply)
    assert "es projections status users" in reply.hint


def test_the_status_tells_of_another_history(waiting: tuple[ReadSide, set[int]]) -> None:
    side, _ = waiting

    (state,) = side.answer("projections.status", name="users")["projections"]

    assert state["other_history"] is True
    assert state["lag"] == state["head"] > 0, "nothing of the store is shown"
    assert "restored or replaced" in state["last_error"]["message"]


def test_no_row_is_shown_before_its_history_is_known(side: ReadSide) -> None:
    (user,) = users(side, 1)
    side.project()
    side.become(side.projector())  # of a worker that has just started

    request = Request("users.get", {"user_id": str(user)})

    assert side.reply_to(request) is LATER


@pytest.mark.parametrize("new", [0, 20], ids=["shorter", "grown past the checkpoint"])
def test_no_row_is_shown_from_the_moment_at_which_another_history_is_noticed(
    changing: tuple[ReadSide, Restorable], monkeypatch: pytest.MonkeyPatch, new: int
) -> None:
    side, place = changing
    monkeypatch.setattr("workers.runtime.followers._VERIFY_INTERVAL_S", 0.0)
    put_back = place.backup()
    users(side, 5)
    projector = side.projector()
    steps: list[Callable[[], object]] = [put_back, lambda: users(side, new)]

    def stopped() -> bool:
        """Replace the store once the projector has reached its head."""
        if steps and projector.reached == 5:
            steps.pop(0)()
        return False

    with pytest.raises((OtherHistory, StoreBehind)):
        projector.run(stopped)

    assert projector.reached is None
