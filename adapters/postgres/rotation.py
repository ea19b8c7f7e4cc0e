"""Remove what was destroyed from the files of the vault: give its buckets new keys, then remove the old ones.

PostgreSQL keeps deleted and overwritten data in its files: in dead rows until VACUUM, and after that in the free
space of a page until it is used again. So the copies of a destroyed data key and of a freed tag stay where they are. They
open nothing any more once their bucket key is gone, and that lies in a small partition that VACUUM FULL rewrites.

Promise: when `remove` returns, no table file holds an old key of these buckets. It costs as much in a small vault as in a large
one, apart from the tags of one bucket. Refusal: this module cannot reach the write-ahead log, its archive, standbys,
backups and freed disk blocks: replace the key-encryption key for those.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from adapters.crypto.sealing import unwrap, wrap
from adapters.postgres import statements
from adapters.postgres.buckets import AFTER_ALL, KEYLESS, Bucket, Buckets
from adapters.postgres.connection import Connection, Cursor
from adapters.postgres.database import Database
from domain.kernel.errors import KeyUnavailable
from domain.kernel.vault_errors import residue_left

_TOGETHER = 4
"""Keys that one transaction replaces, at most: it stops all writers."""
_PATIENCE_S = 3.0
"""How long a removal waits for readers, and for transactions that began before the overwriting."""
_LOCK_WAIT_MS = 100
"""How long it stops at a time those who read keys from the partition."""
_LOOK_S = 0.01

_Freed = tuple[int, bytes]
"""A person, and the label of a bucket of theirs."""


class Rotation:
    def __init__(self, database: Database, buckets: Buckets) -> None:
        self._database = database
        self._buckets = buckets

    def remove(self, subjects: Sequence[int]) -> None:
        """See `Vault.remove_residue`. Raises PartUnavailable if a reader keeps the bytes."""
        if subjects:
            ids, freed = self._database.read(lambda connection: self._concerned(connection, subjects))
            # The first transactions leave the list of freed tags as it is: a crash repeats them.
            last = max(0, len(ids) - 1) // _TOGETHER * _TOGETHER
            for first in range(0, last, _TOGETHER):
                self._replace(ids[first : first + _TOGETHER])
            self._replace(ids[last:], freed)
        self._purge()

    def _concerned(self, connection: Connection, subjects: Sequence[int]) -> tuple[list[int], list[_Freed]]:
        """The buckets of these people, and the tags that they freed."""
        sql = self._database.sql
        with connection.pipeline():
            blocks = connection.execute(sql(statements.BLOCKS_OF), (list(subjects),))
            found = connection.execute(sql(statements.FREED_BY), (list(subjects),))
        freed: list[_Freed] = found.fetchall()
        if any(self._buckets.of_label(label) is None for _, label in freed):
            self._buckets.refresh_tags(connection)
        # A label that is still unknown is that of a key which was replaced since.
        tags = {bucket.id for _, label in freed if (bucket := self._buckets.of_label(label)) is not None}
        return [*sorted(tags), *sorted(block for (block,) in blocks)], freed

    # --- new keys ------------------------------------------------------------------------------

    def _replace(self, ids: Sequence[int], freed: Sequence[_Freed] = ()) -> None:
        """Give buckets new keys, and encipher again what lives in them, in one transaction without any other writer.

        `freed` is what it takes from the list of freed tags.
        """
        pairs: list[tuple[Bucket, Bucket]] = []

        def prepare(connection: Connection) -> tuple[None, Callable[[Connection], None] | None]:
            pairs[:] = [(old, self._buckets.new(old.id)) for old in self._buckets.load(connection, ids)]
            return None, rotate if pairs or freed else None

        def rotate(connection: Connection) -> None:
            self._rotate(connection, pairs)
            if freed:
                connection.execute(self._database.sql(statements.FORGET_FREED), _columns(freed))

        self._database.read_then_write(prepare)
        self._buckets.know(new for _, new in pairs)

    def _rotate(self, connection: Connection, pairs: Sequence[tuple[Bucket, Bucket]]) -> None:
        sql = self._database.sql
        connection.execute(sql(statements.ROTATE), (self._database.schema,))
        self._buckets.need_present(connection, [old for old, _ in pairs])
        blocks = {old.id: (old, new) for old, new in pairs if old.id >= KEYLESS}
        tagging = [(old, new) for old, new in pairs if old.id < KEYLESS]
        members = connection.execute(sql(statements.MEMBERS), (list(blocks),))
        owed = connection.execute(sql(statements.OWED_IN), (list(blocks),))
        claims = [
            connection.execute(sql(statements.CLAIMS_IN), (old.label, old.label + AFTER_ALL))
            for old, _ in tagging
        ]
        self._rewrap(connection, blocks, members)
        self._seal_owed_again(connection, blocks, owed)
        again = [
            (stored, new.stored(old.tag(stored)))
            for (old, new), found in zip(tagging, claims, strict=True)
            for (stored,) in found
        ]
        if again:
            connection.execute(sql(statements.SEAL_CLAIMS_AGAIN), _columns(again))
        versions = [new.id for _, new in pairs], [new.version for _, new in pairs]
        connection.execute(sql(statements.NEW_VERSIONS), versions)
        for _, new in pairs:
            connection.execute(sql(statements.NEW_KEY), (new.version, new.label, new.wrapped, new.id))

    def _rewrap(
        self, connection: Connection, blocks: dict[int, tuple[Bucket, Bucket]], members: Cursor
    ) -> None:
        again = []
        for block, subject, wrapped in members:
            old, new = blocks[block]
            with contextlib.suppress(KeyUnavailable):  # a damaged key stays what it is
                secret = unwrap(old.sound_key.secret, wrapped, str(subject))
                again.append((subject, wrap(new.key.secret, secret, str(subject))))
        if again:
            connection.execute(self._database.sql(statements.REWRAP), _columns(again))

    def _seal_owed_again(
        self, connection: Connection, blocks: dict[int, tuple[Bucket, Bucket]], owed: Cursor
    ) -> None:
        again = []
        for block, subject, sealed in owed:
            old, new = blocks[block]
            again.append((subject, sealed, new.key.seal_tags(old.sound_key.open_tags(sealed))))
        if again:
            connection.execute(self._database.sql(statements.SEAL_OWED_AGAIN), _columns(again))

    # --- old keys ------------------------------------------------------------------------------

    def _purge(self) -> None:
        """Remove the old keys from the files, also those that an interrupted removal left."""
        give_up_at_s = time.monotonic() + _PATIENCE_S
        while residue := self._database.read(
            lambda connection: connection.execute(self._database.sql(statements.RESIDUE)).fetchall()
        ):
            done = [
                (partition, made_by)
                for partition, made_by, is_seen in residue
                if not is_seen and self._database.rewrite(partition, lock_wait_ms=_LOCK_WAIT_MS)
            ]
            if done:
                self._purged(done)
            if len(done) == len(residue):
                return
            if time.monotonic() > give_up_at_s:
                raise residue_left()
            time.sleep(_LOOK_S)

    def _purged(self, done: Sequence[tuple[str, str]]) -> None:
        columns = _columns(done)
        self._database.write(lambda c: c.execute(self._database.sql(statements.PURGED), columns))


def _columns(rows: Sequence[tuple[object, ...]]) -> tuple[list[object], ...]:
    return tuple(map(list, zip(*rows, strict=True)))
