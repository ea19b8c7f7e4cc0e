"""A vault of schema version 2 is brought under bucket keys: nothing is lost, and nothing old stays in its files."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator
from contextlib import closing
from uuid import UUID

import psycopg
import pytest

from adapters.crypto.sealing import wrap
from adapters.postgres import rewrapping
from adapters.postgres.database import Database, migration_files
from adapters.postgres.vault import PostgresVault
from domain.kernel.errors import KeyUnavailable, PartUnavailable
from domain.kernel.ports.vault import ClaimState, DamagedKey, DestroyedKey, LivingKey, OwedTag, Reason
from tests.support.postgres import Server, execute
from tests.support.vaults import KEK, NOW_US, holder, register

USERS = 300
_INDEX_KEY = b"i" * 32
_LIVING = [subject for subject in range(1, USERS + 1) if subject % 10 and subject != 5]
_TOMBSTONES = [subject for subject in range(1, USERS + 1) if not subject % 10]


def email(subject: int) -> str:
    return f"user{subject}@example.com"


def tag(text: str) -> bytes:
    return hmac.digest(_INDEX_KEY, text.encode(), "sha256")


def secret(subject: int) -> bytes:
    return subject.to_bytes(32, "big")


def rows_of_version_2(url: str, schema: str) -> list[bytes]:
    """Fill a vault as a program of version 2 did. Returns what must be in no file afterwards: wrapped keys and tags."""
    Database(url, part="vault", migrations=migration_files("vault")[:2]).close()
    keys = {subject: wrap(KEK, secret(subject), str(subject)) for subject in _LIVING}
    keys |= {5: os.urandom(60)}  # damaged
    with closing(psycopg.connect(url.partition("schema=")[0].rstrip("?&"), autocommit=True)) as connection:

        def insert(table: str, *rows: tuple[object, ...]) -> None:
            marks = ", ".join(["%s"] * len(rows[0]))
            connection.cursor().executemany(f"INSERT INTO {schema}.{table} VALUES({marks})", rows)

        insert("secrets", ("email-index-key", wrap(KEK, _INDEX_KEY, "email-index-key")))
        insert("data_keys", *((subject, False, wrapped) for subject, wrapped in keys.items()))
        insert("data_keys", *((subject, True, bytes(60)) for subject in _TOMBSTONES))
        insert(
            "email_claims",
            *(
                (tag(email(subject)), subject, UUID(int=subject), UUID(int=subject), subject % 2 == 0, NOW_US)
                for subject in keys
            ),
        )
        insert("owed_erasures", (10, "key-destroyed", None, 9, NOW_US))
        insert("owed_tags", (10, tag("a name"), 2), (10, tag(email(10)), 0))
        # Deleted rows stay in the files.
        insert("email_claims", (tag("freed"), 1, UUID(int=999), UUID(int=999), True, NOW_US))
        connection.execute(f"DELETE FROM {schema}.email_claims WHERE tag = %b", (tag("freed"),))
    return [*keys.values(), *map(tag, [*map(email, keys), "a name", email(10), "freed"])]


@pytest.fixture
def old_bytes(own_url: str) -> list[bytes]:
    return rows_of_version_2(own_url, "es_vault")


@pytest.fixture
def migrated(
    own_url: str, old_bytes: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresVault]:
    monkeypatch.setattr(rewrapping, "_PAGE", 70)
    with closing(PostgresVault(own_url, kek=KEK)) as vault:
        yield vault


def test_keys_tombstones_claims_and_owed_tags_keep_their_meaning(migrated: PostgresVault) -> None:
    assert migrated.data_keys(range(1, USERS + 1)) == {
        **{subject: LivingKey(secret(subject)) for subject in _LIVING},
        **{subject: DestroyedKey(Reason.UNKNOWN) for subject in _TOMBSTONES},
        5: DamagedKey(),
    }
    emails = {email(subject): subject for subject in [*_LIVING, 5]}
    assert migrated.holders([*emails, email(10), "freed"]) == emails
    (claim,) = migrated.claims_of([4], now_us=NOW_US)
    assert (claim.command_id, claim.reservation_id, claim.state) == (
        UUID(int=4),
        UUID(int=4),
        ClaimState.CONFIRMED,
    )
    assert {t.tag: t for t in migrated.owed_tags([10])[10]} == {
        tag("a name"): OwedTag(tag("a name"), 2),
        tag(email(10)): OwedTag(tag(email(10)), 0),
    }


def test_people_of_a_migrated_vault_are_erased_and_new_ones_registered(migrated: PostgresVault) -> None:
    migrated.forget_tags({10: 0})
    migrated.remove_residue([10, 7])
    register(migrated, USERS + 1)

    assert migrated.data_keys([7, 8]) == {7: LivingKey(secret(7)), 8: LivingKey(secret(8))}
    assert (holder(migrated, email(7)), holder(migrated, email(USERS + 1))) == (7, USERS + 1)


def test_no_old_key_and_no_old_tag_stays_in_a_file(
    server: Server, own_url: str, old_bytes: list[bytes], migrated: PostgresVault
) -> None:
    execute(own_url, "CHECKPOINT")
    ((oid,),) = execute(own_url, "SELECT oid FROM pg_database WHERE datname = current_database()")
    folder = server.folder / "data" / "base" / str(oid)
    content = b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())

    assert [old for old in old_bytes if old in content or old[:20] in content] == []


def test_another_key_encryption_key_changes_nothing(own_url: str, old_bytes: list[bytes]) -> None:
    with pytest.raises(KeyUnavailable):
        PostgresVault(own_url, kek=bytes(32))

    assert execute(own_url, "SELECT version FROM es_vault.schema_version") == [(2,)]
    with closing(PostgresVault(own_url, kek=KEK)) as vault:
        assert holder(vault, email(7)) == 7


def test_an_interrupted_migration_leaves_the_vault_as_it_was(
    own_url: str, old_bytes: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rewrapping.Rewrapping, "_encipher_owed", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            PostgresVault(own_url, kek=KEK)

    assert execute(own_url, "SELECT version FROM es_vault.schema_version") == [(2,)]
    assert execute(own_url, "SELECT count(*) FROM es_vault.email_claims") == [(len(_LIVING) + 1,)]
    with closing(PostgresVault(own_url, kek=KEK)) as vault:
        assert vault.data_keys([7]) == {7: LivingKey(secret(7))}


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_program_of_version_2_refuses_a_migrated_vault_by_name(
    own_url: str, migrated: PostgresVault
) -> None:
    with pytest.raises(PartUnavailable, match="has version 5, but this program supports 2"):
        Database(own_url, part="vault", migrations=migration_files("vault")[:2])


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO es_vault.data_keys(subject, destroyed, wrapped) VALUES(999, false, decode(repeat('ab', 60), 'hex'))",
        """INSERT INTO es_vault.email_claims(tag, subject, command_id, reservation_id, confirmed, expires_at_us)
           VALUES(decode(repeat('ab', 32), 'hex'), 1, gen_random_uuid(), gen_random_uuid(), false, 1)""",
        "INSERT INTO es_vault.owed_tags(subject, tag, words) VALUES(1, decode(repeat('ab', 32), 'hex'), 0)",
    ],
)
def test_a_program_of_version_2_that_runs_on_stores_nothing_under_the_old_key(
    own_url: str, migrated: PostgresVault, statement: str
) -> None:
    with pytest.raises(psycopg.IntegrityError):
        execute(own_url, statement)
