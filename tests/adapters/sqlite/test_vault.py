"""The vault in SQLite: the bytes in its files, old backups, damaged rows and full disks."""

from __future__ import annotations

import json
import os
import stat
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from adapters.sqlite.vault import SqliteVault
from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.ports.vault import DamagedKey, DestroyedKey, LivingKey, Reserved
from tests.support.full_disk import limited
from tests.support.processes import raw_bytes
from tests.support.vaults import (
    ADA,
    GRACE,
    KEK,
    PROCESS,
    change,
    destroy,
    register,
    registered,
    registration,
    reserve,
    reserved,
    secret_of,
    shuffled,
)

CANARY, OTHER_CANARY = "canary-5f1d@example.com", "canary-77aa@example.com"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "vault"
    folder.mkdir()
    return folder / "vault.db"


@pytest.fixture
def vault(path: Path) -> Iterator[SqliteVault]:
    with closing(SqliteVault(path, kek=KEK)) as opened:
        yield opened


def column(path: Path, name: str, subjects: Sequence[int]) -> list[bytes]:
    table = "data_keys" if name == "wrapped" else "email_claims"
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as other:
        found = dict(other.execute(f"SELECT subject, {name} FROM {table}"))
    return [found[subject] for subject in subjects]


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of the vault's files: the database, its write-ahead log and its index."""
    return {file.name: raw_bytes(file) for file in path.parent.iterdir()}


def files_with(needles: Sequence[bytes], path: Path) -> list[str]:
    """The files that hold one of the needles, raw or in a common encoding."""
    forms = [
        form
        for raw in needles
        for form in (raw, raw.hex().encode(), b64encode(raw), urlsafe_b64encode(raw), raw[:20], raw[-20:])
    ]
    return [name for name, content in contents(path).items() if any(form in content for form in forms)]


def crowd(vault: SqliteVault) -> None:
    for subjects in shuffled(600):
        register(vault, *subjects)


# --- no residue ------------------------------------------------------------------------------


def test_the_row_of_a_destroyed_key_is_blank(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)

    destroy(vault, 1)

    assert column(path, "wrapped", [1]) == [bytes(60)]


def test_no_file_holds_a_destroyed_key_or_its_tag(vault: SqliteVault, path: Path) -> None:
    crowd(vault)
    victims = [*range(1, 30), 300, 301, 599, 600]
    destroyed = [*column(path, "wrapped", victims), *column(path, "tag", victims)]
    assert all(files_with([needle], path) for needle in destroyed), "the search finds stored bytes"

    for victim in victims:
        destroy(vault, victim, position=victim)

    assert path.with_name("vault.db-wal").exists(), "the vault is still open, so its log is searched too"
    assert files_with(destroyed, path) == []


def test_a_retry_removes_a_key_whose_removal_a_reader_prevented(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.sqlite.database.BUSY_TIMEOUT_MS", 50)
    with closing(SqliteVault(path, kek=KEK)) as vault:
        register(vault, 1, 2)
        destroyed = column(path, "wrapped", [1])
        with closing(apsw.Connection(str(path))) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM data_keys").get == 2
            with pytest.raises(PartUnavailable):  # destroyed, but its bytes are still in a file
                destroy(vault, 1)
            assert vault.data_keys([1]) == {1: DestroyedKey()}
            reader.execute("ROLLBACK")

        destroy(vault, 1)

        assert files_with(destroyed, path) == []


@pytest.mark.parametrize("how", ["released", "abandoned"])
def test_a_closed_vault_holds_no_tag_of_a_free_address(vault: SqliteVault, path: Path, how: str) -> None:
    crowd(vault)
    reservation = reserved(vault, registration(ADA, subject=1000))
    removed = column(path, "tag", [1000])
    if how == "released":
        vault.release([reservation])
    else:
        removed += column(path, "wrapped", [1000])
        vault.abandon_registration(1000, reservation)

    vault.close()

    assert files_with(removed, path) == []


def test_no_file_ever_holds_an_address_or_an_unwrapped_key(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, CANARY)
    reserve(vault, change(OTHER_CANARY, subject=1))
    secrets = [secret_of(vault, 1), KEK]

    for closed in (False, True):
        if closed:
            vault.close()
        text = b"".join(contents(path).values())
        assert b"canary" not in text
        assert "canary".encode("utf-16-le") not in text
        assert files_with(secrets, path) == []


def test_no_error_of_the_vault_shows_an_address(vault: SqliteVault) -> None:
    registered(vault, 1, CANARY)

    with pytest.raises(EsError) as refused:
        reserve(vault, registration(OTHER_CANARY, subject=1))

    shown = [str(refused.value), repr(refused.value), json.dumps(refused.value.to_wire())]
    assert not [text for text in shown if "canary" in text]


def test_two_vaults_have_different_tags_for_one_address(
    vault: SqliteVault, path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    with closing(SqliteVault(other, kek=os.urandom(32))) as another:
        registered(another, 1, ADA)
        registered(vault, 1, ADA)

        assert column(path, "tag", [1]) != column(other, "tag", [1])


def test_the_files_of_a_vault_are_readable_by_their_owner_only(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {"vault.db": 0o600, "vault.db-wal": 0o600, "vault.db-shm": 0o600}


# --- damage and backups ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    ["(SELECT wrapped FROM data_keys WHERE subject = 1)", "zeroblob(60)"],
    ids=["the key of another subject", "zeros"],
)
def test_a_damaged_key_is_damaged_and_never_erased(vault: SqliteVault, path: Path, damage: str) -> None:
    registered(vault, 1, ADA)
    registered(vault, 2, GRACE)
    with closing(apsw.Connection(str(path))) as other:
        other.execute(f"UPDATE data_keys SET wrapped = {damage} WHERE subject = 2")

    found = vault.data_keys([1, 2])
    assert isinstance(found[1], LivingKey)
    assert found[2] == DamagedKey()


def test_an_old_backup_restores_the_old_checkpoint_with_the_old_key(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)
    vault.save_checkpoint(PROCESS, 4)
    vault.close()
    backup = path.read_bytes()
    with closing(SqliteVault(path, kek=KEK)) as later:
        destroy(later, 1)
    path.write_bytes(backup)

    with closing(SqliteVault(path, kek=KEK)) as restored:
        assert restored.checkpoint(PROCESS) == 4, "so `erasures` processes the erasure again"
        assert isinstance(restored.data_keys([1])[1], LivingKey)


# --- a full disk -----------------------------------------------------------------------------


def _fill(vault: SqliteVault, *, batch_size: int) -> list[int]:
    """Register users until the disk is full; returns the stored ones."""
    kept: list[int] = []

    def register_for_ever() -> None:
        while True:
            subjects = range(len(kept) + 1, len(kept) + 1 + batch_size)
            register(vault, *subjects)
            kept.extend(subjects)

    with pytest.raises(PartUnavailable, match="the disk is full"):
        register_for_ever()
    return kept


def test_on_a_full_disk_a_batch_is_reserved_as_a_whole_or_not_at_all(path: Path) -> None:
    with closing(limited(SqliteVault(path, kek=KEK))) as full:
        kept = _fill(full, batch_size=50)

        assert kept
        assert set(full.data_keys(range(1, 5000))) == set(kept)
        assert full.holder(f"user{kept[-1] + 1}@example.com") is None
        assert full.holder("user1@example.com") == 1, "reading still works"

    with closing(SqliteVault(path, kek=KEK)) as roomy:
        assert isinstance(register(roomy, kept[-1] + 1)[0], Reserved)


def test_a_key_can_be_destroyed_on_a_full_disk(path: Path) -> None:
    with closing(limited(SqliteVault(path, kek=KEK))) as full:
        _fill(full, batch_size=1)
        destroyed = column(path, "wrapped", [1])

        destroy(full, 1)

        assert full.data_keys([1]) == {1: DestroyedKey()}
        assert files_with(destroyed, path) == []
