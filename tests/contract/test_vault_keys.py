"""The vault contract: data keys, tombstones, checkpoints, outages, and the vault's first start."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import apsw
import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek
from adapters.settings import Settings, load_settings
from domain.kernel.errors import EsError, KeyUnavailable, PartUnavailable
from domain.kernel.history import History
from domain.kernel.ports.vault import (
    AlreadyHeld,
    DestroyedKey,
    Destruction,
    Divergence,
    LivingKey,
    Reason,
    Reserved,
    Vault,
)
from tests.support.builders import an_event, append
from tests.support.postgres import execute
from tests.support.together import at_once
from tests.support.vaults import (
    ADA,
    GRACE,
    LATER_US,
    NOW_US,
    PROCESS,
    abandon,
    are_destroyed,
    change,
    destroy,
    history,
    owe,
    register,
    registered,
    registration,
    reserve,
    reserved,
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


@pytest.mark.parametrize("first", ["alive", "destroyed", "abandoned", "owed"])
def test_a_subject_never_gets_a_second_key(vault: Vault, first: str) -> None:
    registered(vault, 1, ADA)
    if first == "destroyed":
        destroy(vault, 1)
    elif first == "abandoned":
        abandon(vault, 1)
    elif first == "owed":
        vault.release([claim.reservation_id for claim in vault.claims_of(1, now_us=NOW_US)])
        owe(vault, 1)
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
    assert isinstance(keys[2], DestroyedKey)
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


def test_destroying_keys_leaves_tombstones_and_removes_all_claims_of_their_subjects(vault: Vault) -> None:
    registered(vault, 1, ADA)
    reserve(vault, change(GRACE, subject=1))
    registered(vault, 2, "other@example.com")
    registered(vault, 3, "third@example.com")

    destroy(vault, 1, 3)

    assert are_destroyed(vault, 1, 3)
    assert vault.claims_of(1, now_us=NOW_US) == []
    assert (vault.holder(ADA), vault.holder(GRACE), vault.holder("third@example.com")) == (None, None, None)
    assert vault.holder("other@example.com") == 2
    assert isinstance(vault.data_keys([2])[2], LivingKey)


@pytest.mark.parametrize("event_id", [None, UUID(int=5)])
@pytest.mark.parametrize("reason", [Reason.ERASURE, Reason.ABANDONED])
def test_a_tombstone_says_why_by_which_event_and_when(
    open_vault: OpenVault, reason: Reason, event_id: UUID | None
) -> None:
    with closing(open_vault()) as vault:
        registered(vault, 1, ADA)
        vault.destroy([Destruction(1, reason, event_id), Destruction(2, reason)], now_us=NOW_US)

    keys = open_vault().data_keys([1, 2])
    assert keys == {1: DestroyedKey(reason, event_id, NOW_US), 2: DestroyedKey(reason, None, NOW_US)}


def test_the_first_tombstone_stays(vault: Vault) -> None:
    registered(vault, 1, ADA)
    vault.destroy([Destruction(1, Reason.ERASURE, UUID(int=1))], now_us=NOW_US)
    registered(vault, 2, ADA)

    again = [Destruction(1, Reason.ABANDONED, UUID(int=2)), Destruction(1, Reason.ERASURE)]
    vault.destroy(again, now_us=LATER_US)

    assert vault.data_keys([1]) == {1: DestroyedKey(Reason.ERASURE, UUID(int=1), NOW_US)}
    assert vault.holder(ADA) == 2, "the claims of another subject stay"


def test_destroying_an_unknown_key_leaves_a_tombstone(vault: Vault) -> None:
    destroy(vault, 1)

    assert are_destroyed(vault, 1)


def test_destroying_nothing_changes_nothing(vault: Vault) -> None:
    registered(vault, 1, ADA)

    vault.destroy([], now_us=NOW_US)

    assert len(secret_of(vault, 1)) == 32


def test_of_destruction_and_change_at_once_no_claim_of_the_destroyed_subject_stays(vault: Vault) -> None:
    def run(subject: int, is_change: bool) -> None:
        if is_change:
            reserve(vault, change(f"new{subject}@example.com", subject=subject))
        else:
            destroy(vault, subject)

    for subject in range(1, 31):
        registered(vault, subject, f"user{subject}@example.com")

        at_once(partial(run, subject), [True, False])

        assert vault.claims_of(subject, now_us=NOW_US) == []


# --- a destroyed key, or one whose erasure is owed ---------------------------------------------


@pytest.mark.parametrize("close", [destroy, owe, abandon])
@pytest.mark.parametrize("email", [ADA, GRACE])
def test_no_tag_is_stored_any_more_for_a_subject_whose_key_is_closed(
    vault: Vault, close: Callable[[Vault, int], None], email: str
) -> None:
    reserved(vault, registration(ADA, subject=1))
    close(vault, 1)
    before = vault.claims_of(1, now_us=NOW_US)

    assert reserve(vault, change(email, subject=1)) == AlreadyHeld(1)

    assert vault.claims_of(1, now_us=NOW_US) == before


@pytest.mark.parametrize("close", [destroy, owe])
@pytest.mark.parametrize("email", [ADA, GRACE])
def test_a_repeated_registration_of_a_closed_subject_yields_it_and_reserves_nothing(
    vault: Vault, close: Callable[[Vault, int], None], email: str
) -> None:
    command = uuid4()
    reserved(vault, registration(ADA, subject=1, command=command))
    close(vault, 1)
    before = vault.claims_of(1, now_us=NOW_US)

    assert reserve(vault, registration(email, subject=2, command=command)) == AlreadyHeld(1)

    assert vault.claims_of(1, now_us=NOW_US) == before
    assert vault.data_keys([2]) == {}


def test_a_command_of_a_closed_subject_does_not_hinder_the_others_of_its_batch(vault: Vault) -> None:
    register(vault, 1, 2)
    destroy(vault, 1)

    answers = vault.reserve([change(ADA, subject=1), change(GRACE, subject=2)], now_us=NOW_US)

    assert answers[0] == AlreadyHeld(1)
    assert isinstance(answers[1], Reserved)


# --- tags ------------------------------------------------------------------------------------


def test_tags_are_keyed_and_the_same_for_the_same_text(open_vault: OpenVault) -> None:
    with closing(open_vault()) as vault:
        first = vault.tags([ADA, "ada lovelace", ADA])

    assert {len(tag) for tag in first} == {32}
    assert (first[0], len(set(first))) == (first[2], 2)
    assert open_vault().tags([ADA]) == first[:1]
    assert hashlib.sha256(ADA.encode()).digest() not in first, "without the key no tag can be guessed"
    assert open_vault().tags([]) == []


def test_the_tag_of_an_address_is_that_of_its_claim(vault: Vault) -> None:
    registered(vault, 1, ADA)
    owe(vault, 1)

    destroy(vault, 1)

    assert [owed.tag for owed in vault.owed_tags([1])[1]] == vault.tags([ADA])


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_starts_at_the_beginning_and_is_kept_with_its_marks(
    open_vault: OpenVault, vault: Vault
) -> None:
    assert vault.checkpoint(PROCESS) == History()

    vault.save_checkpoint(PROCESS, history(41))
    vault.save_checkpoint(PROCESS, history(40, 41, 42))

    assert open_vault().checkpoint(PROCESS) == history(40, 41, 42)
    assert vault.checkpoint("another") == History()


def test_a_checkpoint_without_marks_gets_them_at_its_position(vault: Vault) -> None:
    vault.save_checkpoint(PROCESS, History(42))  # as after a migration
    vault.save_checkpoint(PROCESS, history(42))

    assert vault.checkpoint(PROCESS) == history(42)


@pytest.mark.parametrize(
    "move",
    [
        lambda vault, reached: vault.save_checkpoint(PROCESS, reached),
        lambda vault, reached: vault.owe([], now_us=NOW_US, process=PROCESS, reached=reached),
    ],
    ids=["saving", "owing"],
)
def test_a_checkpoint_never_moves_backwards(vault: Vault, move: Callable[[Vault, History], None]) -> None:
    move(vault, history(41, 42))

    move(vault, history(41))

    assert vault.checkpoint(PROCESS) == history(41, 42)


def test_a_checkpoint_is_rewound_with_its_marks_but_never_forwards(
    open_vault: OpenVault, vault: Vault
) -> None:
    vault.save_checkpoint(PROCESS, history(6, 42))
    for position in (50, 42):
        vault.rewind_checkpoint(PROCESS, history(position), now_us=NOW_US)
    assert vault.checkpoint(PROCESS) == history(6, 42)
    assert vault.divergences() == []

    vault.rewind_checkpoint(PROCESS, history(6), now_us=NOW_US)

    assert open_vault().checkpoint(PROCESS) == history(6)
    assert open_vault().divergences() == [Divergence(PROCESS, 42, 6, NOW_US)]


def test_the_checkpoint_of_an_unknown_process_is_not_rewound(vault: Vault) -> None:
    vault.rewind_checkpoint(PROCESS, History(), now_us=NOW_US)

    assert (vault.checkpoint(PROCESS), vault.divergences()) == (History(), [])


def test_the_last_divergence_of_each_process_is_kept_until_it_is_forgotten(vault: Vault) -> None:
    for process, back_to, at_us in [("relay", 8, 1), (PROCESS, 7, 2), ("relay", 3, 3)]:
        vault.save_checkpoint(process, history(9))
        vault.rewind_checkpoint(process, history(back_to), now_us=at_us)

    assert vault.divergences() == [Divergence(PROCESS, 9, 7, 2), Divergence("relay", 9, 3, 3)]

    vault.forget_findings()

    assert vault.divergences() == []
    assert vault.checkpoint("relay") == history(3)


def test_a_registration_tells_its_subject_unless_it_was_abandoned(
    vault: Vault,
) -> None:
    commands = [uuid4() for _ in range(4)]
    for subject, command in enumerate(commands[:3], start=1):
        reserve(vault, registration(f"user{subject}@example.com", subject=subject, command=command))
    destroy(vault, 2)
    abandon(vault, 3)

    assert vault.registered_by(commands) == {commands[0]: 1, commands[1]: 2}


# --- outages ---------------------------------------------------------------------------------

_EVERY_METHOD: list[Callable[[Vault], object]] = [
    lambda vault: reserve(vault, registration()),
    lambda vault: vault.confirm([uuid4()]),
    lambda vault: vault.release([uuid4()]),
    lambda vault: vault.claims_of(1, now_us=NOW_US),
    lambda vault: vault.expired_claims(now_us=NOW_US, limit=1),
    lambda vault: vault.holder(ADA),
    lambda vault: vault.registered_by([uuid4()]),
    lambda vault: vault.data_keys([1]),
    lambda vault: vault.subjects(after=0, limit=1),
    lambda vault: destroy(vault, 1),
    lambda vault: vault.remove_residue(),
    lambda vault: owe(vault, 1),
    lambda vault: vault.owed(limit=1),
    lambda vault: vault.owed_of(1),
    lambda vault: vault.owed_count(),
    lambda vault: vault.owed_tags([1]),
    lambda vault: vault.erasure_failed([1], "error"),
    lambda vault: vault.forget_tags({1: 0}),
    lambda vault: vault.settle_erasures([1]),
    lambda vault: vault.quarantined(),
    lambda vault: vault.checkpoint(PROCESS),
    lambda vault: vault.save_checkpoint(PROCESS, History(1)),
    lambda vault: vault.rewind_checkpoint(PROCESS, History(), now_us=NOW_US),
    lambda vault: vault.divergences(),
    lambda vault: vault.forget_findings(),
    lambda vault: vault.system_id(),
    lambda vault: vault.claim_system(uuid4()),
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


_TABLES = (
    "registrations",
    "data_keys",
    "email_claims",
    "secrets",
    "checkpoints",
    "tombstones",
    "owed_erasures",
)


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
