"""The migration that brings a vault of schema version 2 under bucket keys. A function, because the server has no key.

Promise: every key, claim and owed tag keeps its meaning. It runs in the transaction of the migrations, page by page: a crash
leaves the vault as it was. Afterwards the old tables are gone, and with them all that was ever deleted from them.
Refusal: a vault that its key-encryption key does not open is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from adapters.crypto.bucket_keys import BLOCK_SIZE, bucket_of
from adapters.crypto.sealing import unwrap, wrap
from adapters.postgres.buckets import KEYLESS, Bucket
from adapters.postgres.connection import Connection
from adapters.postgres.database import one
from adapters.postgres.migrations import Sql
from domain.kernel.errors import KeyUnavailable

_PAGE = 10_000
_BLANK = bytes(60)
_DAMAGED = b"\xff" * 60
"""What stands for a key that the key-encryption key does not unwrap: no block's key unwraps it either."""


class Rewrapping:
    """A migration of `Database`: a call with the connection, and with what quotes names in statements."""

    def __init__(self, kek: bytes, index_key: str) -> None:
        """`index_key` is the name of the secret that shows whether the key-encryption key fits."""
        self._kek = kek
        self._index_key = index_key

    def __call__(self, connection: Connection, sql: Sql) -> None:
        secret = one(connection, sql("SELECT wrapped FROM {schema}.secrets WHERE name = %s"), self._index_key)
        if secret is not None:
            unwrap(self._kek, secret, self._index_key)
        self._rewrap(connection, sql)
        self._encipher_claims(connection, sql)
        self._encipher_owed(connection, sql)
        for table in ("data_keys", "email_claims", "owed_tags"):
            connection.execute(sql("DROP TABLE {schema}.{table}", table=f"old_{table}"))

    def _rewrap(self, connection: Connection, sql: Sql) -> None:
        """Data keys, under the keys of their blocks: people in order of their ids."""
        page = """SELECT subject, destroyed, wrapped FROM {schema}.old_data_keys WHERE subject > %s
            ORDER BY subject LIMIT %s"""
        block, count = None, BLOCK_SIZE
        for rows in _pages(connection, sql(page), -(2**63)):
            fresh, keys = [], []
            for subject, destroyed, wrapped in rows:
                if destroyed:
                    keys.append((subject, True, KEYLESS, _BLANK))
                    continue
                if block is None or count == BLOCK_SIZE:
                    block, count = Bucket.new(self._kek, KEYLESS + subject), 0
                    fresh.append(block)
                count += 1
                keys.append((subject, False, block.id, self._under(block, wrapped, str(subject))))
            _keep(connection, sql, fresh)
            _copy(connection, sql("COPY {schema}.data_keys(subject, destroyed, block, wrapped)"), keys)

    def _under(self, block: Bucket, wrapped: bytes, name: str) -> bytes:
        try:
            return wrap(block.key.secret, unwrap(self._kek, wrapped, name), name)
        except KeyUnavailable:
            return _DAMAGED

    def _encipher_claims(self, connection: Connection, sql: Sql) -> None:
        """Claims in order of their tags, and so of their buckets."""
        columns = "tag, subject, command_id, reservation_id, confirmed, expires_at_us"
        page = f"SELECT {columns} FROM {{schema}}.old_email_claims WHERE tag > %b ORDER BY tag LIMIT %s"
        bucket = None
        for rows in _pages(connection, sql(page), b""):
            fresh, claims = [], []
            for tag, *others in rows:
                if bucket is None or bucket.id != bucket_of(tag):
                    bucket = Bucket.new(self._kek, bucket_of(tag))
                    fresh.append(bucket)
                claims.append((bucket.stored(tag), *others))
            _keep(connection, sql, fresh)
            _copy(connection, sql(f"COPY {{schema}}.email_claims({columns})"), claims)

    def _encipher_owed(self, connection: Connection, sql: Sql) -> None:
        """The tags of owed erasures. Those lie in the block of people without a key: their keys are destroyed."""
        page = (
            """SELECT subject, tag, words FROM {schema}.old_owed_tags WHERE subject >= %s ORDER BY subject"""
        )
        rows = connection.execute(sql(page), (-(2**63),)).fetchall()
        if rows:
            block = Bucket.new(self._kek, KEYLESS)
            _keep(connection, sql, [block])
            kept = [(subject, KEYLESS, block.key.seal_tags(tag), words) for subject, tag, words in rows]
            _copy(connection, sql("COPY {schema}.owed_tags(subject, block, tag, words)"), kept)


def _pages(connection: Connection, page: str, start: object) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a table in order of its first column: page by page, so that neither side holds them all."""
    while rows := connection.execute(page, (start, _PAGE)).fetchall():
        yield rows
        start = rows[-1][0]


def _keep(connection: Connection, sql: Sql, buckets: Sequence[Bucket]) -> None:
    _copy(connection, sql("COPY {schema}.buckets(id, version)"), [(b.id, b.version) for b in buckets])
    keys = [(b.id, b.version, b.label, b.wrapped) for b in buckets]
    _copy(connection, sql("COPY {schema}.bucket_keys(id, version, label, wrapped)"), keys)


def _copy(connection: Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    with connection.cursor().copy(f"{statement} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
