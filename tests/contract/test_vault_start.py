"""The vault contract: a missing or empty vault, and the key-encryption key."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek
from adapters.settings import Settings, load_settings
from domain.kernel.errors import KeyUnavailable
from domain.kernel.ports.vault import (
    Vault,
)
from tests.support.builders import an_event, append
from tests.support.postgres import execute
from tests.support.vaults import (
    ADA,
    holder,
    registered,
    secret_of,
)

OpenVault = Callable[[], Vault]


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

    assert holder(vault, ADA) == 1


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
