"""Erasures after crashes, outages, damage, and a restored vault or store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from adapters.log import Log
from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.events import Position
from domain.kernel.messages import Body, Request
from domain.users.account import USER, UserErased
from tests.support.accounts import ADA, ALAN, GRACE, change, create, delete, erase
from tests.support.erasures import Erasures
from tests.support.parts import Steps, before_call, crashed, every_crash, replaced, unavailable
from workers.erasures.process import COMPLETING, DESTROYING

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
        erasures.vault.data_keys([user_id]),
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
            assert erasures.vault.checkpoint(DESTROYING) >= 5, where


def test_two_processes_at_once_complete_an_erasure_once(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))

    erasures.run(store=before_call(erasures.store, "append", erasures.run))

    assert erasures.completions(user_id) == 1
    assert erasures.is_erased(user_id)


@pytest.mark.parametrize(("part", "method"), [("store", "append"), ("vault", "destroy_key")])
def test_an_outage_is_raised_and_no_event_is_skipped(erasures: Erasures, part: str, method: str) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))

    with pytest.raises(PartUnavailable):
        erasures.run(**{part: before_call(getattr(erasures, part), method, unavailable)})
    assert erasures.vault.checkpoint(COMPLETING) < erasures.store.head()
    assert erasures.completions(user_id) == 0

    erasures.run()

    assert erasures.completions(user_id) == 1
    assert erasures.is_erased(user_id)


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
    found: list[bool] = []

    def purge(is_theirs: Callable[[Body], bool]) -> int:
        found.append(is_theirs({"unreadable": f"<{ADA}>"}))
        return 0

    erasures.done(erase(user_id))
    erasures.run(purge_dead_letters=purge)

    assert erasures.is_erased(user_id)
    assert erasures.completions(user_id) == 1
    assert found == [True], "the claim tells whose address it is"
    assert erasures.done(create(ADA))["user_id"] != str(user_id), "the address is free"
    (status,) = erasures.queries().handle([Request("erasures.status", {"user_id": str(user_id)})])
    assert isinstance(status, dict)
    assert status["erasure"] == "completed"


def test_a_deletion_of_a_damaged_user_frees_the_address(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.damage(user_id)

    erasures.done(delete(user_id))
    erasures.run()

    assert erasures.vault.holder(ADA) is None


# --- an older copy was restored --------------------------------------------------------------


def test_an_erasure_after_older_events_were_restored_is_carried_out(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.run()
    lost = erasures.store.head() + 5000  # the vault has a checkpoint after the head
    erasures.vault.save_checkpoint(COMPLETING, lost)

    erasures.run()
    erasures.done(erase(user_id))
    erasures.run()

    assert erasures.is_erased(user_id)
    assert erasures.completions(user_id) == 1
    assert erasures.vault.checkpoint(COMPLETING) < lost


def copied(erasures: Erasures, source: Path, target: Path) -> None:
    """Copy a file of a closed vault, then open the vault."""
    erasures.vault.close()
    if target == erasures.vault_path:
        for leftover in target.parent.glob("vault.db-*"):
            leftover.unlink()
    shutil.copy(source, target)
    erasures.vault = erasures.open_vault()


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
    assert erasures.vault.checkpoint(COMPLETING) < head
    erasures.run()

    assert erasures.is_erased(first)
    assert erasures.is_erased(second)
    assert erasures.vault.holder(GRACE) is None
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


# --- checkpoints -----------------------------------------------------------------------------


def test_the_checkpoint_is_never_ahead_of_the_destroyed_keys(erasures: Erasures) -> None:
    for number in range(3):
        erasures.done(erase(erasures.a_user(f"user{number}@example.com")))
    erased = [r for r in erasures.store.read_all(0, 100) if r.type == UserErased.type]
    saved: list[Position] = []

    def save_checkpoint(process: str, position: Position) -> None:
        saved.append(position)
        for recorded in erased:
            if recorded.position <= position:
                assert erasures.is_erased(USER.id_of(recorded.stream))
        erasures.vault.save_checkpoint(process, position)

    erasures.run(vault=replaced(erasures.vault, save_checkpoint=save_checkpoint))

    assert saved
    assert erasures.vault.checkpoint(COMPLETING) >= erased[-1].position
    assert erasures.vault.checkpoint(DESTROYING) == erased[-1].position


def test_the_process_starts_from_its_checkpoint(erasures: Erasures) -> None:
    erasures.done(erase(erasures.a_user(ADA)))
    erasures.run()
    checkpoint = erasures.vault.checkpoint(COMPLETING)
    started_from: list[Position] = []

    def follow(after: Position, **more: Any) -> Iterator[Any]:
        started_from.append(after)
        return erasures.store.follow(after, **more)

    erasures.run(store=replaced(erasures.store, follow=follow))

    assert started_from == [checkpoint]
    assert checkpoint >= 2
