"""The ledger finds rows that disagree with their streams, ids that are given twice, and what is no journal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import cast

import pytest

import es
from domain.kernel.errors import PartUnavailable
from es.connection import TIMEOUT_S
from load.ledger import check_with, patient
from load.scratch import InvalidJournal
from tests.support.kept import USER, Journal, Kept


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


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

    assert kept.reasons() == [("wrong", f"the row differs from the stream in {field}")]


def test_a_missing_row_is_wrong_and_rows_of_others_are_left_out(kept: Kept) -> None:
    for number in range(1, 9):
        kept.create(number * 1024, email=f"{number}@example.com")
        kept.rows[number * 1024 + 1] = {"user_id": str(number * 1024 + 1), "version": 9}
    del kept.rows[3 * 1024]

    assert kept.reasons() == [("wrong", "the read model has no row")]


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
    assert kept.reasons() == [("wrong", "the row shows version 1, the stream ends at 0")]


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


# --- unavailable parts -----------------------------------------------------------------------


def test_a_query_is_repeated_while_a_part_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    left = [es.Unavailable("unavailable", es.Kind.UNAVAILABLE, "", "") for _ in range(3)]
    told: list[str] = []

    class Client:
        def ask(self, kind: str, body: object) -> dict[str, object]:
            if left:
                raise left.pop()
            return {"kind": kind}

    ask = patient(cast(es.Client, Client()), lambda step, _: told.append(step))

    assert ask("users.list", {}) == {"kind": "users.list"}
    assert told == ["waiting"] * 3


def test_an_error_that_stays_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    monkeypatch.setattr("load.ledger._PATIENCE_S", 0.0)

    class Client:
        def ask(self, kind: str, body: object) -> dict[str, object]:
            raise es.Unavailable("unavailable", es.Kind.UNAVAILABLE, "the workers", "")

    with pytest.raises(es.Unavailable, match="the workers"):
        patient(cast(es.Client, Client()), lambda *_: None)("users.list", {})
