"""The ledger finds each command with another effect than its answer says, over a made-up system."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kept import USER, Kept


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


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

    assert kept.reasons() == [("lost", "its event is at version 1, not at 2 as answered")]


def test_an_event_of_another_type_is_no_effect(kept: Kept) -> None:
    kept.create(USER)
    sent = kept.journal.send("users.rename", user_id=str(USER), name="B")
    event = kept.store(f"user-{USER}", "user-deleted.v1", sent.id, command="rename-user")
    kept.rows[USER].update(status="deleted", version=1)
    kept.answer(sent, event)

    assert kept.reasons() == [("lost", "its event is a user-deleted.v1")]


def test_an_event_in_another_stream_than_answered_is_no_effect(kept: Kept) -> None:
    kept.create(USER)
    kept.create(8192, email="b@example.com")
    sent = kept.journal.send("users.rename", user_id="8192", name="C")
    kept.answer(sent, kept.keep(sent, USER), user_id="8192")

    assert ("lost", "its event is in another stream than its answer says") in kept.reasons()


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

    assert kept.reasons() == [("twice", "it has 2 events, more than one effect")]


def test_events_of_one_command_in_two_streams_are_two_effects(kept: Kept) -> None:
    sent = kept.journal.send("users.create", email="a@example.com", name="A")
    kept.answer(sent, kept.keep(sent, USER))
    kept.keep(sent, 8192)

    assert kept.check().twice == 1


def test_an_append_that_goes_on_after_the_answered_version_is_twice(kept: Kept) -> None:
    opened = kept.journal.send("shelves.open", shelf_id="3", label="novels")
    kept.answer(opened, kept.store("shelf-3", "shelf-opened.v1", opened.id, command="open-shelf"))
    kept.store("shelf-3", "shelf-opened.v1", opened.id, command="open-shelf")

    assert kept.reasons() == [("twice", "its events end at version 1, not at 0 as answered")]


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

    assert kept.reasons() == [("twice", "it was refused, and has events")]
    assert kept.check().refused == 2


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
