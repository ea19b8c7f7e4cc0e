"""Vaults in SQLite as the program wrote them with schema version 2, of any size."""

from __future__ import annotations

import hmac
from contextlib import closing
from pathlib import Path

from adapters.crypto.sealing import wrap
from adapters.sqlite.database import Database, migration_files
from tests.support.vaults import KEK, NOW_US

INDEX_KEY = bytes(range(64, 96))


def tag_of(subject: int) -> bytes:
    return hmac.digest(INDEX_KEY, b"user%d@example.com" % subject, "sha256")


def earlier_vault(path: Path, *, people: int) -> list[bytes]:
    """Write a vault of the registered subjects 1 to `people`; returns their wrapped keys and tags as they are stored."""
    wrapped = {subject: wrap(KEK, b"%032d" % subject, str(subject)) for subject in range(1, people + 1)}
    with (
        closing(Database(path, part="vault", migrations=migration_files("vault")[:2])) as database,
        database.writing() as connection,
    ):
        connection.execute("INSERT INTO secrets VALUES('email-index-key', ?)", (_index_key(),))
        for subject, key in wrapped.items():
            id_ = subject.to_bytes(16, "big")
            connection.execute("INSERT INTO data_keys VALUES(?, ?, 0, ?)", (subject, id_, key))
            connection.execute(
                "INSERT INTO email_claims VALUES(?, ?, ?, ?, 1, ?)",
                (tag_of(subject), subject, id_, id_, NOW_US),
            )
    return [*wrapped.values(), *map(tag_of, wrapped)]


def _index_key() -> bytes:
    return wrap(KEK, INDEX_KEY, "email-index-key")
