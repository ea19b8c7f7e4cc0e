"""The step of schema version 3 that SQL cannot do: encipher the vault of an earlier version under bucket keys.

Promise: it reads and writes row by row, in the transaction of the migration, whatever the size of the vault. Refusal: it
changes nothing under a wrong key-encryption key.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any

from adapters.crypto.bucket_keys import BLOCK_SIZE, bucket_of
from adapters.crypto.sealing import unwrap
from adapters.sqlite import claims
from adapters.sqlite.buckets import Buckets
from adapters.sqlite.database import Connection
from domain.kernel.errors import KeyUnavailable
from domain.kernel.vault_errors import vault_emptied

_INSERT_CLAIM = """
    INSERT INTO email_claims(subject, reservation_id, command_id, expires_at_us, block, bucket) VALUES(?, ?, ?, ?, ?, ?)"""
BLANK = bytes(60)
"""What stands in place of a key that is destroyed or damaged."""


def encipher(connection: Connection, kek: bytes, secret: str) -> None:
    """Fill the tables of version 3 from those of version 2. Raises KeyUnavailable if the key does not open `secret`."""
    wrapped: Any = connection.execute("SELECT wrapped FROM secrets WHERE name = ?", (secret,)).get
    if wrapped is None:
        if connection.execute("SELECT EXISTS(SELECT 1 FROM data_keys_2)").get:
            raise vault_emptied()
        return  # a new vault: its bucket keys are made with its secret
    unwrap(kek, wrapped, secret)
    Buckets(connection, kek, {}).make_tag_buckets()
    _keys(connection, kek)
    _claims(connection, kek)
    _tags(connection, kek)
    _owed_tags(connection, kek)


def _pages(connection: Connection, query: str) -> Iterator[list[Any]]:
    cursor = connection.execute(query)
    while page := list(islice(cursor, BLOCK_SIZE)):
        yield page


def _keys(connection: Connection, kek: bytes) -> None:
    query = "SELECT subject, command_id, destroyed, wrapped FROM data_keys_2 ORDER BY subject"
    for page in _pages(connection, query):
        buckets = Buckets(connection, kek, {})
        blocks = buckets.places([row[0] for row in page])
        rows = []
        for block, (subject, command_id, destroyed, wrapped) in zip(blocks, page, strict=True):
            again = BLANK
            if not destroyed:
                try:
                    secret = unwrap(kek, wrapped, str(subject))
                    again = buckets.of(block).wrap(secret, subject)
                except KeyUnavailable:
                    pass  # damaged before, and it stays so
            rows.append((subject, command_id, destroyed, block, again))
        connection.executemany("INSERT INTO data_keys VALUES(?, ?, ?, ?, ?)", rows)


def _claims(connection: Connection, kek: bytes) -> None:
    """In order of subject: people of one block follow one another."""
    query = """SELECT tag, subject, reservation_id, command_id, CASE confirmed WHEN 0 THEN expires_at_us END
        FROM email_claims_2 ORDER BY subject"""
    for page in _pages(connection, query):
        buckets = Buckets(connection, kek, {})
        rows = []
        for tag, subject, reservation_id, command_id, expires_at_us in page:
            block = claims.block_of(connection, buckets, subject)
            masked = buckets.masked(block, reservation_id, bucket_of(tag))
            rows.append((subject, reservation_id, command_id, expires_at_us, block, masked))
        connection.executemany(_INSERT_CLAIM, rows)


def _tags(connection: Connection, kek: bytes) -> None:
    """In order of tag: the tags of a bucket follow one another."""
    rows = connection.execute("SELECT tag, subject, reservation_id FROM email_claims_2 ORDER BY tag")
    for _, some in groupby(rows, key=lambda row: bucket_of(row[0])):
        buckets = Buckets(connection, kek, {})
        tags = sorted(claims.tag_row(buckets, *row) for row in some)
        connection.executemany("INSERT INTO claim_tags VALUES(?, ?, ?)", tags)


def _owed_tags(connection: Connection, kek: bytes) -> None:
    for page in _pages(connection, "SELECT subject, tag, words FROM owed_tags_2 ORDER BY subject"):
        buckets = Buckets(connection, kek, {})
        rows = []
        for subject, tag, words in page:
            block = claims.block_of(connection, buckets, subject)
            rows.append((subject, buckets.of(block).seal_tags(tag), words, block))
        connection.executemany("INSERT INTO owed_tags VALUES(?, ?, ?, ?)", rows)
