"""The bucket keys in the SQLite file of a vault: read, made and replaced. ADR 0014 tells what they are for.

Promise: a transaction uses the keys of its own snapshot, however many are cached. Refusal: a key that a transaction made or
replaced is cached by none before its commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.crypto.bucket_keys import BLOCK_SIZE, TAG_BUCKETS, BucketKey
from adapters.crypto.sealing import unwrap, wrap
from adapters.sqlite.database import Connection
from domain.kernel.errors import Damaged, KeyUnavailable

_SUBJECT_BYTES = 8
_CACHE_LIMIT = TAG_BUCKETS + 1024
"""Keys that a thread keeps at most: some kilobytes each."""


@dataclass(slots=True)
class _Known:
    wrapped: bytes
    key: BucketKey
    rotations: int
    """The number of rotations up to which the row was seen to hold this key."""


Cache = dict[int, _Known]
"""The bucket keys that one thread has read."""


class Buckets:
    """The bucket keys as one transaction sees them."""

    __slots__ = ("_cache", "_connection", "_kek", "_made", "_rotations")

    def __init__(self, connection: Connection, kek: bytes, cache: Cache) -> None:
        self._connection = connection
        self._kek = kek
        self._cache = cache
        self._made: dict[int, BucketKey] = {}
        """Keys that this transaction made."""
        self._rotations: int | None = None

    def of(self, bucket: int) -> BucketKey:
        """The key of a bucket or block. Raises Damaged."""
        if bucket in self._made:
            return self._made[bucket]
        if self._rotations is None:
            self._rotations = self._connection.execute("SELECT number FROM rotations").get
        known = self._cache.get(bucket)
        if known is None or known.rotations != self._rotations:
            known = self._read(bucket, known)
            known.rotations = self._rotations
        return known.key

    def _read(self, bucket: int, known: _Known | None) -> _Known:
        wrapped: Any = self._connection.execute(
            "SELECT wrapped FROM bucket_keys WHERE bucket = ?", (bucket,)
        ).get
        if known is not None and known.wrapped == wrapped:
            return known
        try:
            key = BucketKey(unwrap(self._kek, wrapped or b"", _name(bucket)))
        except KeyUnavailable as error:
            # The key-encryption key fits the vault, so a bucket key that it cannot unwrap is damaged.
            raise Damaged("vault", f"bucket key {bucket} is damaged") from error
        if len(self._cache) >= _CACHE_LIMIT:
            for other in [each for each in self._cache if each >= TAG_BUCKETS]:
                del self._cache[other]
        known = self._cache[bucket] = _Known(wrapped, key, -1)
        return known

    # --- making keys ---------------------------------------------------------------------------

    def make_tag_buckets(self) -> None:
        """Make the keys of all tag buckets. Blocks follow them, so that every later row is appended."""
        for bucket in range(TAG_BUCKETS):
            self._make(bucket)

    def places(self, subjects: Sequence[int]) -> list[int]:
        """Give each of these people a place in the last block, or in new ones, and return the blocks."""
        row: Any = self._connection.execute(
            "SELECT block, subjects FROM blocks ORDER BY block DESC LIMIT 1"
        ).fetchone()
        block, people = row or (TAG_BUCKETS - 1, b"")
        given: list[int] = []
        while len(given) < len(subjects):
            free = BLOCK_SIZE - len(people) // _SUBJECT_BYTES if block >= TAG_BUCKETS else 0
            if free == 0:
                block, people, free = block + 1, b"", BLOCK_SIZE
                self._make(block)
            some = subjects[len(given) : len(given) + free]
            people += b"".join(subject.to_bytes(_SUBJECT_BYTES, "big", signed=True) for subject in some)
            self._connection.execute("INSERT OR REPLACE INTO blocks VALUES(?, ?)", (block, people))
            given += [block] * len(some)
        return given

    def _make(self, bucket: int) -> None:
        key = self._made[bucket] = BucketKey.new()
        self._connection.execute(
            "INSERT OR REPLACE INTO bucket_keys VALUES(?, ?)",
            (bucket, wrap(self._kek, key.secret, _name(bucket))),
        )

    def wrapped(self, block: int, subject: int) -> bytes:
        """A new data key, wrapped under the key of a block."""
        return self.of(block).wrap(os.urandom(32), subject)

    # --- masks -----------------------------------------------------------------------------------

    def masked(self, block: int, reservation_id: bytes, bucket: int) -> int:
        """Hide or show the bucket of a claim. It is told by twelve bits of the tag, which would outlive the tag's own key.

        A reservation id is used for one claim only, so no mask hides two buckets.
        """
        return bucket ^ _mask(self.of(block), reservation_id)

    # --- replacing keys ----------------------------------------------------------------------------

    def replace(self, buckets: Iterable[int]) -> None:
        """Give these buckets and blocks new keys, and encipher again what lives in them."""
        for bucket in sorted(buckets):
            old, new = self.of(bucket), BucketKey.new()
            if bucket < TAG_BUCKETS:
                _encipher_tags(self._connection, bucket, old, new)
            else:
                _encipher_people(self._connection, bucket, old, new)
            # In place: the size stays the same.
            self._connection.execute(
                "UPDATE bucket_keys SET wrapped = ? WHERE bucket = ?",
                (wrap(self._kek, new.secret, _name(bucket)), bucket),
            )
            self._made[bucket] = new
        self._connection.execute("UPDATE rotations SET number = number + 1")


def _name(bucket: int) -> str:
    return f"bucket-{bucket}"


def _mask(key: BucketKey, reservation_id: bytes) -> int:
    return int.from_bytes(key.seal_tags(reservation_id)[:2], "big") % TAG_BUCKETS


def _encipher_tags(connection: Connection, bucket: int, old: BucketKey, new: BucketKey) -> None:
    rows: list[Any] = connection.execute(
        "SELECT tag, claim FROM claim_tags WHERE bucket = ?", (bucket,)
    ).fetchall()
    sealed = [new.seal_tags(old.open_tags(tag + claim)) for tag, claim in rows]
    connection.execute("DELETE FROM claim_tags WHERE bucket = ?", (bucket,))
    connection.executemany(
        "INSERT INTO claim_tags VALUES(?, ?, ?)", [(bucket, each[:32], each[32:]) for each in sorted(sealed)]
    )


def _encipher_people(connection: Connection, block: int, old: BucketKey, new: BucketKey) -> None:
    packed: Any = connection.execute("SELECT subjects FROM blocks WHERE block = ?", (block,)).get or b""
    people = [
        int.from_bytes(packed[at : at + _SUBJECT_BYTES], "big", signed=True)
        for at in range(0, len(packed), _SUBJECT_BYTES)
    ]
    # Once each: a subject without a key may have been given a place again.
    for subject in dict.fromkeys(people):
        _encipher_key(connection, block, subject, old, new)
        for table in ("email_claims", "freed_tags"):
            rows: list[Any] = connection.execute(
                f"SELECT reservation_id, bucket FROM {table} WHERE subject = ? AND block = ?",
                (subject, block),
            ).fetchall()
            connection.executemany(
                f"UPDATE {table} SET bucket = ? WHERE subject = ? AND reservation_id = ?",
                [(masked ^ _mask(old, id_) ^ _mask(new, id_), subject, id_) for id_, masked in rows],
            )
        tags: list[Any] = connection.execute(
            "SELECT tag FROM owed_tags WHERE subject = ? AND block = ?", (subject, block)
        ).fetchall()
        connection.executemany(
            "UPDATE owed_tags SET tag = ? WHERE subject = ? AND tag = ?",
            [(new.seal_tags(old.open_tags(tag)), subject, tag) for (tag,) in tags],
        )


def _encipher_key(connection: Connection, block: int, subject: int, old: BucketKey, new: BucketKey) -> None:
    wrapped: Any = connection.execute(
        "SELECT wrapped FROM data_keys WHERE subject = ? AND block = ? AND NOT destroyed", (subject, block)
    ).get
    if wrapped is None:
        return
    secret = old.unwrap(wrapped, subject)
    if secret is not None:  # a damaged one stays so
        connection.execute(
            "UPDATE data_keys SET wrapped = ? WHERE subject = ?", (new.wrap(secret, subject), subject)
        )
