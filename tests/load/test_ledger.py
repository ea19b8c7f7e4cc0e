"""The ledger finds each disagreement between what was answered and what was kept, over a made-up system."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from domain.kernel.errors import PartUnavailable
from es.connection import TIMEOUT_S
from load.ledger import check_with
from load.results import Ledger
from load.scratch import InvalidJournal
from tests.support.kept import Journal, Kept

USER = 7 * 1024


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def reasons(ledger: Ledger) -> list[tuple[str, str]]:
    return [(found["kind"], found["why"]) for found in ledger.findings]


# --- accepted --------------------------------------------------------------------------------


def test_a_healthy_run_is_clean(kept: Kept) -> None:
    for number in range(1, 12):
        kept.create(number * 1024, email=f"u{number}@example.com", name=f"User {number}")
    kept.change("rename", USER, name="Ada King")
    kept.change("change-email", USER, email="king@example.com")
    kept.change("delete", USER)
    kept.change("erase", 1024)
    kept.give(20 * 1024, 5)

    ledger = kept.check()

    assert ledger.is_clean, ledger
    assert (ledger.commands, ledger.accepted, ledger.refused, ledger.unanswered) == (15, 15, 0, 0)
    assert ledger.ids == 5 + 11


def test_an_accepted_create_without_an_event_is_lost(kept: Kept) -> None:
    kept.create(USER)
    sent = kept.journal.send("users.create", email="b@example.com", name="B")
    kept.answer(sent, {"stream": "user-8192", "version": 0, "position": 13})

    ledger = kept.check()

    assert (ledger.lost, ledger.twice) == (1, 0)
    (found,) = ledger.findings
    assert found == {
        "kind": "lost",
        "command_id": sent.id,
        "operation": "create",
        "stream": "user-8192",
        "why": "it was accepted, and has no event",
    }


def test_an_event_at_another_version_than_answered_is_no_effect_of_the_answer(kept: Kept) -> None:
    kept.create(USER)
    sent = kept.journal.send("users.rename", user_id=str(USER), name="B")
    kept.answer(sent, kept.keep(sent, USER), version=2)

    assert reasons(kept.check()) == [("lost", "its event is at version 1, not at 2 as answered")]


def test_an_event_of_another_type_is_no_effect(kept: Kept) -> None:
    kept.create(USER)
    sent = kept.journal.send("users.rename", user_id=str(USER), name="B")
    event = kept.store(f"user-{USER}", "user-deleted.v1", sent.id, command="rename-user")
    kept.rows[USER].update(status="deleted", version=1)
    kept.answer(sent, event)

    assert reasons(kept.check()) == [("lost", "its event is a user-deleted.v1")]


def test_an_event_in_another_stream_than_answered_is_no_effect(kept: Kept) -> None:
    kept.create(USER)
    kept.create(8192, email="b@example.com")
    sent = kept.journal.send("users.rename", user_id="8192", name="C")
    kept.answer(sent, kept.keep(sent, USER), user_id="8192")

    assert ("lost", "its event is in another stream than its answer says") in reasons(kept.check())


# --- commands that change nothing ------------------------------------------------------------


def test_a_rename_to_the_same_name_needs_no_event(kept: Kept) -> None:
    event = kept.create(USER, name="Ada")
    sent = kept.journal.send("users.rename", user_id=str(USER), name=" Ada ")
    kept.answer(sent, event)
    moved = kept.journal.send("users.change-email", user_id=str(USER), email="ADA@example.com")
    kept.answer(moved, event)

    assert kept.check().is_clean


def test_a_rename_that_names_the_last_event_but_changed_nothing_is_lost(kept: Kept) -> None:
    event = kept.create(USER, name="Ada")
    sent = kept.journal.send("users.rename", user_id=str(USER), name="Ada King")
    kept.answer(sent, event)

    assert kept.check().lost == 1


def test_a_command_of_another_service_may_change_nothing(kept: Kept) -> None:
    opened = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    event = kept.store("shelf-3", "shelf-opened.v1", opened.id, command="open-shelf")
    kept.answer(opened, event)
    again = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    kept.answer(again, event)
    lost = kept.journal.send("shelves.put-book", shelf_id="3", title="Emma")
    kept.answer(lost, {"stream": "shelf-3", "version": 1, "position": 99})

    ledger = kept.check()

    assert (ledger.accepted, ledger.lost) == (3, 1)


def test_an_answer_that_names_the_event_of_a_later_command_was_lost(kept: Kept) -> None:
    """The worker promised a place, died before it stored, and another command got the place."""
    opened = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    kept.answer(opened, kept.store("shelf-3", "shelf-opened.v1", opened.id, command="open-shelf"))
    lost = kept.journal.send("shelves.put-book", shelf_id="3", title="Emma")
    kept.answer(lost, {"stream": "shelf-3", "version": 1, "position": 13})
    later = kept.journal.send("shelves.put-book", shelf_id="3", title="Persuasion")
    unchanged = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    event = kept.store("shelf-3", "book-put.v1", later.id, command="put-book")
    kept.answer(unchanged, event)
    kept.answer(later, event)

    ledger = kept.check()

    assert [found["command_id"] for found in ledger.findings] == [lost.id]


def test_a_command_that_changed_nothing_may_name_an_event_from_before_the_run(kept: Kept) -> None:
    early = kept.store("shelf-3", "shelf-opened.v1", "00000000-0000-0000-0000-000000000001")
    early["position"] = 4
    again = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    kept.answer(again, early)

    assert kept.check().is_clean


# --- more than one effect --------------------------------------------------------------------


def test_two_events_of_one_command_are_two_effects(kept: Kept) -> None:
    kept.create(USER)
    sent = kept.journal.send("users.rename", user_id=str(USER), name="B")
    kept.answer(sent, kept.keep(sent, USER))
    kept.keep(sent, USER)

    assert reasons(kept.check()) == [("twice", "it has 2 events, more than one effect")]


def test_events_of_one_command_in_two_streams_are_two_effects(kept: Kept) -> None:
    sent = kept.journal.send("users.create", email="a@example.com", name="A")
    kept.answer(sent, kept.keep(sent, USER))
    kept.keep(sent, 8192)

    assert kept.check().twice == 1


def test_an_append_that_goes_on_after_the_answered_version_is_twice(kept: Kept) -> None:
    opened = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    kept.answer(opened, kept.store("shelf-3", "shelf-opened.v1", opened.id, command="open-shelf"))
    kept.store("shelf-3", "shelf-opened.v1", opened.id, command="open-shelf")

    assert reasons(kept.check()) == [("twice", "its events end at version 1, not at 0 as answered")]


def test_a_command_of_another_service_may_append_several_events(kept: Kept) -> None:
    opened = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    kept.store("shelf-3", "shelf-opened.v1", opened.id, command="open-shelf")
    kept.answer(opened, kept.store("shelf-3", "book-put.v1", opened.id, command="open-shelf"))

    assert kept.check().is_clean


def test_an_effect_under_an_unknown_command_id_on_an_own_stream_is_twice(kept: Kept) -> None:
    kept.create(USER)
    kept.change("rename", USER, name="B")
    unknown = "00000000-0000-0000-0000-000000000001"
    kept.store(f"user-{USER}", "user-renamed.v1", unknown, command="rename-user")
    kept.rows[USER]["version"] = 2

    ledger = kept.check()

    assert ledger.findings == [
        {
            "kind": "twice",
            "command_id": unknown,
            "operation": "rename-user",
            "stream": f"user-{USER}",
            "why": "version 2 has an event of a command that the run did not send",
        }
    ]


def test_events_of_others_are_left_out(kept: Kept) -> None:
    """Erasures, claims, processes, the clean-up of an earlier run, and other clients on their own streams."""
    event = kept.create(USER)
    kept.change("rename", USER, name="B")
    kept.change("erase", USER)
    unknown = "00000000-0000-0000-0000-00000000000"
    kept.store("user-99", "user-registered.v1", f"{unknown}1")
    kept.store(f"user-{USER}", "erasure-completed.v2", f"{unknown}2", command="complete-erasure")
    kept.store(f"user-{USER}", "user-renamed.v1", f"{unknown}3", command="rename-user", actor="process:names")
    kept.store(f"user-{USER}", "user-renamed.v1", f"{unknown}4", command="rename-user", actor="load-cleanup")
    kept.store(f"created-user-{event['command_id']}", "id-assigned.v1", event["command_id"])
    kept.store("lane-5", "lane-granted.v1", f"{unknown}5", command="grant-lane")
    kept.rows[USER]["version"] = 5

    assert kept.check().is_clean


# --- refused and unanswered ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refused", "invalid", "not-found"])
def test_a_refused_command_has_no_effect(kept: Kept, kind: str) -> None:
    kept.create(USER)
    kept.journal.fail(kept.journal.send("users.create", email="b@example.com", name="B"), "email-taken", kind)
    assert kept.check().is_clean

    sent = kept.journal.send("users.rename", user_id=str(USER), name="B")
    kept.journal.fail(sent, "user-deleted", kind)
    kept.keep(sent, USER)

    ledger = kept.check()

    assert reasons(ledger) == [("twice", "it was refused, and has events")]
    assert ledger.refused == 2


@pytest.mark.parametrize("kind", ["unavailable", "damaged", None])
def test_an_unanswered_command_has_at_most_one_effect(kept: Kept, kind: str | None) -> None:
    for number in range(3):
        sent = kept.journal.send("users.create", email=f"{number}@example.com", name="A")
        if number > 0:
            kept.keep(sent, USER + 1024 * number)
        if kind is not None:
            kept.journal.fail(sent, "unavailable", kind)

    ledger = kept.check()

    assert ledger.is_clean
    assert (ledger.unanswered, ledger.unanswered_carried_out, ledger.accepted) == (3, 2, 0)

    kept.keep(sent, USER + 1024 * number)

    assert kept.check().twice == 1


# --- read model ------------------------------------------------------------------------------


def test_a_skipped_event_is_found_in_the_row(kept: Kept) -> None:
    kept.create(USER)
    kept.change("rename", USER, name="Ada King")
    kept.change("change-email", USER, email="king@example.com")
    assert kept.check().is_clean

    kept.rows[USER]["name"] = "Ada"

    ledger = kept.check()

    assert ledger.wrong == 1
    assert ledger.findings[0]["why"] == "the row differs from the stream in name"


@pytest.mark.parametrize(
    ("field", "value"), [("email", "b@example.com"), ("status", "deleted"), ("version", 1)]
)
def test_each_field_of_a_row_is_compared(kept: Kept, field: str, value: object) -> None:
    for number in range(1, 9):
        kept.create(number * 1024, email=f"{number}@example.com")
    kept.rows[1024 * 8][field] = value

    assert reasons(kept.check()) == [("wrong", f"the row differs from the stream in {field}")]


def test_a_missing_row_is_wrong_and_rows_of_others_are_left_out(kept: Kept) -> None:
    for number in range(1, 9):
        kept.create(number * 1024, email=f"{number}@example.com")
        kept.rows[number * 1024 + 1] = {"user_id": str(number * 1024 + 1), "version": 9}
    del kept.rows[3 * 1024]

    assert reasons(kept.check()) == [("wrong", "the read model has no row")]


def test_values_that_another_client_set_are_not_compared(kept: Kept) -> None:
    kept.create(USER)
    kept.store(
        f"user-{USER}", "user-renamed.v1", "00000000-0000-0000-0000-000000000001", command="rename-user"
    )
    kept.rows[USER].update(name="Other", version=1)

    assert kept.check().is_clean


def test_the_version_of_a_row_of_another_service_is_compared_if_it_has_one(kept: Kept) -> None:
    opened = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    kept.answer(opened, kept.store("shelf-3", "shelf-opened.v1", opened.id, command="open-shelf"))
    assert kept.check().is_clean

    kept.others["3"] = {"shelf_id": "3", "version": 0}
    assert kept.check().is_clean

    kept.others["3"]["version"] = 1
    assert reasons(kept.check()) == [("wrong", "the row shows version 1, the stream ends at 0")]


def test_a_row_that_shows_a_later_event_is_compared_again(kept: Kept) -> None:
    """An unanswered command is carried out after the events were read, and before the rows are."""
    kept.create(USER)
    late = kept.journal.send("users.rename", user_id=str(USER), name="Late")
    asked: list[str] = []

    def ask(kind: str, body: object) -> dict[str, object]:
        if kind == "users.list" and not asked:
            asked.append(kind)
            kept.keep(late, USER)
        return kept.ask(kind, body)  # type: ignore[arg-type]  # as it came

    ledger = check_with(ask, [kept.journal.path], since_position="5", on_progress=lambda step, done: None)

    assert ledger.is_clean, ledger
    assert ledger.unanswered_carried_out == 1


# --- ids -------------------------------------------------------------------------------------


def test_an_id_that_two_requests_got_is_found(kept: Kept) -> None:
    kept.give(10 * 1024 + 3, 4)
    kept.give(14 * 1024 + 3, 4)
    kept.give(10 * 1024 + 4, 4)  # of another lane
    assert kept.check().is_clean

    other = Kept(kept.folder)
    other.journal = Journal(kept.folder / "2.ndjson")
    kept.journals.append(other.journal)
    other.give(15 * 1024 + 3, 9)

    ledger = kept.check()

    assert ledger.shared_ids == 3
    assert ledger.findings[0]["why"] == f"id {15 * 1024 + 3} was given before"
    assert ledger.findings[0]["operation"] == "next"


def test_an_id_of_a_request_that_a_user_has_as_well_is_found(kept: Kept) -> None:
    kept.give(USER - 1024, 2)
    kept.create(USER)
    sent = kept.journal.send("users.create", email="b@example.com", name="B")
    kept.keep(sent, USER + 1024)  # carried out without an answer
    kept.give(USER + 1024)

    assert kept.check().shared_ids == 2


def test_ids_that_a_caller_chose_are_not_compared(kept: Kept) -> None:
    for _ in range(2):
        opened = kept.journal.send("shelves.open", shelf_id="3072", label="novels")
        event = kept.events[0] if kept.events else kept.store("shelf-3072", "shelf-opened.v1", opened.id)
        kept.answer(opened, event)

    ledger = kept.check()

    assert ledger.is_clean
    assert ledger.ids == 0


# --- journals --------------------------------------------------------------------------------


def test_a_line_that_a_kill_cut_short_is_left_out(kept: Kept) -> None:
    kept.create(USER)
    sent = kept.journal.send("users.create", email="b@example.com", name="B")
    with kept.journal.path.open("a") as file:
        file.write(json.dumps({"n": sent.n, "us": 900, "ok": {"command_id": sent.id}})[:-3])

    ledger = kept.check()

    assert ledger.is_clean
    assert (ledger.accepted, ledger.unanswered) == (1, 1)


@pytest.mark.parametrize(
    "line",
    [
        '{"n": 0,\n',
        "7\n",
        '{"n": 0, "us": 1}\n',
        '{"n": 99, "us": 1, "error": "x"}\n',
        '{"n": 0, "op": "create", "kind": "users.create", "id": "no", "at": 1, "in": {}}\n',
        '{"n": 0, "op": "create", "kind": "users.create", "id": null, "at": 1, "in": {}}\n',
    ],
)
def test_a_damaged_journal_is_refused(kept: Kept, line: str) -> None:
    kept.create(USER)
    with kept.journal.path.open("a") as file:
        file.write(line)

    with pytest.raises(InvalidJournal):
        kept.check()


def test_a_missing_journal_is_refused(kept: Kept) -> None:
    kept.create(USER)
    kept.journals.append(Journal(kept.folder / "2.ndjson"))
    kept.journals[1].path.unlink()

    with pytest.raises(InvalidJournal, match="no file"):
        kept.check()


def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.create(USER)

    def fail(**_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("load.scratch.tempfile.TemporaryDirectory", fail)

    with pytest.raises(PartUnavailable, match="no space left") as failed:
        kept.check()
    assert "Make room" in failed.value.hint


@pytest.mark.parametrize(("ahead_s", "slept"), [(-3600, []), (3600, [TIMEOUT_S])])
def test_events_are_read_after_the_newest_request_has_timed_out(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, ahead_s: int, slept: list[float]
) -> None:
    """A clock of another machine that is ahead does not prolong the wait."""
    waits: list[float] = []
    monkeypatch.setattr("load.ledger.time.sleep", waits.append)
    kept.create(USER)
    kept.journal.at_us = time.time_ns() // 1000 + ahead_s * 1_000_000
    kept.journal.send("users.rename", user_id=str(USER), name="B")

    assert kept.check().unanswered == 1
    assert waits == slept


def test_a_journal_that_is_given_twice_is_refused(kept: Kept) -> None:
    kept.create(USER)
    kept.journals *= 2

    with pytest.raises(InvalidJournal, match="twice"):
        kept.check()


def test_the_scratch_file_is_removed(kept: Kept) -> None:
    kept.create(USER)
    kept.check()

    assert [path.name for path in kept.folder.iterdir()] == ["1.ndjson"]
