"""Checks over real stores: built beside the current generation, compared at one position, and never switched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.history import History, Mark
from domain.kernel.messages import Body
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel, Why
from domain.users.projection import USERS
from tests.support.accounts import ADA, GRACE, create, rename
from tests.support.model_places import Places
from tests.support.parts import before_call, replaced
from tests.support.read_side import ReadSide, a_busy_history
from tests.support.waiting import eventually
from workers.projections.projector import Projector

Start = Callable[[Projector], Projector]
CURRENT, CHECKED = GenerationState.CURRENT, GenerationState.CHECKED


@pytest.fixture
def read_model(places: Places) -> Iterator[ReadModel]:
    """Over each adapter in turn."""
    with places.new() as opening:
        yield opening()


@pytest.fixture
def people(read_side: ReadSide) -> list[int]:
    """The users of a busy history, which is projected: Ada active, Grace deleted, Alan erased."""
    found = [*a_busy_history(read_side)]
    read_side.project()
    return found


def begun(read_side: ReadSide) -> Generation:
    return read_side.read_model.begin_rebuild(USERS, now_us=read_side.now_us, why=Why.CHECK)


def checked(read_side: ReadSide, **parts: Any) -> Body:
    """The report of a check that must succeed."""
    generation = begun(read_side)
    assert read_side.rebuild(**parts).run(lambda: False, begins=None) is not None
    return read_side.answer("projections.report", name="users", generation=generation.number)


def states(read_side: ReadSide) -> list[tuple[int, GenerationState]]:
    return [(each.number, each.state) for each in read_side.generations()]


@contextmanager
def _writing(write: Callable[[], object]) -> Iterator[None]:
    """Write in a thread, without a pause, until the block ends."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            write()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# --- what it finds -----------------------------------------------------------------------------


def test_a_check_finds_equal_rows_equal_and_switches_nothing(read_side: ReadSide, people: list[int]) -> None:
    found = checked(read_side)

    assert (found["result"], found["generations"], found["rows"]) == ("equal", [1, 2], [3, 3])
    assert (found["events"], found["position"]) == (8, read_side.current().checkpoint)
    assert states(read_side) == [(1, CURRENT), (2, CHECKED)]


def test_rows_that_differ_are_named_by_column(read_side: ReadSide, people: list[int]) -> None:
    ada, grace, _ = people
    read_side.change_rows("UPDATE users_g1 SET version = 99 WHERE user_id IN (?, ?)", ada, grace)
    read_side.change_rows("UPDATE users_g1 SET name = 'x' WHERE user_id = ?", ada)

    found = checked(read_side)

    assert found["result"] == "differs"
    assert found["differ"] == {"rows": 2, "keys": [str(ada), str(grace)]}
    assert found["columns"] == {
        "name": {"rows": 1, "keys": [str(ada)]},
        "version": {"rows": 2, "keys": [str(ada), str(grace)]},
    }


def test_a_wrong_row_of_an_erased_user_is_found(read_side: ReadSide, people: list[int]) -> None:
    alan = people[2]
    read_side.change_rows("UPDATE users_g1 SET email = 'left over' WHERE user_id = ?", alan)

    assert checked(read_side)["columns"] == {"email": {"rows": 1, "keys": [str(alan)]}}


def test_rows_of_one_generation_only_are_named_with_three_keys(
    read_side: ReadSide, people: list[int]
) -> None:
    read_side.change_rows("DELETE FROM users_g1 WHERE user_id = ?", people[1])
    for key in range(1, 6):
        read_side.change_rows("INSERT INTO users_g1(user_id) VALUES(?)", key)

    found = checked(read_side)

    assert found["only_first"] == {"rows": 5, "keys": ["1", "2", "3"]}
    assert found["only_second"] == {"rows": 1, "keys": [str(people[1])]}
    assert (found["differ"]["rows"], found["rows"], found["result"]) == (0, [7, 3], "differs")


def test_a_column_of_one_generation_only_differs_in_every_row(read_side: ReadSide, people: list[int]) -> None:
    read_side.change_rows("ALTER TABLE users_g1 ADD COLUMN nickname TEXT")

    assert {name: each["rows"] for name, each in checked(read_side)["columns"].items()} == {"nickname": 3}


def test_parked_events_in_either_make_the_rows_untrustworthy(read_side: ReadSide) -> None:
    read_side.store_event(read_side.a_user(ADA), "user-exploded.v9")
    read_side.project()

    found = checked(read_side)

    assert (found["result"], found["parked"], found["differ"]["rows"]) == ("untrusted", [1, 1], 0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_comparison_is_complete_with_any_size_of_page(
    read_side: ReadSide, people: list[int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.comparison.PAGE", size)
    read_side.change_rows("UPDATE users_g1 SET version = 99")
    read_side.change_rows("INSERT INTO users_g1(user_id) VALUES(1)")

    found = checked(read_side)

    assert (found["only_first"]["rows"], found["differ"]["rows"], found["rows"]) == (1, 3, [4, 3])


# --- beside running commands -------------------------------------------------------------------


def test_both_are_compared_at_one_position_while_commands_run(read_side: ReadSide, start: Start) -> None:
    ada = read_side.a_user(ADA)
    projector = read_side.become(start(read_side.projector()))
    numbers = iter(range(10_000))
    with _writing(lambda: read_side.done(rename(ada, f"Ada {next(numbers)}"))):
        for _ in range(3):
            found = checked(read_side)
            assert found["result"] == "equal", found
    eventually(lambda: (projector.reached or 0) >= read_side.store.head(), "the projector goes on")


def test_an_event_between_the_two_snapshots_is_in_neither(read_side: ReadSide, people: list[int]) -> None:
    """The projector applies further events while the built generation catches up."""
    entered: list[int] = []

    @contextmanager
    def snapshot(projection: Any, generation: Generation) -> Iterator[Any]:
        with read_side.read_model.snapshot(projection, generation) as held:
            entered.append(generation.number)
            if len(entered) == 1:  # of the current one: now it is left behind
                read_side.a_user("late@example.com")
                read_side.done(rename(people[0], "Later"))
                projecting = threading.Thread(target=read_side.project)
                projecting.start()
                projecting.join()
            yield held

    found = checked(read_side, read_model=replaced(read_side.read_model, snapshot=snapshot))

    assert (found["result"], found["rows"]) == ("equal", [3, 3])
    assert entered == [1, 2]
    assert found["position"] < read_side.current().checkpoint, "the projector was not blocked"


def test_a_check_waits_until_the_current_generation_is_not_behind(
    read_side: ReadSide, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the read model may lose the last commits of the current one."""
    behind = read_side.current().checkpoint
    read_side.done(create(GRACE))
    read_side.project()
    ahead = begun(read_side)
    read_side.rebuild().run(iter([False, False, True, True, True]).__next__, begins=None)
    read_side.change_rows("UPDATE generations SET checkpoint = ? WHERE number = 1", behind)
    monkeypatch.setattr("workers.projections.check.pause", lambda *_: read_side.project())

    assert checked(read_side)["generations"] == [1, ahead.number]


# --- killed, cancelled, replaced ---------------------------------------------------------------


def test_a_killed_check_resumes_and_stays_a_check(
    read_side: ReadSide, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", 3)
    half = begun(read_side)
    looks = iter([False, False, True, True])
    assert read_side.rebuild().run(lambda: next(looks), begins=None) is None
    stopped_at = next(each for each in read_side.generations() if each.number == half.number)
    assert 0 < stopped_at.events < 8

    read_side.rebuilds.resume(USERS)
    read_side.rebuilds.join()

    assert states(read_side) == [(1, CURRENT), (2, CHECKED)]
    report = read_side.answer("projections.report", name="users", generation=2)
    assert (report["result"], report["events"]) == ("equal", 8)


def test_a_check_that_is_cancelled_while_it_compares_ends(
    read_side: ReadSide, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(read_side)
    monkeypatch.setattr("workers.projections.comparison.PAGE", 1)
    read_model = before_call(
        read_side.read_model,
        "generations",
        lambda: read_side.read_model.cancel(USERS, now_us=read_side.now_us),
        at=4,
    )

    assert read_side.rebuild(read_model=read_model).run(lambda: False, begins=None) is None

    assert states(read_side) == [(1, CURRENT), (2, GenerationState.RETIRED)]
    assert read_side.generations()[1].why is Why.CANCELLED


def test_a_check_beside_rows_of_another_history_becomes_their_rebuild(
    read_side: ReadSide, people: list[int]
) -> None:
    begun(read_side)
    of_others = Mark(1, uuid4())
    read_side.change_rows(
        "UPDATE generations SET marks = ? WHERE number = 1", History(1, (of_others,)).to_bytes()
    )

    assert read_side.rebuild().run(lambda: False, begins=None) is not None

    assert states(read_side) == [(1, GenerationState.RETIRED), (2, CURRENT)]
    assert read_side.current().why is Why.OTHER_HISTORY


def test_a_resume_without_unfinished_work_begins_nothing(read_side: ReadSide, people: list[int]) -> None:
    read_side.rebuilds.resume(USERS)
    read_side.rebuilds.join()

    assert states(read_side) == [(1, CURRENT)]


# --- requests ----------------------------------------------------------------------------------


def test_two_checks_attach_to_one_and_a_rebuild_is_refused_meanwhile(
    read_side: ReadSide, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_side.rebuilds, "resume", lambda _: None)

    first, second = (
        read_side.answer("projections.rebuild", name="users", check=True)["generation"] for _ in range(2)
    )
    refused = read_side.ask("projections.rebuild", name="users")

    assert first == second == 2
    assert "a check of users runs, as generation 2" in str(refused)
    (state,) = read_side.answer("projections.status", name="users")["projections"][1:]
    assert (state["state"], state["why"]) == ("building", "check")


def test_a_report_that_is_missing_is_not_found(read_side: ReadSide, people: list[int]) -> None:
    assert "no comparison" in str(read_side.ask("projections.report", name="users", generation=7))
