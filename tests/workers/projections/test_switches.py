"""Switches and rollbacks over real stores: a stored generation catches up, then readers get it, and never older rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.history import History, Mark
from domain.kernel.messages import Request
from domain.kernel.ports.read_model import GenerationState, ReadModel, Report, Why
from domain.users.projection import USERS
from tests.support.accounts import create, rename
from tests.support.model_places import Places
from tests.support.parts import before_call
from tests.support.read_side import ReadSide, a_busy_history
from tests.support.waiting import eventually
from workers.projections.projector import Projector

Start = Callable[[Projector], Projector]
CURRENT, RETIRED = GenerationState.CURRENT, GenerationState.RETIRED
BUILDING, CHECKED = GenerationState.BUILDING, GenerationState.CHECKED


@pytest.fixture
def read_model(places: Places) -> Iterator[ReadModel]:
    """Over each adapter in turn."""
    with places.new() as opening:
        yield opening()


@pytest.fixture
def rebuilt(read_side: ReadSide) -> ReadSide:
    """A read side with the generations 1, retired, and 2, current."""
    a_busy_history(read_side)
    read_side.project()
    read_side.rebuilt()
    return read_side


def states(read_side: ReadSide) -> list[tuple[int, GenerationState]]:
    return [(each.number, each.state) for each in read_side.generations()]


def switched(read_side: ReadSide, **body: object) -> int:
    """The number of the generation that a switch made current."""
    begun = read_side.answer("projections.switch", name="users", **body)
    read_side.rebuilds.join()
    assert read_side.current().number == begun["generation"]
    return int(begun["generation"])


def check(read_side: ReadSide) -> int:
    begun = read_side.answer("projections.rebuild", name="users", check=True)
    read_side.rebuilds.join()
    return int(begun["generation"])


# --- switches ----------------------------------------------------------------------------------


def test_a_rollback_catches_up_with_what_happened_since(rebuilt: ReadSide) -> None:
    late = int(rebuilt.done(create("late@example.com"))["user_id"])
    rebuilt.done(rename(late, "Latest"))
    rebuilt.project()
    before = rebuilt.rows()

    assert switched(rebuilt, rollback=True) == 1

    assert rebuilt.rows() == before
    assert late in before
    assert states(rebuilt) == [(1, CURRENT), (2, RETIRED)]


def test_rollbacks_go_to_and_fro(rebuilt: ReadSide) -> None:
    assert [switched(rebuilt, rollback=True) for _ in range(3)] == [1, 2, 1]


def test_a_repeated_rollback_that_names_its_generation_goes_no_further(rebuilt: ReadSide) -> None:
    assert [switched(rebuilt, rollback=True, generation=1) for _ in range(2)] == [1, 1]


def test_a_switch_takes_the_checked_generation(rebuilt: ReadSide) -> None:
    built = check(rebuilt)
    rebuilt.done(create("late@example.com"))
    rebuilt.project()
    before = rebuilt.rows()

    assert switched(rebuilt) == built

    assert rebuilt.rows() == before
    assert states(rebuilt) == [(1, RETIRED), (2, RETIRED), (3, CURRENT)]
    assert switched(rebuilt, rollback=True) == 2, "back to the one before, not to the oldest"


def test_readers_get_the_current_rows_until_the_other_generation_has_caught_up(
    rebuilt: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = int(rebuilt.done(create("late@example.com"))["user_id"])
    rebuilt.project()
    monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", 1)
    seen: list[bool] = []
    model = rebuilt.read_model
    watched = before_call(model, "promote", lambda: seen.append(late in rebuilt.rows()))

    assert model.resume(USERS, 1, now_us=rebuilt.now_us, why=Why.ROLLBACK)
    seen.append(late in rebuilt.rows())
    assert rebuilt.rebuild(read_model=watched).run(lambda: False, begins=None) is not None
    seen.append(late in rebuilt.rows())

    assert seen == [True, True, True]
    assert rebuilt.current().number == 1


def test_a_killed_rollback_resumes(rebuilt: ReadSide, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        rebuilt.done(create(f"late{number}@example.com"))
    rebuilt.project()
    monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", 2)
    rebuilt.read_model.resume(USERS, 1, now_us=rebuilt.now_us, why=Why.ROLLBACK)
    looks = iter([False, True])
    assert rebuilt.rebuild().run(lambda: next(looks), begins=None) is None
    assert states(rebuilt) == [(1, BUILDING), (2, CURRENT)]

    rebuilt.rebuilds.resume(USERS)
    rebuilt.rebuilds.join()

    assert states(rebuilt) == [(1, CURRENT), (2, RETIRED)]
    assert len(rebuilt.rows()) == 8


def test_rows_never_get_older_while_generations_are_switched(
    rebuilt: ReadSide, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = rebuilt.a_user("reader@example.com")
    projector = rebuilt.become(start(rebuilt.projector()))
    eventually(lambda: (projector.reached or 0) >= rebuilt.store.head(), "projected")
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            (row,) = rebuilt.read_model.rows(USERS, keys=[user])
            seen.append(int(row["version"] or 0))

    reading = threading.Thread(target=read)
    reading.start()
    try:
        for number in range(6):
            rebuilt.done(rename(user, f"Ada {number}"))
            switched(rebuilt, rollback=True)
    finally:
        done.set()
        reading.join()

    assert seen == sorted(seen)
    eventually(lambda: rebuilt.rows()[user]["version"] == 6, "the projector goes on in the last one")


# --- refusals ----------------------------------------------------------------------------------


def test_a_switch_without_a_checked_generation_is_refused(rebuilt: ReadSide) -> None:
    assert "no checked generation" in str(rebuilt.ask("projections.switch", name="users"))
    assert "has no generation 9" in str(rebuilt.ask("projections.switch", name="users", generation=9))


def test_a_rollback_without_a_retired_generation_is_refused(read_side: ReadSide) -> None:
    assert "no retired generation" in str(read_side.ask("projections.switch", name="users", rollback=True))


def test_a_generation_of_other_code_is_refused_by_name(rebuilt: ReadSide) -> None:
    request = Request("projections.switch", {"name": "users", "rollback": True})
    reply = rebuilt.reply_to(request, code_of=lambda _: "2-abc")

    assert "generation 1 of users was built by an earlier version of es, and this worker has 2-abc" in str(
        reply
    )
    assert states(rebuilt) == [(1, RETIRED), (2, CURRENT)]


def test_a_generation_of_another_history_is_refused(rebuilt: ReadSide) -> None:
    marks = History(1, (Mark(1, uuid4()),)).to_bytes()
    rebuilt.change_rows("UPDATE generations SET marks = ? WHERE number = 1", marks)

    reply = rebuilt.ask("projections.switch", name="users", rollback=True)

    assert "another history" in str(reply)


def test_a_rollback_that_other_code_resumes_is_cancelled(
    rebuilt: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.rebuild.ABANDONED_S", 0.0)
    rebuilt.read_model.resume(USERS, 1, now_us=rebuilt.now_us, why=Why.ROLLBACK)

    assert rebuilt.rebuild(code="2-abc").run(lambda: False, begins=None) is None

    assert states(rebuilt) == [(1, RETIRED), (2, CURRENT)]


@pytest.mark.parametrize("other", ["projections.rebuild", "projections.switch"])
def test_other_work_is_refused_while_a_rollback_runs(
    rebuilt: ReadSide, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr(rebuilt.rebuilds, "resume", lambda _: None)
    first, second = (
        rebuilt.answer("projections.switch", name="users", rollback=True)["generation"] for _ in range(2)
    )

    assert (first, second) == (1, 1), "two attach to one"
    assert "a rollback of users runs, as generation 1" in str(rebuilt.ask(other, name="users"))
    assert states(rebuilt) == [(1, BUILDING), (2, CURRENT)]


def test_a_rollback_to_rows_that_leave_out_more_events_is_refused(rebuilt: ReadSide) -> None:
    user = rebuilt.a_user("parked@example.com")
    rebuilt.store_event(user, "user-exploded.v9")
    rebuilt.store_event(user, "user-deleted.v1")
    rebuilt.project()
    (parked, _) = rebuilt.parked()
    rebuilt.answer("projections.parked.drop", name="users", position=parked.position)
    rebuilt.answer("projections.parked.retry", name="users", all=True)
    before = rebuilt.rows()

    rebuilt.answer("projections.switch", name="users", rollback=True)
    rebuilt.rebuilds.join()

    assert states(rebuilt) == [(1, RETIRED), (2, CURRENT)]
    assert rebuilt.rows() == before
    refused = rebuilt.ask("projections.report", name="users", generation=1)
    assert "generation 1 of users leaves out 2 events as parked that generation 2 has" in str(refused)


# --- cancelled and removed ---------------------------------------------------------------------


def test_a_cancelled_check_is_removed_and_its_thread_ends(
    rebuilt: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilt.rebuilds, "resume", lambda _: None)
    number = rebuilt.answer("projections.rebuild", name="users", check=True)["generation"]

    assert rebuilt.answer("projections.cancel", name="users")["generation"] == number

    assert states(rebuilt) == [(1, RETIRED), (2, CURRENT)]
    assert rebuilt.rebuild().run(lambda: False, begins=None) is None
    assert "nothing runs" in str(rebuilt.ask("projections.cancel", name="users"))
    assert rebuilt.current().number == 2


def test_pruning_leaves_nothing_to_roll_back_to(rebuilt: ReadSide) -> None:
    check(rebuilt)

    assert rebuilt.answer("projections.prune", name="users", keep=1)["removed"] == [1]
    assert rebuilt.answer("projections.prune", name="users")["removed"] == [3]
    assert states(rebuilt) == [(2, CURRENT)]


def test_the_history_tells_when_which_generation_was_current_and_why(rebuilt: ReadSide) -> None:
    switched(rebuilt, rollback=True)

    phases = rebuilt.answer("projections.history", name="users")["phases"]

    assert [(each["generation"], each["state"], each["why"]) for each in phases] == [
        (1, "current", "first-use"),
        (2, "building", "rebuild"),
        (2, "current", "rebuild"),
        (1, "building", "rollback"),
        (1, "current", "rollback"),
    ]
    assert [each["to"] is None for each in phases] == [False, False, False, False, True]
    assert (phases[1]["rows"], phases[1]["events"], phases[1]["now"]) == (3, 8, "retired")


# --- comparisons of stored generations ---------------------------------------------------------


def compared(read_side: ReadSide, **body: object) -> Any:
    first, second = read_side.answer("projections.diff", name="users", **body)["generations"]
    read_side.rebuilds.join()
    return read_side.ask("projections.report", name="users", first=first, second=second)


def test_a_retired_generation_is_compared_at_the_position_of_the_current_one(rebuilt: ReadSide) -> None:
    rebuilt.done(create("late@example.com"))
    rebuilt.project()

    found = compared(rebuilt)

    assert (found["result"], found["generations"], found["rows"]) == ("equal", [2, 1], [4, 4])
    assert states(rebuilt) == [(1, RETIRED), (2, CURRENT)]


def test_a_difference_is_told_of_the_generation_that_has_it(rebuilt: ReadSide) -> None:
    first, *_ = rebuilt.rows()
    rebuilt.change_rows("DELETE FROM users_g1 WHERE user_id = ?", first)

    for pair, only in (((1, 2), "only_second"), ((2, 1), "only_first")):
        found = compared(rebuilt, first=pair[0], second=pair[1])
        assert found["generations"] == [*pair]
        assert found[only] == {"rows": 1, "keys": [str(first)]}


def test_two_generations_that_are_not_current_are_compared_where_the_later_one_is(rebuilt: ReadSide) -> None:
    later = rebuilt.done(create("late@example.com"))["position"]
    rebuilt.project()
    built = check(rebuilt)
    rebuilt.done(create("later@example.com"))
    rebuilt.project()

    found = compared(rebuilt, first=1, second=built)

    assert (found["result"], found["position"], found["rows"]) == ("equal", later, [4, 4])


def test_an_interrupted_comparison_is_made_again(rebuilt: ReadSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilt.rebuilds, "resume", lambda _: None)
    assert rebuilt.answer("projections.diff", name="users")["generations"] == [2, 1]
    rebuilt.rebuild().compare(lambda: True)
    assert rebuilt.answer("projections.report", name="users", first=2, second=1)["running"]

    rebuilt.rebuild().compare(lambda: False)

    assert rebuilt.answer("projections.report", name="users", first=2, second=1)["result"] == "equal"


def test_a_comparison_of_a_generation_that_is_removed_meanwhile_ends(
    rebuilt: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilt.rebuilds, "resume", lambda _: None)
    rebuilt.answer("projections.diff", name="users")
    model = before_call(rebuilt.read_model, "parked", lambda: rebuilt.read_model.prune(USERS))

    rebuilt.rebuild(read_model=model).compare(lambda: False)

    assert "no comparison" in str(rebuilt.ask("projections.report", name="users", first=2, second=1))


def test_a_rebuild_that_is_cancelled_and_removed_meanwhile_ends(rebuilt: ReadSide) -> None:
    rebuilt.read_model.begin_rebuild(USERS, now_us=rebuilt.now_us)
    model = before_call(
        rebuilt.read_model, "count", lambda: rebuilt.answer("projections.cancel", name="users")
    )

    assert rebuilt.rebuild(read_model=model).run(lambda: False, begins=None) is None

    assert states(rebuilt) == [(2, CURRENT)]


def test_a_generation_of_other_code_is_not_filled_for_a_comparison(rebuilt: ReadSide) -> None:
    rebuilt.done(create("late@example.com"))
    rebuilt.project()
    rebuilt.read_model.save_report(USERS, Report(2, 1, rebuilt.now_us, ""))

    rebuilt.rebuild(code="2-abc").compare(lambda: False)

    reply = rebuilt.ask("projections.report", name="users", first=2, second=1)
    assert "built by an earlier version of es" in str(reply)


@pytest.fixture(autouse=True)
def _ended(read_side: ReadSide) -> Iterator[None]:
    yield
    read_side.rebuilds.join()


# --- changed code ------------------------------------------------------------------------------


def test_a_status_tells_that_other_code_built_the_current_generation(read_side: ReadSide) -> None:
    read_side.read_model.prepare(USERS, now_us=read_side.now_us, code="1-old")
    ask = Request("projections.status", {"name": "users"})

    for code, is_other in (("1-old", False), ("1-new", True)):
        reply = read_side.reply_to(ask, code_of=lambda _, code=code: code)
        assert isinstance(reply, dict)
        (state,) = reply["projections"]
        assert (state["code"], state["other_code"]) == ("1-old", is_other)


def test_a_generation_of_an_earlier_version_is_no_alarm(read_side: ReadSide) -> None:
    read_side.prepare()

    reply = read_side.reply_to(Request("projections.status", {"name": "users"}), code_of=lambda _: "1-new")

    assert isinstance(reply, dict)
    assert reply["projections"][0]["other_code"] is False


def test_a_rebuild_that_other_code_resumes_starts_over(
    read_side: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_busy_history(read_side)
    read_side.project()
    monkeypatch.setattr("workers.projections.rebuild.ABANDONED_S", 0.0)
    begun = read_side.read_model.begin_rebuild(USERS, now_us=read_side.now_us, code="1-old")

    built = read_side.rebuild(code="1-new").run(lambda: False, begins=None)

    assert built is not None
    assert (built.number, built.code) == (begun.number + 1, "1-new")


def test_a_status_tells_how_fast_a_rebuild_is_and_how_long_it_still_takes(
    rebuilt: ReadSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", 4)
    began_us = rebuilt.now_us
    rebuilt.read_model.begin_rebuild(USERS, now_us=began_us, why=Why.CHECK)
    looks = iter([False, False, True, True])
    rebuilt.rebuild().run(lambda: next(looks), begins=None)
    half = next(each for each in rebuilt.generations() if each.state is BUILDING)

    reply = rebuilt.reply_to(
        Request("projections.status", {"name": "users"}), now_us=lambda: began_us + 2_000_000
    )

    assert isinstance(reply, dict)
    (state,) = [each for each in reply["projections"] if each["state"] == "building"]
    assert (state["why"], state["events"], state["events_per_s"]) == ("check", 4, 2)
    share = half.checkpoint / rebuilt.store.head()
    assert state["left_s"] == round(2 * (1 - share) / share, 1)
