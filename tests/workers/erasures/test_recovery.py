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
from domain.users.account import USER, UserErased
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, change, erase
from tests.support.erasures import Erasures
from tests.support.parts import Steps, before_call, crashed, every_crash, replaced, unavailable
from workers.erasures.process import COMPLETING, DESTROYING

# --- crashes and outages ---------------------------------------------------------------------


def prepared(folder: Path) -> tuple[Accounts, int, int]:
    """Accounts with a user to erase, who had three addresses, and another user."""
    accounts = Accounts(folder)
    user_id, other = accounts.a_user(ADA), accounts.a_user("other@example.com")
    accounts.done(change(user_id, GRACE))
    accounts.done(change(user_id, ALAN))
    accounts.done(erase(user_id))
    return accounts, user_id, other


def final_state(accounts: Accounts, user_id: int, other: int) -> tuple[object, ...]:
    return (
        accounts.vault.data_keys([user_id]),
        accounts.holders(ADA, GRACE, ALAN),
        [type_ for type_ in accounts.types(user_id) if type_ != "email-change-abandoned.v1"],
        accounts.active(),
        accounts.states(other),
    )


def test_a_process_that_crashed_at_any_step_resumes_to_the_same_state(tmp_path: Path, log: Log) -> None:
    def running(erasures: Erasures) -> Callable[[Steps], object]:
        parts = {"store": erasures.accounts.store, "vault": erasures.accounts.vault}
        return lambda steps: erasures.run(**steps.watched(**parts))

    accounts, user_id, other = prepared(tmp_path / "complete")
    with closing(accounts):
        erasures = Erasures(accounts, log)
        places = every_crash(running(erasures))
        expected = final_state(accounts, user_id, other)
        assert erasures.completions(user_id) == 1
    assert len(places) > 20

    for at, after in places:
        accounts, user_id, other = prepared(tmp_path / f"{at}{after}")
        with closing(accounts):
            erasures = Erasures(accounts, log)
            where = crashed(running(erasures), at, after=after)
            erasures.run()
            assert final_state(accounts, user_id, other) == expected, where
            assert erasures.completions(user_id) == 1, where
            assert accounts.vault.checkpoint(DESTROYING) >= 5, where


def test_two_processes_at_once_complete_an_erasure_once(accounts: Accounts, erasures: Erasures) -> None:
    user_id = accounts.a_user(ADA)
    accounts.done(erase(user_id))

    erasures.run(store=before_call(accounts.store, "append", erasures.run))

    assert erasures.completions(user_id) == 1
    assert accounts.is_erased(user_id)


@pytest.mark.parametrize(("part", "method"), [("store", "append"), ("vault", "destroy_key")])
def test_an_outage_is_raised_and_no_event_is_skipped(
    accounts: Accounts, erasures: Erasures, part: str, method: str
) -> None:
    user_id = accounts.a_user(ADA)
    accounts.done(erase(user_id))

    with pytest.raises(PartUnavailable):
        erasures.run(**{part: before_call(getattr(accounts, part), method, unavailable)})
    assert accounts.vault.checkpoint(COMPLETING) < accounts.store.head()
    assert erasures.completions(user_id) == 0

    erasures.run()

    assert erasures.completions(user_id) == 1
    assert accounts.is_erased(user_id)


@pytest.mark.parametrize("what", ["an erased user", "a user with a new address"])
def test_a_damaged_stream_does_not_block_the_erasure_of_others(
    accounts: Accounts, erasures: Erasures, what: str
) -> None:
    damaged, waiting = accounts.a_user(ADA), accounts.a_user(GRACE)
    accounts.done(erase(damaged) if what == "an erased user" else change(damaged, ALAN))
    accounts.damage(damaged)
    accounts.done(erase(waiting))

    for _ in range(3):
        with suppress(EsError):  # it may report the damage, but must not stop at it
            erasures.run()

    assert accounts.is_erased(waiting)
    assert erasures.completions(waiting) == 1


# --- an older copy was restored --------------------------------------------------------------


def test_an_erasure_after_older_events_were_restored_is_carried_out(
    accounts: Accounts, erasures: Erasures
) -> None:
    user_id = accounts.a_user(ADA)
    erasures.run()
    lost = accounts.store.head() + 5000  # the vault has a checkpoint after the head
    accounts.vault.save_checkpoint(COMPLETING, lost)

    erasures.run()
    accounts.done(erase(user_id))
    erasures.run()

    assert accounts.is_erased(user_id)
    assert erasures.completions(user_id) == 1
    assert accounts.vault.checkpoint(COMPLETING) < lost


def copied(accounts: Accounts, source: Path, target: Path) -> None:
    """Copy a file of a closed vault, then open the vault."""
    accounts.vault.close()
    if target == accounts.vault_path:
        for leftover in target.parent.glob("vault.db-*"):
            leftover.unlink()
    shutil.copy(source, target)
    accounts.vault = accounts.open_vault()


def test_keys_in_a_restored_vault_are_destroyed_again(
    accounts: Accounts, erasures: Erasures, tmp_path: Path
) -> None:
    first, second, kept = accounts.a_user(ADA), accounts.a_user(GRACE), accounts.a_user(ALAN)
    accounts.done(erase(first))
    erasures.run()
    copied(accounts, accounts.vault_path, tmp_path / "backup.db")
    accounts.done(erase(second))
    erasures.run()
    head = accounts.store.head()

    copied(accounts, tmp_path / "backup.db", accounts.vault_path)
    assert accounts.has_key(second), "the backup has the key"
    assert accounts.vault.checkpoint(COMPLETING) < head
    erasures.run()

    assert accounts.is_erased(first)
    assert accounts.is_erased(second)
    assert accounts.vault.holder(GRACE) is None
    assert accounts.has_key(kept)
    assert accounts.store.head() == head, "nothing is completed a second time"


def test_a_vault_from_before_all_erasures_catches_up(
    accounts: Accounts, erasures: Erasures, tmp_path: Path
) -> None:
    ids = [accounts.a_user(f"user{number}@example.com") for number in range(5)]
    copied(accounts, accounts.vault_path, tmp_path / "backup.db")
    for user_id in ids[:4]:
        accounts.done(erase(user_id))
    erasures.run()

    copied(accounts, tmp_path / "backup.db", accounts.vault_path)
    erasures.run()

    assert [accounts.is_erased(user_id) for user_id in ids] == [True] * 4 + [False]


# --- checkpoints -----------------------------------------------------------------------------


def test_the_checkpoint_is_never_ahead_of_the_destroyed_keys(accounts: Accounts, erasures: Erasures) -> None:
    for number in range(3):
        accounts.done(erase(accounts.a_user(f"user{number}@example.com")))
    erased = [r for r in accounts.store.read_all(0, 100) if r.type == UserErased.type]
    saved: list[Position] = []

    def save_checkpoint(process: str, position: Position) -> None:
        saved.append(position)
        for recorded in erased:
            if recorded.position <= position:
                assert accounts.is_erased(USER.id_of(recorded.stream))
        accounts.vault.save_checkpoint(process, position)

    erasures.run(vault=replaced(accounts.vault, save_checkpoint=save_checkpoint))

    assert saved
    assert accounts.vault.checkpoint(COMPLETING) >= erased[-1].position
    assert accounts.vault.checkpoint(DESTROYING) == erased[-1].position


def test_the_process_starts_from_its_checkpoint(accounts: Accounts, erasures: Erasures) -> None:
    accounts.done(erase(accounts.a_user(ADA)))
    erasures.run()
    checkpoint = accounts.vault.checkpoint(COMPLETING)
    started_from: list[Position] = []

    def follow(after: Position, **more: Any) -> Iterator[Any]:
        started_from.append(after)
        return accounts.store.follow(after, **more)

    erasures.run(store=replaced(accounts.store, follow=follow))

    assert started_from == [checkpoint]
    assert checkpoint >= 2
