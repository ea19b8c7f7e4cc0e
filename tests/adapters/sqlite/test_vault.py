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
from domain.kernel.errors import Damaged, EsError, PartUnavailable
from domain.kernel.ports.vault import DamagedKey, LivingKey, Reserved
from tests.support.bucket_residue import Notes, files_of, tags_in
from tests.support.full_disk import limited
from tests.support.vaults import (
    ADA,
    GRACE,
    KEK,
    NOW_US,
    PROCESS,
    are_destroyed,
    change,
    destroy,
    freed_tags,
    history,
    holder,
    label_of,
    labelled,
    register,
    registered,
    registration,
    reserve,
    reserved,
    secret_of,
    shuffled,
    wanted,
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


def wrapped(path: Path, subject: int) -> bytes:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as other:
        found = other.execute("SELECT wrapped FROM data_keys WHERE subject = ?", (subject,)).get
    assert isinstance(found, bytes)
    return found


def files_with(needles: Sequence[bytes], path: Path) -> list[str]:
    """The files that hold one of the needles, raw or in a common encoding."""
    forms = [
        form
        for raw in needles
        for form in (raw, raw.hex().encode(), b64encode(raw), urlsafe_b64encode(raw), raw[:20], raw[-20:])
    ]
    return [name for name, content in files_of(path).items() if any(form in content for form in forms)]


# --- the bytes in the files ------------------------------------------------------------------


def test_the_row_of_a_destroyed_key_is_blank(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)

    destroy(vault, 1)

    assert wrapped(path, 1) == bytes(60)


def test_no_file_holds_a_freed_tag_once_the_residue_is_removed(vault: SqliteVault, path: Path) -> None:
    """In no form: neither as it is, nor enciphered under a key that is still there."""
    notes = Notes()
    for subjects in shuffled(600):
        register(vault, *subjects)
    notes.add(path)

    freed = freed_tags(vault)  # names of erased people are its last third
    assert tags_in(notes, path, freed[:190]) == {*freed[:190]}, "the search finds freed tags"
    vault.remove_residue(range(1, 701))

    assert path.with_name("vault.db-wal").exists(), "the vault is still open, so its log is searched too"
    assert tags_in(notes, path, freed) == set()


def test_no_file_holds_the_tag_of_a_label_once_its_person_is_erased(vault: SqliteVault, path: Path) -> None:
    people = range(1, 40)
    register(vault, *people)
    released = labelled(vault, *people[:20])
    labelled(vault, *people[20:])
    tags = vault.tags([label_of(subject) for subject in people])
    notes = Notes()
    notes.add(path)
    vault.settle_claims(released=released, now_us=NOW_US)
    assert tags_in(notes, path, tags) == {*tags}, "the search finds them"

    destroy(vault, *people)
    vault.remove_residue(people)

    assert tags_in(notes, path, tags) == set()


def test_an_instance_without_a_person_has_one_place_and_leaves_no_list(
    vault: SqliteVault, path: Path
) -> None:
    claims = [reserved(vault, wanted(f"value {number}", subject=-5)) for number in range(3)]

    vault.settle_claims(confirmed=claims[1:], released=claims[:1], now_us=NOW_US)

    with closing(apsw.Connection(str(path))) as other:
        assert other.execute("SELECT subjects FROM blocks").fetchall() == [
            ((-5).to_bytes(8, "big", signed=True),)
        ]
        assert other.execute("SELECT count(*) FROM freed_tags").get == 0


def test_a_subject_with_two_places_in_a_block_is_enciphered_once(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)
    for text in ("first", "second"):  # without a claim its place is forgotten, and given again
        claim = reserved(vault, wanted(text, subject=-5))
        if text == "first":
            vault.settle_claims(released=[claim], now_us=NOW_US)
    destroy(vault, 1)
    vault.remove_residue([1])

    vault.settle_claims(released=[claim], now_us=NOW_US)

    with closing(apsw.Connection(str(path))) as other:
        assert other.execute("SELECT count(*) FROM claim_tags").get == 0, "its bucket was found"


def test_no_file_ever_holds_an_address_or_an_unwrapped_key(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, CANARY)
    reserve(vault, change(OTHER_CANARY, subject=1))
    secrets = [secret_of(vault, 1), KEK]

    for closed in (False, True):
        if closed:
            vault.close()
        text = b"".join(files_of(path).values())
        assert b"canary" not in text
        assert "canary".encode("utf-16-le") not in text
        assert files_with(secrets, path) == []


def test_no_error_of_the_vault_shows_an_address(vault: SqliteVault) -> None:
    registered(vault, 1, CANARY)

    with pytest.raises(EsError) as refused:
        reserve(vault, registration(OTHER_CANARY, subject=1))

    shown = [str(refused.value), repr(refused.value), json.dumps(refused.value.to_wire())]
    assert not [text for text in shown if "canary" in text]


def test_two_vaults_have_different_tags_for_one_address(vault: SqliteVault, tmp_path: Path) -> None:
    with closing(SqliteVault(tmp_path / "other.db", kek=os.urandom(32))) as another:
        assert another.tags([ADA]) != vault.tags([ADA])


def test_the_files_of_a_vault_are_readable_by_their_owner_only(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {"vault.db": 0o600, "vault.db-wal": 0o600, "vault.db-shm": 0o600}


# --- damage and backups ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE subject = 1) WHERE subject = 2",
        "UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = 2",
    ],
    ids=["the key of another subject", "zeros"],
)
def test_a_damaged_key_is_damaged_and_never_erased(vault: SqliteVault, path: Path, damage: str) -> None:
    registered(vault, 1, ADA)
    registered(vault, 2, GRACE)
    with closing(apsw.Connection(str(path))) as other:
        other.execute(damage)

    found = vault.data_keys([1, 2])
    assert isinstance(found[1], LivingKey)
    assert found[2] == DamagedKey()
    vault.remove_residue([1])  # which wraps the keys of the block again
    assert vault.data_keys([1, 2]) == found


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE bucket_keys SET wrapped = zeroblob(60) WHERE bucket = 4096",
        "UPDATE bucket_keys SET wrapped = (SELECT wrapped FROM bucket_keys WHERE bucket = 4097) WHERE bucket = 4096",
        "DELETE FROM bucket_keys WHERE bucket = 4096",
    ],
    ids=["zeros", "the key of another block", "missing"],
)
def test_a_damaged_block_damages_its_people_alone(vault: SqliteVault, path: Path, damage: str) -> None:
    register(vault, *range(1, 71))
    with closing(apsw.Connection(str(path))) as other:
        other.execute(damage)

    with closing(SqliteVault(path, kek=KEK)) as later:
        found = later.data_keys(range(1, 71))
    assert {subject for subject, key in found.items() if key == DamagedKey()} == {*range(1, 65)}
    assert all(isinstance(found[subject], LivingKey) for subject in range(65, 71))


def test_an_address_in_a_damaged_bucket_is_damage_and_never_free(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("UPDATE bucket_keys SET wrapped = zeroblob(60) WHERE bucket < 4096")

    with closing(SqliteVault(path, kek=KEK)) as later:
        with pytest.raises(Damaged, match="bucket key"):
            holder(later, ADA)
        with pytest.raises(Damaged, match="bucket key"):
            reserve(later, registration(ADA, subject=2))


def test_the_address_of_a_lost_claim_is_free(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("DELETE FROM email_claims")

    assert holder(vault, ADA) is None
    registered(vault, 2, ADA)
    assert holder(vault, ADA) == 2


def test_an_old_backup_restores_the_old_checkpoint_with_the_old_key(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)
    vault.save_checkpoint(PROCESS, history(4))
    vault.close()
    backup = path.read_bytes()
    with closing(SqliteVault(path, kek=KEK)) as later:
        destroy(later, 1)
    path.write_bytes(backup)

    with closing(SqliteVault(path, kek=KEK)) as restored:
        assert restored.checkpoint(PROCESS) == history(4), "so `erasures` processes the erasure again"
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
        assert holder(full, f"user{kept[-1] + 1}@example.com") is None
        assert holder(full, "user1@example.com") == 1, "reading still works"

    with closing(SqliteVault(path, kek=KEK)) as roomy:
        assert isinstance(register(roomy, kept[-1] + 1)[0], Reserved)


def test_a_key_can_be_destroyed_on_a_full_disk(path: Path) -> None:
    with closing(limited(SqliteVault(path, kek=KEK))) as full:
        _fill(full, batch_size=1)
        destroy(full, 1)
        full.remove_residue([1])

        assert are_destroyed(full, 1)
