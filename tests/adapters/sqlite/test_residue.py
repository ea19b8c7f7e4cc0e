"""What a SQLite vault leaves in its files after an erasure, and what removing it costs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from adapters.crypto.bucket_keys import bucket_of
from adapters.sqlite.vault import SqliteVault
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.vault import Destruction, LivingKey, OwedTag, Reason
from tests.support.bucket_residue import Notes, files_of, keys_in, tags_in
from tests.support.vaults import (
    KEK,
    NOW_US,
    abandon,
    are_destroyed,
    destroy,
    freed_tags,
    owe,
    register,
    shuffled,
)

CROWD = 600


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "vault"
    folder.mkdir()
    return folder / "vault.db"


@pytest.fixture
def vault(path: Path) -> Iterator[SqliteVault]:
    """A vault with a crowd, whose rows have moved."""
    with closing(SqliteVault(path, kek=KEK)) as opened:
        for subjects in shuffled(CROWD):
            register(opened, *subjects)
        yield opened


def email(subject: int) -> str:
    return f"user{subject}@example.com"


# --- no residue ------------------------------------------------------------------------------


def test_the_files_open_no_destroyed_key_and_every_other_one(vault: SqliteVault, path: Path) -> None:
    notes = Notes()
    notes.add(path)
    kept = range(201, 599)
    before = vault.data_keys(kept)

    freed_tags(vault)
    erased = {subject for subject in range(1, CROWD + 1) if are_destroyed(vault, subject)}
    assert notes.opened_keys(keys_in(path)) >= erased, "the reader opens what is still there"
    vault.remove_residue(range(1, 701))

    assert path.with_name("vault.db-wal").exists(), "the vault is still open, so its log is searched too"
    assert notes.opened_keys(keys_in(path)) & erased == set()
    assert vault.data_keys(kept) == before
    assert vault.holders([email(subject) for subject in kept]) == {
        email(subject): subject for subject in kept
    }


def test_the_files_hold_every_bucket_key_once(vault: SqliteVault, path: Path) -> None:
    """Rows of bucket keys never move: otherwise a copy of an old one may stay behind."""
    with closing(apsw.Connection(str(path))) as other:
        count = other.execute("SELECT count(*) FROM bucket_keys").get
    for subject in range(1, 300, 40):
        destroy(vault, subject)
        vault.remove_residue([subject])
        register(vault, *range(1000 * subject, 1000 * subject + 70))

    vault.remove_residue([])

    with closing(apsw.Connection(str(path))) as other:
        later = other.execute("SELECT count(*) FROM bucket_keys").get
    assert len(keys_in(path)) == later > count
    content = b"".join(files_of(path).values())
    with closing(apsw.Connection(str(path))) as other:
        rows = [row for (row,) in other.execute("SELECT wrapped FROM bucket_keys")]
    assert {content.count(row) for row in rows} == {1}


def test_the_tags_of_an_owed_erasure_go_with_its_residue(vault: SqliteVault, path: Path) -> None:
    notes = Notes()
    (name,) = vault.tags(["name of 5"])
    owe(vault, 5, 6)
    vault.destroy([Destruction(5, Reason.ERASURE, tags=[OwedTag(name, 2)])], now_us=NOW_US)
    destroy(vault, 6)
    notes.add(path)
    assert tags_in(notes, path, [name]) == {name}, "the reader finds it"
    others = vault.owed_tags([6])

    vault.forget_tags({5: 0})
    vault.remove_residue([5])

    assert tags_in(notes, path, [name, *vault.tags([email(5)])]) == set()
    assert vault.owed_tags([5, 6]) == others, "a person of the same block whose erasure is not that far"


def test_no_row_links_a_person_to_a_bucket(vault: SqliteVault, path: Path) -> None:
    """Twelve bits of a tag tell most guessed addresses apart, and rows outlive their deletion in the gaps of pages."""
    buckets = {
        subject: bucket_of(tag) for subject, tag in enumerate(vault.tags([*map(email, range(1, 601))]), 1)
    }
    with closing(apsw.Connection(str(path))) as other:
        masked = dict(other.execute("SELECT subject, bucket FROM email_claims"))
        claims = [claim for (claim,) in other.execute("SELECT claim FROM claim_tags")]

    assert sum(masked[subject] == bucket for subject, bucket in buckets.items()) < 5
    assert not [claim for claim in claims if int.from_bytes(claim[:8], "big") in buckets]


def test_an_abandoned_registration_leaves_nothing_once_its_residue_is_removed(
    vault: SqliteVault, path: Path
) -> None:
    notes = Notes()
    notes.add(path)
    tags = vault.tags([email(7)])

    abandon(vault, 7)
    vault.remove_residue([7])

    assert 7 not in notes.opened_keys(keys_in(path))
    assert tags_in(notes, path, tags) == set()


def test_the_key_of_a_person_without_any_address_goes_too(vault: SqliteVault, path: Path) -> None:
    vault.settle_claims(released=[claim.id for claim in vault.claims_of([7], now_us=NOW_US)], now_us=NOW_US)
    vault.remove_residue([7])
    notes = Notes()
    notes.add(path)
    assert 7 in notes.opened_keys(keys_in(path))

    destroy(vault, 7)
    vault.remove_residue([7])

    assert 7 not in notes.opened_keys(keys_in(path))


def test_a_retry_removes_what_a_reader_kept(path: Path, vault: SqliteVault) -> None:
    notes = Notes()
    notes.add(path)
    with closing(apsw.Connection(str(path))) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM data_keys").get == CROWD
        destroy(vault, 1)
        with pytest.raises(PartUnavailable, match="reader"):  # destroyed, but its bytes are still in a file
            vault.remove_residue([1])
        assert 1 in notes.opened_keys(keys_in(path)), "so the erasure must stay owed"
        reader.execute("ROLLBACK")

    vault.remove_residue([1])

    assert 1 not in notes.opened_keys(keys_in(path))
    assert tags_in(notes, path, vault.tags([email(1)])) == set()


def test_a_program_that_ends_before_the_log_is_truncated_leaves_the_rest_to_the_next(
    path: Path, vault: SqliteVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    notes.add(path)
    destroy(vault, 1)
    with monkeypatch.context() as ending:
        ending.setattr(vault._database, "truncate_wal", lambda: False)
        with pytest.raises(PartUnavailable):
            vault.remove_residue([1])
    assert 1 in notes.opened_keys(keys_in(path))

    with closing(SqliteVault(path, kek=KEK)) as later:
        later.remove_residue([1])

        assert 1 not in notes.opened_keys(keys_in(path))
        assert isinstance(later.data_keys([2])[2], LivingKey)


# --- its cost --------------------------------------------------------------------------------


def erasure_cost(vault: SqliteVault, subject: int) -> tuple[int, int]:
    """Rows changed and pages written by the vault's part of an erasure."""
    connection = vault._database.connection
    vault._database.truncate_wal()
    rows, pages = connection.total_changes(), connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]
    owe(vault, subject)
    destroy(vault, subject)
    vault.forget_tags({subject: 0})
    vault.remove_residue([subject])
    return (
        connection.total_changes() - rows,
        connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0] - pages,
    )


def test_an_erasure_costs_the_same_in_a_small_and_in_a_larger_vault(path: Path) -> None:
    with closing(SqliteVault(path, kek=KEK)) as vault:
        register(vault, *range(1, 641))
        small_rows, small_pages = erasure_cost(vault, 100)
        for start in range(1000, 8000, 500):
            register(vault, *range(start, start + 500))
        large_rows, large_pages = erasure_cost(vault, 4000)

    assert 64 * 2 < small_rows < 64 * 4, "the keys and claims of one block"
    assert abs(large_rows - small_rows) <= 20
    assert large_pages <= small_pages * 1.5 + 5


# --- with other work -------------------------------------------------------------------------


def test_people_are_registered_and_found_while_others_are_erased(path: Path, vault: SqliteVault) -> None:
    with closing(SqliteVault(path, kek=KEK)) as another:

        def erase(_: int) -> None:
            for subject in range(1, 60, 3):
                destroy(another, subject)
                another.remove_residue([subject])

        def create(worker: int) -> None:
            for batch in range(15):
                first = 10_000 * worker + batch * 20
                register(vault, *range(first, first + 20))
                assert vault.holders([email(first), email(599)]) == {email(first): first, email(599): 599}

        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(erase, 0), pool.submit(create, 1), pool.submit(create, 2)]:
                done.result()

    created = [*range(10_000, 10_300), *range(20_000, 20_300), *range(61, 601)]
    assert vault.holders(list(map(email, created))) == {email(subject): subject for subject in created}
    assert all(isinstance(key, LivingKey) for key in vault.data_keys(created).values())
