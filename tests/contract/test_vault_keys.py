"""The vault contract: data keys, tombstones, checkpoints, outages, and the vault's first start."""

from __future__ import annotations

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import apsw
import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek
from adapters.settings import Settings, load_settings
from domain.kernel.errors import EsError, KeyUnavailable, PartUnavailable
from domain.kernel.ports.vault import DestroyedKey, LivingKey, Vault
from tests.support.builders import an_event, append
from tests.support.postgres import execute
from tests.support.vaults import (
    ADA,
    GRACE,
    NOW_US,
    PROCESS,
    abandon,
    change,
    destroy,
    register,
    registered,
    registration,
    reserve,
    secret_of,
)
from tests.support.waiting import DEADLINE_S

OpenVault = Callable[[], Vault]


# --- keys ------------------------------------------------------------------------------------


def test_every_subject_has_its_own_key(vault: Vault) -> None:
    register(vault, *range(1, 11))

    assert len({secret_of(vault, subject) for subject in range(1, 11)}) == 10


def test_a_change_of_address_creates_no_key(vault: Vault) -> None:
    reserve(vault, change(GRACE, subject=1))

    assert vault.data_keys([1]) == {}


@pytest.mark.parametrize("first", ["alive", "destroyed", "abandoned"])
def test_a_subject_never_gets_a_second_key(vault: Vault, first: str) -> None:
    reservation = registered(vault, 1, ADA)
    if first == "destroyed":
        destroy(vault, 1)
    elif first == "abandoned":
        abandon(vault, 1)
    before = vault.data_keys([1])

    # Ids are issued once. If one were issued twice, any error is right, and a key is wrong.
    with pytest.raises(EsError):
        reserve(vault, registration(GRACE, subject=1))

    assert vault.data_keys([1]) == before
    assert vault.holder(GRACE) is None, "the whole transaction is rolled back"


def test_an_unknown_subject_is_missing_from_the_keys(vault: Vault) -> None:
    registered(vault, 1, ADA)
    destroy(vault, 2)

    keys = vault.data_keys([3, 2, 1])

    assert set(keys) == {1, 2}
    assert isinstance(keys[1], LivingKey)
    assert keys[2] == DestroyedKey()
    assert vault.data_keys([]) == {}


def test_subjects_have_a_key_a_tombstone_or_a_claim_and_come_in_pages(vault: Vault) -> None:
    registered(vault, 2, ADA)
    reserve(vault, change("other@example.com", subject=2))  # a key and two claims: still once
    reserve(vault, change(GRACE, subject=4))  # a claim alone
    destroy(vault, 3)
    register(vault, 1)

    assert vault.subjects(after=0, limit=9) == [1, 2, 3, 4]
    assert vault.subjects(after=0, limit=2) == [1, 2]
    assert vault.subjects(after=2, limit=2) == [3, 4]
    assert vault.subjects(after=4, limit=2) == []


def test_a_key_hides_its_secret_when_printed(vault: Vault) -> None:
    registered(vault, 1, ADA)
    key = vault.data_keys([1])[1]
    secret = secret_of(vault, 1)

    assert repr(secret) not in repr(key)
    assert secret.hex() not in f"{key}"


# --- destroying ------------------------------------------------------------------------------


def test_destroying_a_key_leaves_a_tombstone_and_removes_all_claims(vault: Vault) -> None:
    registered(vault, 1, ADA)
    reserve(vault, change(GRACE, subject=1))
    registered(vault, 2, "other@example.com")

    destroy(vault, 1)

    assert vault.data_keys([1]) == {1: DestroyedKey()}
    assert vault.claims_of(1, now_us=NOW_US) == []
    assert (vault.holder(ADA), vault.holder(GRACE), vault.holder("other@example.com")) == (None, None, 2)
    assert isinstance(vault.data_keys([2])[2], LivingKey)


def test_destroying_a_key_saves_the_checkpoint_of_its_process_only(vault: Vault) -> None:
    registered(vault, 1, ADA)

    destroy(vault, 1, position=9)

    assert (vault.checkpoint(PROCESS), vault.checkpoint("another")) == (9, 0)


def test_destroying_a_key_twice_changes_nothing(vault: Vault) -> None:
    registered(vault, 1, ADA)
    destroy(vault, 1, position=9)
    registered(vault, 2, ADA)

    destroy(vault, 1, position=9)

    assert vault.data_keys([1]) == {1: DestroyedKey()}
    assert vault.holder(ADA) == 2
    assert vault.checkpoint(PROCESS) == 9


def test_destroying_an_unknown_key_leaves_a_tombstone(vault: Vault) -> None:
    destroy(vault, 1)

    assert vault.data_keys([1]) == {1: DestroyedKey()}


def test_a_destroyed_key_stays_destroyed_after_reopening(open_vault: OpenVault) -> None:
    with closing(open_vault()) as vault:
        registered(vault, 1, ADA)
        destroy(vault, 1)

    assert open_vault().data_keys([1]) == {1: DestroyedKey()}


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_starts_at_zero_and_is_kept(open_vault: OpenVault, vault: Vault) -> None:
    assert vault.checkpoint(PROCESS) == 0

    vault.save_checkpoint(PROCESS, 41)
    vault.save_checkpoint(PROCESS, 42)

    assert open_vault().checkpoint(PROCESS) == 42


@pytest.mark.parametrize(
    "move",
    [lambda vault: vault.save_checkpoint(PROCESS, 41), lambda vault: destroy(vault, 1, position=41)],
    ids=["saving", "destroying"],
)
def test_a_checkpoint_never_moves_backwards(vault: Vault, move: Callable[[Vault], None]) -> None:
    vault.save_checkpoint(PROCESS, 42)

    move(vault)

    assert vault.checkpoint(PROCESS) == 42


def test_a_checkpoint_is_rewound_but_never_forwards(open_vault: OpenVault, vault: Vault) -> None:
    vault.save_checkpoint(PROCESS, 42)
    vault.rewind_checkpoint(PROCESS, 50)
    assert vault.checkpoint(PROCESS) == 42

    vault.rewind_checkpoint(PROCESS, 7)
    assert open_vault().checkpoint(PROCESS) == 7


# --- outages ---------------------------------------------------------------------------------

_EVERY_METHOD: list[Callable[[Vault], object]] = [
    lambda vault: reserve(vault, registration()),
    lambda vault: vault.confirm([uuid4()]),
    lambda vault: vault.release([uuid4()]),
    lambda vault: vault.abandon_registration(1, uuid4()),
    lambda vault: vault.claims_of(1, now_us=NOW_US),
    lambda vault: vault.expired_claims(now_us=NOW_US, limit=1),
    lambda vault: vault.holder(ADA),
    lambda vault: vault.data_keys([1]),
    lambda vault: vault.subjects(after=0, limit=1),
    lambda vault: destroy(vault, 1),
    lambda vault: vault.checkpoint(PROCESS),
    lambda vault: vault.save_checkpoint(PROCESS, 1),
    lambda vault: vault.rewind_checkpoint(PROCESS, 1),
]


@pytest.mark.parametrize("call", range(len(_EVERY_METHOD)))
def test_a_closed_vault_is_unavailable(vault: Vault, call: int) -> None:
    vault.close()

    # In a new thread, which has no connection yet.
    with pytest.raises(PartUnavailable), ThreadPoolExecutor(1) as pool:
        pool.submit(_EVERY_METHOD[call], vault).result(DEADLINE_S)


def test_a_second_close_does_nothing(vault: Vault) -> None:
    vault.close()

    assert vault.close() is None  # type: ignore[func-returns-value]


# --- a missing or empty vault ----------------------------------------------------------------


@pytest.fixture
def existing_user(vault_settings: Settings) -> None:
    """An event of a user in the store. A new vault would have no claim, and its address would be free."""
    with closing(wiring.open_store(vault_settings.store)) as store:
        append(store, "user-1", -1, [an_event()])


@pytest.mark.usefixtures("existing_user")
def test_a_missing_vault_is_refused_if_the_event_store_has_users(open_vault: OpenVault) -> None:
    for _ in range(2):  # the first refusal must not create what the second one finds
        with pytest.raises(KeyUnavailable, match="the event store contains users"):
            open_vault()


def _without_rows(settings: Settings) -> None:
    if settings.vault.startswith("postgres"):
        prefix = settings.vault.partition("schema=")[2]
        execute(settings.vault, f"TRUNCATE {', '.join(f'{prefix}_vault.{table}' for table in _TABLES)}")
    else:
        with closing(apsw.Connection(settings.vault.removeprefix("sqlite:"))) as other:
            for table in set(_TABLES) - {"registrations"}:
                other.execute(f"DELETE FROM {table}")


def _without_tables(settings: Settings) -> None:
    if settings.vault.startswith("postgres"):
        execute(settings.vault, f"DROP SCHEMA {settings.vault.partition('schema=')[2]}_vault CASCADE")
    else:
        Path(settings.vault.removeprefix("sqlite:")).write_bytes(b"")


_TABLES = ("registrations", "data_keys", "email_claims", "secrets", "checkpoints")


@pytest.mark.parametrize("empty", [_without_rows, _without_tables])
def test_an_emptied_vault_is_refused_if_the_event_store_has_users(
    vault_settings: Settings,
    open_vault: OpenVault,
    empty: Callable[[Settings], None],
    request: pytest.FixtureRequest,
) -> None:
    with closing(open_vault()) as vault:
        registered(vault, 1, ADA)
    request.getfixturevalue("existing_user")
    empty(vault_settings)

    for _ in range(2):
        with pytest.raises(KeyUnavailable, match="the event store contains users"):
            open_vault()


@pytest.mark.parametrize("empty", [_without_rows, _without_tables])
def test_an_empty_vault_is_used_if_the_event_store_has_no_users(
    vault_settings: Settings, open_vault: OpenVault, empty: Callable[[Settings], None]
) -> None:
    open_vault().close()  # as after a first start that was interrupted
    empty(vault_settings)
    vault = open_vault()
    registered(vault, 1, ADA)

    assert vault.holder(ADA) == 1


# --- the key-encryption key ------------------------------------------------------------------


def test_a_wrong_key_encryption_key_opens_no_vault(
    vault_settings: Settings, vault: Vault, tmp_path: Path
) -> None:
    registered(vault, 1, ADA)
    other = tmp_path / "another-kek"
    make_kek(other)
    home = str(vault_settings.home)

    with pytest.raises(KeyUnavailable, match="does not fit"):
        wiring.open_vault(
            load_settings(
                environment={"ES_HOME": home, "ES_VAULT": vault_settings.vault, "ES_KEK_FILE": str(other)}
            )
        )

    assert len(secret_of(vault, 1)) == 32, "and nothing was changed"


def test_a_missing_key_encryption_key_is_an_error_and_none_is_created(
    vault_settings: Settings, vault: Vault
) -> None:
    registered(vault, 1, ADA)
    vault.close()
    kept = vault_settings.kek_file.with_name("kept")
    vault_settings.kek_file.rename(kept)

    with pytest.raises(KeyUnavailable, match="is missing"):
        wiring.open_vault(vault_settings)

    assert [file.name for file in kept.parent.iterdir()] == ["kept"], "no new key"
    kept.rename(vault_settings.kek_file)
    with closing(wiring.open_vault(vault_settings)) as restored:
        assert len(secret_of(restored, 1)) == 32


def test_a_configured_key_encryption_key_is_never_created(home: Path, tmp_path: Path) -> None:
    named = load_settings(
        environment={"ES_HOME": str(home), "ES_KEK_FILE": str(tmp_path / "mounted" / "kek")}
    )

    with pytest.raises(KeyUnavailable):
        wiring.open_vault(named)

    assert not (tmp_path / "mounted").exists()
    assert list(home.iterdir()) == [], "and no vault was created without it"


def test_the_key_encryption_key_is_readable_by_its_owner_only(vault_settings: Settings, vault: Vault) -> None:
    kek = vault_settings.kek_file

    assert stat.S_IMODE(kek.stat().st_mode) == 0o600
    assert stat.S_IMODE(kek.parent.stat().st_mode) == 0o700
    assert [file.name for file in kek.parent.iterdir()] == ["kek"], "no draft is left"
