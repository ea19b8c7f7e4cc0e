"""The bucket keys of the vault in PostgreSQL: what this process knows of them, and how it finds out what has changed.

Promise: a transaction that stores something under a bucket key commits only while that key is the present one. Each key
has a random `version`. A writer takes the lock that excludes rotations, then compares the versions that it used with those in
`buckets`. So neither a rotation nor a restored copy makes a worker write under a key that is gone. Refusal: no key is
sent to the server unwrapped.

A stored tag is the `label` of its bucket key and the enciphered tag: the tags of one bucket lie side by side in the
index, and no row tells the number of the bucket, which is a part of the tag.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from adapters.crypto.bucket_keys import BLOCK_SIZE, TAG_BUCKETS, TAG_BYTES, BucketKey, bucket_of
from adapters.crypto.sealing import unwrap, wrap
from adapters.postgres import statements
from adapters.postgres.connection import Connection
from adapters.postgres.database import ConcurrentChange, Database
from domain.kernel.errors import Damaged, KeyUnavailable

KEYLESS = TAG_BUCKETS
"""The block of people without a data key. That of others has the number of its first person, plus this."""
LABEL_BYTES = 8
AFTER_ALL = b"\xff" * (TAG_BYTES + 1)
"""A label with this behind it sorts after every tag of its bucket."""
_KNOWN_BLOCKS = 16_384
"""The keys of so many blocks are remembered: about 10 MB."""
_FEW = 16


class Bucket:
    """A bucket key of one version. It is unwrapped when it is first used."""

    __slots__ = ("_kek", "_key", "id", "label", "version", "wrapped")

    def __init__(self, kek: bytes, id_: int, version: int, label: bytes, wrapped: bytes) -> None:
        self._kek = kek
        self._key: BucketKey | None = None
        self.id, self.version, self.label, self.wrapped = id_, version, label, wrapped

    @classmethod
    def new(cls, kek: bytes, id_: int) -> Bucket:
        """A new key for a bucket, with another version than any before."""
        version = int.from_bytes(os.urandom(8), "big", signed=True) or 1
        return cls(kek, id_, version, os.urandom(LABEL_BYTES), wrap(kek, os.urandom(32), _name(id_)))

    @property
    def key(self) -> BucketKey:
        """The key. Raises KeyUnavailable if the key-encryption key does not open it."""
        if self._key is None:
            self._key = BucketKey(unwrap(self._kek, self.wrapped, _name(self.id)))
        return self._key

    @property
    def sound_key(self) -> BucketKey:
        """The key of a tag bucket. The key-encryption key fits the vault, so one that it does not open is damaged."""
        try:
            return self.key
        except KeyUnavailable as error:
            raise Damaged("vault", f"the key of bucket {self.id} cannot be opened") from error

    def stored(self, tag: bytes) -> bytes:
        return self.label + self.sound_key.seal_tags(tag)

    def tag(self, stored: bytes) -> bytes:
        return self.sound_key.open_tags(stored[LABEL_BYTES:])

    def __repr__(self) -> str:
        return f"Bucket({self.id})"


def _name(id_: int) -> str:
    return f"bucket {id_}"


class Buckets:
    """The bucket keys that this process knows. Threads share it: each change is that of one item."""

    def __init__(self, database: Database, kek: bytes) -> None:
        """Read the keys of all tag buckets, and create the block of people without a data key if it is missing."""
        self._database = database
        self._kek = kek
        self._tags: dict[int, Bucket] = {}
        self._blocks: dict[int, Bucket] = {}
        self._labels: dict[bytes, int] = {}
        self._open: tuple[int, int] | None = None
        """The block that this process fills, and the number of people in it."""
        self._lock = threading.Lock()
        database.read_then_write(self._open_tags)

    # --- what is known -------------------------------------------------------------------------

    def stored(self, tags: Iterable[bytes]) -> dict[bytes, bytes]:
        """Tags by the form in which they are stored. One without a key of its bucket is missing: it is not stored."""
        return {
            bucket.stored(tag): tag for tag in tags if (bucket := self._tags.get(bucket_of(tag))) is not None
        }

    def of_tag(self, tag: bytes) -> Bucket | None:
        return self._tags.get(bucket_of(tag))

    def of_label(self, stored: bytes) -> Bucket | None:
        """The bucket of a stored tag, or of its label alone."""
        id_ = self._labels.get(stored[:LABEL_BYTES])
        return None if id_ is None else self._tags.get(id_)

    def versions(self, tags: Iterable[bytes]) -> tuple[list[int], list[int]]:
        """The buckets of these tags, and the version known of each: 0 without one."""
        ids = sorted({bucket_of(tag) for tag in tags})
        return ids, [self._tags[id_].version if id_ in self._tags else 0 for id_ in ids]

    def new(self, id_: int) -> Bucket:
        return Bucket.new(self._kek, id_)

    def know(self, buckets: Iterable[Bucket]) -> None:
        """Remember keys that a commit has stored, or that were read."""
        for bucket in buckets:
            if bucket.id >= KEYLESS:
                if len(self._blocks) >= _KNOWN_BLOCKS:
                    self._blocks.clear()
                self._blocks[bucket.id] = bucket
                continue
            before = self._tags.get(bucket.id)
            if before is not None:
                self._labels.pop(before.label, None)
            self._tags[bucket.id] = bucket
            self._labels[bucket.label] = bucket.id

    # --- what has changed ----------------------------------------------------------------------

    def refresh(self, connection: Connection, changed: Sequence[int]) -> None:
        """Read the keys that have changed and raise ConcurrentChange, so that the unit of work runs again with them."""
        if changed:
            for id_ in changed:
                gone = self._tags.pop(id_, None)
                if gone is not None:
                    self._labels.pop(gone.label, None)
            self.know(self.load(connection, changed))
            raise ConcurrentChange

    def refresh_tags(self, connection: Connection) -> bool:
        """Read the keys of tag buckets that have changed, or are new. Returns whether there were any."""
        present = dict(connection.execute(self._database.sql(statements.TAG_VERSIONS)).fetchall())
        known = {id_: bucket.version for id_, bucket in self._tags.items()}
        changed = [id_ for id_, version in present.items() if known.get(id_) != version]
        if changed:
            self.know(self.load(connection, changed))
        return bool(changed)

    def load(self, connection: Connection, ids: Sequence[int]) -> list[Bucket]:
        """The present keys of buckets."""
        few = len(ids) <= _FEW
        statement = self._database.sql(statements.LOAD_FEW_KEYS if few else statements.LOAD_KEYS)
        return [Bucket(self._kek, *row) for row in connection.execute(statement, (list(ids),))]

    def blocks(self, connection: Connection, wanted: Mapping[int, int]) -> dict[int, Bucket]:
        """The keys of blocks in the versions that rows were read with. Raises ConcurrentChange if one was rotated since."""
        found = {
            id_: block
            for id_, version in wanted.items()
            if (block := self._blocks.get(id_)) is not None and block.version == version
        }
        if missing := [id_ for id_ in wanted if id_ not in found]:
            loaded = self.load(connection, missing)
            self.know(loaded)
            found |= {block.id: block for block in loaded}
            if any(id_ in found and found[id_].version != wanted[id_] for id_ in missing):
                raise ConcurrentChange
        return found

    def _open_tags(self, connection: Connection) -> tuple[None, Callable[[Connection], None] | None]:
        rows = connection.execute(self._database.sql(statements.LOAD_TAG_KEYS))
        self.know(Bucket(self._kek, *row) for row in rows)
        if KEYLESS in self._blocks:
            return None, None
        return None, lambda c: self.create(c, [self.new(KEYLESS)])

    # --- within a transaction ------------------------------------------------------------------

    def exclude_rotations(self, connection: Connection) -> None:
        """The first statement of every transaction that stores or removes what lies under bucket keys."""
        connection.execute(self._database.sql(statements.EXCLUDE_ROTATIONS), (self._database.schema,))

    def need_present(self, connection: Connection, used: Iterable[Bucket]) -> None:
        """End the transaction unless these are the present keys."""
        versions = {bucket.id: bucket.version for bucket in used}
        if versions:
            values = len(versions), list(versions), list(versions.values())
            connection.execute(self._database.sql(statements.NEED_PRESENT), values)

    def create(self, connection: Connection, buckets: Sequence[Bucket]) -> None:
        """Store new keys. The transaction ends if another one has created one of them."""
        if buckets:
            ids, versions = [b.id for b in buckets], [b.version for b in buckets]
            connection.execute(self._database.sql(statements.CREATE_BUCKETS), (ids, versions, len(ids)))
            columns = ids, versions, [b.label for b in buckets], [b.wrapped for b in buckets]
            connection.execute(self._database.sql(statements.CREATE_KEYS), columns)

    def take_blocks(self, subjects: Sequence[int]) -> tuple[list[Bucket], list[Bucket], tuple[int, int]]:
        """Blocks for new people: one for each of them, those that are new, and what to give back after the commit."""
        with self._lock:  # two threads never fill one block
            (id_, count), self._open = self._open or (KEYLESS, BLOCK_SIZE), None
        block = self._blocks.get(id_)
        fresh: list[Bucket] = []
        chosen: list[Bucket] = []
        for subject in subjects:
            if block is None or count >= BLOCK_SIZE:
                block, count = self.new(KEYLESS + subject), 0
                fresh.append(block)
            chosen.append(block)
            count += 1
        return chosen, fresh, (KEYLESS if block is None else block.id, count)

    def give_back(self, filled: tuple[int, int]) -> None:
        with self._lock:
            self._open = filled
