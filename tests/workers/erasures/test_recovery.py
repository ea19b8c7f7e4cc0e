"""Erasures after crashes, outages, damage, and a restored vault or store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, PartUnavailable
from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.history import History, Mark
from domain.kernel.messages import Request
from domain.kernel.ports.vault import Destruction, LivingKey, Quarantined
from domain.users.account import ERASING, UserErased
from tests.support.accounts import ADA, ALAN, GRACE, change, create, delete, erase
from tests.support.builders import append
from tests.support.erasures import Erasures, Letters
from tests.support.parts import Steps, before_call, crashed, every_crash, replaced, unavailable
from tests.support.vaults import holder
from workers.users.owed import LISTED

# --- crashes and outages ---------------------------------------------------------------------


def prepared(folder: Path, log: Log) -> tuple[Erasures, int, int]:
    """A user to erase, who had three addresses, and another user."""
    erasures = Erasures(folder, log)
    user_id, other = erasures.a_user(ADA), erasures.a_user("other@example.com")
    for command in (change(user_id, GRACE), change(user_id, ALAN), erase(user_id)):
        erasures.done(command)
    return erasures, user_id, other


def final_state(erasures: Erasures, user_id: int, other: int) -> tuple[object, ...]:
    return (
        erasures.is_erased(user_id),
        erasures.holders(ADA, GRACE, ALAN),
        [type_ for type_ in erasures.types(user_id) if type_ != "email-change-abandoned.v1"],
        erasures.active(),
        erasures.states(other),
    )


def test_a_process_that_crashed_at_any_step_resumes_to_the_same_state(tmp_path: Path, log: Log) -> None:
    def running(erasures: Erasures) -> Callable[[Steps], object]:
        return lambda steps: erasures.run(**steps.watched(store=erasures.store, vault=erasures.vault))

    erasures, user_id, other = prepared(tmp_path / "complete", log)
    with closing(erasures):
        places = every_crash(running(erasures))
        expected = final_state(erasures, user_id, other)
        assert erasures.completions(user_id) == 1
    assert len(places) > 20

    for at, after in places:
        erasures, user_id, other = prepared(tmp_path / f"{at}{after}", log)
        with closing(erasures):
            where = crashed(running(erasures), at, after=after)
            erasures.run()
            assert final_state(erasures, user_id, other) == expected, where
            assert erasures.completions(user_id) == 1, where
            assert erasures.owed() == {}, where


def test_two_processes_at_once_complete_an_erasure_once(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))

    erasures.run(store=before_call(erasures.store, "append", erasures.run))
    erasures.run()

    assert erasures.completions(user_id) == 1
    assert erasures.is_erased(user_id)


@pytest.mark.parametrize(
    ("part", "method"),
    [
        ("store", "append"),
        ("vault", "owe"),
        ("vault", "destroy"),
        ("vault", "forget_tags"),
        ("vault", "remove_residue"),
        ("vault", "settle_erasures"),
    ],
)
def test_an_outage_at_any_step_loses_no_erasure(erasures: Erasures, part: str, method: str) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))

    with suppress(PartUnavailable):
        erasures.run(**{part: replaced(getattr(erasures, part), **{method: unavailable})})
    assert erasures.owed().keys() == {user_id} or erasures.vault.checkpoint(LISTED) == History()

    erasures.run()

    assert erasures.completions(user_id) == 1
    assert erasures.is_erased(user_id)
    assert erasures.owed() == {}


@pytest.mark.parametrize("what", ["an erased user", "a user with a new address"])
def test_a_damaged_stream_does_not_block_the_erasure_of_others(erasures: Erasures, what: str) -> None:
    damaged, waiting = erasures.a_user(ADA), erasures.a_user(GRACE)
    erasures.done(erase(damaged) if what == "an erased user" else change(damaged, ALAN))
    erasures.damage(damaged)
    erasures.done(erase(waiting))

    for _ in range(3):
        with suppress(EsError):  # it may report the damage, but must not stop at it
            erasures.run()

    assert erasures.is_erased(waiting)
    assert erasures.completions(waiting) == 1


DAMAGES: dict[str, Callable[[Erasures, int], None]] = {
    "a damaged key": lambda e, user_id: e.change_vault(
        "UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = ?", user_id
    ),
    "a missing key": lambda e, user_id: e.change_vault("DELETE FROM data_keys WHERE subject = ?", user_id),
    "a damaged event": lambda e, user_id: e.damage(user_id),
    "forged ciphertext": lambda e, user_id: e.store_event(user_id, "user-renamed.v1", b'{"name":"es1:x"}'),
    "an event of a newer version": lambda e, user_id: e.store_event(user_id, "user-promoted.v9"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("is_deleted", [False, True], ids=["active", "deleted"])
def test_a_person_with_unreadable_data_can_be_erased(
    erasures: Erasures, damage: str, is_deleted: bool
) -> None:
    user_id = erasures.a_user(ADA)
    DAMAGES[damage](erasures, user_id)
    if is_deleted:
        erasures.done(delete(user_id))
    letters = Letters({"unreadable": f"<{ADA}>"})

    erasures.done(erase(user_id))
    erasures.run(dead_letters=letters)

    assert erasures.is_erased(user_id)
    assert erasures.completions(user_id) == 1
    assert letters.items == [], "the tag of the claim tells whose address it is"
    assert erasures.done(create(ADA))["user_id"] != str(user_id), "the address is free"
    (status,) = erasures.queries().handle([Request("erasures.status", {"user_id": str(user_id)})])
    assert isinstance(status, dict)
    assert status["erasure"] == "completed"


@pytest.mark.parametrize("type_", [*ERASING, "user-erased.v9"])
def test_an_erasure_counts_by_its_type_alone(erasures: Erasures, type_: str) -> None:
    user_id = erasures.a_user(ADA)
    erasures.store_event(user_id, type_, b"not JSON")

    erasures.process().run(lambda: False)

    assert erasures.is_erased(user_id)


def test_an_event_in_a_stream_without_a_user_id_is_quarantined_and_blocks_no_erasure(
    erasures: Erasures,
) -> None:
    user_id = erasures.a_user(ADA)
    for stream, type_ in (
        ("user-abc", "user-erased.v1"),
        ("user-007", UserErased.type),
        ("user-x", "user-deleted.v1"),
        ("user-y", "mail-sent.v1"),
    ):
        append(erasures.store, stream, NO_STREAM, [EventData(uuid4(), type_, b"{}", b"{}")])
    erasures.done(erase(user_id))

    erasures.run()

    assert erasures.is_erased(user_id)
    assert erasures.owed() == {}
    why = "the name of the stream has no user id"
    assert erasures.vault.quarantined() == [
        Quarantined(2, "user-abc", "user-erased.v1", why),
        Quarantined(3, "user-007", UserErased.type, why),
        Quarantined(4, "user-x", "user-deleted.v1", why),
    ]


def test_a_deletion_of_a_damaged_user_frees_the_address(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.damage(user_id)

    erasures.done(delete(user_id))
    erasures.run()

    assert holder(erasures.vault, ADA) is None


def damaged_for(erasures: Erasures, user_id: int, method: str) -> Any:
    """The vault with a damaged page: a method fails whenever this user is among its people."""

    def fails(people: Any, *args: Any, **more: Any) -> Any:
        if any(
            each == user_id or (isinstance(each, Destruction) and each.subject == user_id) for each in people
        ):
            raise Damaged("vault", "a page is torn")
        return getattr(erasures.vault, method)(people, *args, **more)

    return replaced(erasures.vault, **{method: fails})


def test_an_erasure_that_damage_prevents_stays_owed_and_is_completed_later(erasures: Erasures) -> None:
    damaged, other = erasures.a_user(ADA), erasures.a_user(GRACE)
    for user_id in (damaged, other):
        erasures.done(erase(user_id))

    erasures.run(vault=damaged_for(erasures, damaged, "destroy"))

    assert (erasures.is_erased(damaged), erasures.is_erased(other)) == (False, True)
    assert erasures.completions(other) == 1
    assert erasures.owed() == {damaged: "decided"}
    assert "a page is torn" in erasures.why_owed(damaged)
    assert erasures.vault.checkpoint(LISTED).position == erasures.store.head() - 1, (
        "it is listed, not waited for"
    )
    erasures.run()
    assert (erasures.is_erased(damaged), erasures.completions(damaged)) == (True, 1)
    assert erasures.owed() == {}


@pytest.mark.parametrize("method", ["data_keys", "owed_tags", "forget_tags", "settle_erasures"])
def test_a_damaged_page_of_one_person_delays_no_other_cleaning(erasures: Erasures, method: str) -> None:
    damaged, other = erasures.a_user(ADA), erasures.a_user(GRACE)
    for user_id in (damaged, other):
        erasures.done(erase(user_id))
    letters = Letters({"unreadable": GRACE})

    erasures.run(vault=damaged_for(erasures, damaged, method), dead_letters=letters)

    assert erasures.is_erased(damaged)
    assert erasures.owed() == {damaged: "key-destroyed"}
    assert "a page is torn" in erasures.why_owed(damaged)
    assert (erasures.completions(other), letters.items) == (1, [])
    erasures.run()
    assert (erasures.owed(), erasures.completions(damaged)) == ({}, 1)


# --- an older copy was restored --------------------------------------------------------------


def test_an_erasure_after_older_events_were_restored_is_carried_out(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.run()
    lost = erasures.store.head() + 5000  # the vault has a checkpoint after the head
    erasures.vault.save_checkpoint(LISTED, History(lost, (Mark(lost, uuid4()),)))

    erasures.run()
    erasures.done(erase(user_id))
    erasures.run()

    assert erasures.is_erased(user_id)
    assert erasures.completions(user_id) == 1
    assert erasures.vault.checkpoint(LISTED).position < lost


def test_an_erasure_before_the_position_of_another_history_is_carried_out(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    erasures.a_user(GRACE)
    # The vault is a copy of one that followed another history up to the same position.
    head = erasures.store.head()
    erasures.vault.save_checkpoint(LISTED, History(head, (Mark(1, uuid4()), Mark(head, uuid4()))))

    erasures.run()

    assert erasures.is_erased(user_id)
    assert erasures.completions(user_id) == 1
    assert [each.process for each in erasures.vault.divergences()] == [LISTED]


def copied(erasures: Erasures, source: Path, target: Path) -> None:
    """Copy a file of a closed vault, then open the vault."""
    erasures.vault.close()
    if target == erasures.vault_path:
        for leftover in target.parent.glob("vault.db-*"):
            leftover.unlink()
    shutil.copy(source, target)
    erasures.vault = erasures.open_vault()


def asked(erasures: Erasures, user_id: int) -> Any:
    (status,) = erasures.queries().handle([Request("erasures.status", {"user_id": str(user_id)})])
    return status


def opens(erasures: Erasures, user_id: int) -> bool:
    return isinstance(erasures.vault.data_keys([user_id])[user_id], LivingKey)


def test_nothing_beyond_a_restored_checkpoint_opens_once_it_is_listed(
    erasures: Erasures, tmp_path: Path
) -> None:
    user_id, other = erasures.a_user(ADA), erasures.a_user(GRACE)
    copied(erasures, erasures.vault_path, tmp_path / "backup.db")
    erasures.done(erase(user_id))
    erasures.run()
    copied(erasures, tmp_path / "backup.db", erasures.vault_path)
    assert opens(erasures, user_id)

    erasures.listing().up_to_head(lambda: False)

    assert not opens(erasures, user_id)
    assert opens(erasures, other)
    assert erasures.owed() == {user_id: "decided"}
    erasures.run()
    assert (erasures.owed(), erasures.is_erased(user_id)) == ({}, True)


def test_keys_in_a_restored_vault_are_destroyed_again(erasures: Erasures, tmp_path: Path) -> None:
    first, second, kept = erasures.a_user(ADA), erasures.a_user(GRACE), erasures.a_user(ALAN)
    erasures.done(erase(first))
    erasures.run()
    copied(erasures, erasures.vault_path, tmp_path / "backup.db")
    erasures.done(erase(second))
    erasures.run()
    head = erasures.store.head()

    copied(erasures, tmp_path / "backup.db", erasures.vault_path)
    assert erasures.has_key(second), "the backup has the key"
    assert erasures.vault.checkpoint(LISTED).position < head
    assert asked(erasures, second)["erasure"] == "decided", "it is measured, and listed at once"
    assert not opens(erasures, second)
    assert asked(erasures, first)["erasure"] == "completed"
    erasures.run()
    assert asked(erasures, second)["erasure"] == "completed"

    assert erasures.is_erased(first)
    assert erasures.is_erased(second)
    assert holder(erasures.vault, GRACE) is None
    assert erasures.has_key(kept)
    assert erasures.store.head() == head, "nothing is completed a second time"


def test_a_vault_from_before_all_erasures_catches_up(erasures: Erasures, tmp_path: Path) -> None:
    ids = [erasures.a_user(f"user{number}@example.com") for number in range(5)]
    copied(erasures, erasures.vault_path, tmp_path / "backup.db")
    for user_id in ids[:4]:
        erasures.done(erase(user_id))
    erasures.run()

    copied(erasures, tmp_path / "backup.db", erasures.vault_path)
    erasures.run()

    assert [erasures.is_erased(user_id) for user_id in ids] == [True] * 4 + [False]
