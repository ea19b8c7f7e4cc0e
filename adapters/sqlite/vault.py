"""The vault in one SQLite file: wrapped data keys and claims. `owed.py` has its owed erasures and checkpoints.

Data keys and tags lie under bucket keys (`buckets.py`), so that removing the residue of a person costs little: the
bucket keys are replaced, and the write-ahead log, which may hold the old ones, is truncated.

Promise: a data key is created once, with its registration; a destroyed key leaves a tombstone for ever.
Refusal: no address and no unwrapped key is ever written.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.crypto.sealing import unwrap, wrap
from adapters.sqlite import claims
from adapters.sqlite.buckets import Buckets, Cache
from adapters.sqlite.database import Connection, Database, migration_files
from adapters.sqlite.enciphering import BLANK, encipher
from adapters.sqlite.owed import OwedErasures, uuid_or_none
from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.ports.vault import (
    Claim,
    ClaimAnswer,
    ClaimId,
    ClaimRequest,
    ClaimState,
    DamagedKey,
    DataKey,
    DestroyedKey,
    Destruction,
    LivingKey,
    OwedState,
    Reason,
)
from domain.kernel.vault_errors import residue_left, vault_emptied
from domain.users.reservations import RESERVATION_LIFE_US, Reservations, key_minted_twice

_INDEX_KEY = "email-index-key"
PAGE_BYTES = 512
"""The tag of an address changes a page of its own, in the log and in the file: the vault writes a third with these (ADR 26)."""
_RESIDUE_BATCH = 8
"""People whose residue is removed in one transaction: it stops writers for some milliseconds each."""
# A limit for each table: otherwise every page would read both to their ends.
_SUBJECTS = """
    SELECT subject FROM (SELECT subject FROM data_keys WHERE subject > :after ORDER BY subject LIMIT :limit)
    UNION
    SELECT subject FROM (SELECT DISTINCT subject FROM email_claims WHERE subject > :after ORDER BY subject LIMIT :limit)
    ORDER BY subject LIMIT :limit"""
_KEY = """
    SELECT k.wrapped, k.block, k.destroyed, t.reason, t.event_id, t.destroyed_at_us, o.subject, o.event_id
    FROM (SELECT ? AS subject) wanted
    LEFT JOIN data_keys k ON k.subject = wanted.subject
    LEFT JOIN tombstones t ON t.subject = wanted.subject
    LEFT JOIN owed_erasures o ON o.subject = wanted.subject"""
# The subject that a command has registered, and whether a subject is closed.
_CONCERNED = """
    SELECT (SELECT subject FROM data_keys WHERE command_id = ?2), EXISTS(SELECT 1 FROM data_keys WHERE subject = ?1 AND destroyed)
        OR EXISTS(SELECT 1 FROM owed_erasures WHERE subject = ?1)"""


class SqliteVault(OwedErasures):
    def __init__(self, path: Path, *, kek: bytes, may_be_new: Callable[[], bool] = lambda: True) -> None:
        """Open the vault with its 256-bit key-encryption key. `may_be_new` is called if the vault is empty.

        Raises KeyUnavailable if the key does not fit this vault, or the vault is empty and must not be.
        """
        self._kek = kek
        self._caches = threading.local()
        self._may_be_new = may_be_new
        steps = migration_files("vault")
        functions = {"encipher": lambda connection: encipher(connection, kek, _INDEX_KEY)}
        self._database = Database(
            path, part="vault", migrations=steps, functions=functions, page_bytes=PAGE_BYTES
        )
        self.schema_version = len(steps)
        try:
            self._index_key = self._secret(_INDEX_KEY)
            with contextlib.suppress(PartUnavailable):  # a later start, or an erasure, tries again
                self._remove_earlier_bytes()
        except BaseException:
            self._database.close()
            raise

    def _secret(self, name: str) -> bytes:
        """A secret of the vault itself, created on first use: by one process, if several do so at once."""
        find = "SELECT wrapped FROM secrets WHERE name = ?"
        with self._database.reading() as connection:
            stored = connection.execute(find, (name,)).get
        if stored is None:
            # Ask before reading again: a process that has registered users since then created the secret first.
            may_be_new = self._may_be_new()
            with self._database.writing() as connection:
                stored = connection.execute(find, (name,)).get
                if stored is None:
                    if not may_be_new:
                        raise vault_emptied()
                    stored = wrap(self._kek, os.urandom(32), name)
                    connection.execute("INSERT INTO secrets VALUES(?, ?)", (name, stored))
                    self._buckets(connection).make_tag_buckets()
        return unwrap(self._kek, stored, name)

    def _buckets(self, connection: Connection) -> Buckets:
        """The bucket keys in a transaction of the calling thread."""
        cache: Cache | None = getattr(self._caches, "cache", None)
        if cache is None:
            cache = self._caches.cache = {}
        return Buckets(connection, self._kek, cache)

    def _tag(self, email: str) -> bytes:
        return hmac.digest(self._index_key, email.encode(), "sha256")

    # --- claims --------------------------------------------------------------------------------

    def reserve(
        self, requests: Sequence[ClaimRequest], *, confirmed: Sequence[ClaimId] = (), now_us: int
    ) -> list[ClaimAnswer]:
        tagged = [(self._tag(request.text), request) for request in requests]
        with self._database.writing() as connection:
            claims.confirm(connection, confirmed)
            buckets = self._buckets(connection)
            reservations = _load(connection, buckets, tagged)
            answers = [reservations.answer(tag, request) for tag, request in tagged]
            _store(connection, buckets, reservations, now_us + RESERVATION_LIFE_US)
            return answers

    def settle_claims(
        self,
        *,
        confirmed: Sequence[ClaimId] = (),
        released: Sequence[ClaimId] = (),
        abandoned: Sequence[int] = (),
        now_us: int,
    ) -> None:
        with self._database.writing() as connection:
            buckets = self._buckets(connection)
            claims.confirm(connection, confirmed)
            for claim in released:
                claims.free(connection, buckets, claims.of_reservation(connection, claim))
            for subject in abandoned:
                _destroy(connection, buckets, Destruction(subject, Reason.ABANDONED), now_us)

    def claims_of(self, subjects: Sequence[int], *, now_us: int) -> list[Claim]:
        with self._database.reading():
            return [
                claim
                for subject in subjects
                for claim in self._claims("WHERE subject = ?", (subject,), now_us)
            ]

    def claims_on(self, streams: Sequence[str], *, now_us: int) -> list[Claim]:
        with self._database.reading():
            return [
                claim for stream in streams for claim in self._claims("WHERE stream = ?", (stream,), now_us)
            ]

    def expired_claims(self, *, now_us: int, limit: int) -> list[Claim]:
        condition = "WHERE expires_at_us <= ? ORDER BY expires_at_us LIMIT ?"
        return self._claims(condition, (now_us, limit), now_us)

    def _claims(self, condition: str, arguments: tuple[object, ...], now_us: int) -> list[Claim]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                "SELECT subject, command_id, reservation_id, expires_at_us, stream, rule FROM email_claims "
                + condition,
                arguments,
            ).fetchall()
        return [
            Claim(
                subject,
                UUID(bytes=command),
                UUID(bytes=reservation),
                ClaimState.CONFIRMED if expires_at_us is None else ClaimState.RESERVED,
                expires_at_us is not None and expires_at_us <= now_us,
                stream or "",
                rule or "",
            )
            for subject, command, reservation, expires_at_us, stream, rule in rows
        ]

    def holders(self, emails: Sequence[str]) -> Mapping[str, int]:
        with self._database.snapshot() as connection:
            buckets = self._buckets(connection)
            found = {email: claims.find(connection, buckets, self._tag(email)) for email in emails}
        return {email: claim.subject for email, claim in found.items() if claim is not None}

    def registered_by(self, command_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        find = "SELECT subject FROM data_keys WHERE command_id = ?"
        with self._database.reading() as connection:
            found = {id_: connection.execute(find, (id_.bytes,)).get for id_ in command_ids}
        return {id_: subject for id_, subject in found.items() if subject is not None}

    # --- keys ----------------------------------------------------------------------------------

    def data_keys(self, subjects: Sequence[int], *, even_owed: bool = False) -> Mapping[int, DataKey]:
        keys: dict[int, DataKey] = {}
        with self._database.snapshot() as connection:
            buckets = self._buckets(connection)
            for subject in subjects:
                row: Any = connection.execute(_KEY, (subject,)).fetchone()
                wrapped, block, destroyed, reason, event, destroyed_at_us, owed, decided_by = row
                if destroyed:
                    why = Reason.UNKNOWN if reason is None else Reason(reason)
                    keys[subject] = DestroyedKey(why, uuid_or_none(event), destroyed_at_us)
                elif owed is not None and not even_owed:
                    keys[subject] = DestroyedKey(Reason.ERASURE, uuid_or_none(decided_by))
                elif wrapped is not None:
                    # The key-encryption key fits the vault, so a data key that its block cannot unwrap is damaged.
                    try:
                        secret = buckets.of(block).unwrap(wrapped, subject)
                    except Damaged:
                        secret = None
                    keys[subject] = DamagedKey() if secret is None else LivingKey(secret)
        return keys

    def subjects(self, *, after: int, limit: int) -> list[int]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(_SUBJECTS, {"after": after, "limit": limit}).fetchall()
        return [subject for (subject,) in rows]

    def tags(self, texts: Sequence[str]) -> list[bytes]:
        return [self._tag(text) for text in texts]

    def destroy(self, destructions: Sequence[Destruction], *, now_us: int) -> None:
        with self._database.writing() as connection:
            buckets = self._buckets(connection)
            for destruction in destructions:
                _destroy(connection, buckets, destruction, now_us)

    def remove_residue(self, subjects: Sequence[int]) -> None:
        for at in range(0, len(subjects), _RESIDUE_BATCH):
            some = subjects[at : at + _RESIDUE_BATCH]
            with self._database.writing() as connection:
                buckets = self._buckets(connection)
                buckets.replace(set().union(*(claims.residue_of(connection, buckets, s) for s in some)))
                connection.executemany("DELETE FROM freed_tags WHERE subject = ?", [(s,) for s in some])
        # The old bucket keys are in the log, and below it in the file until the log is copied.
        if not (self._remove_earlier_bytes() and self._database.truncate_wal()):
            raise residue_left()

    def _remove_earlier_bytes(self) -> bool:
        """Remove what earlier schema versions left in the files, once; False if a reader prevented it."""
        with self._database.reading() as connection:
            if not connection.execute("SELECT EXISTS(SELECT 1 FROM earlier_bytes)").get:
                return True
        if not self._database.rewrite():
            return False
        with self._database.writing() as connection:
            connection.execute("DELETE FROM earlier_bytes")
        return True

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()


def _load(
    connection: Connection, buckets: Buckets, tagged: Sequence[tuple[bytes, ClaimRequest]]
) -> Reservations:
    reservations = Reservations({}, {})
    for tag, request in tagged:
        held = claims.find(connection, buckets, tag)
        if held is not None:
            reservations.held[tag] = held
        command = request.command_id.bytes if request.registers else None
        row: Any = connection.execute(_CONCERNED, (request.subject, command)).fetchone()
        known, is_closed = row
        if is_closed:
            reservations.closed.add(request.subject)
        if known is not None:
            reservations.registered[request.command_id] = known
            row = connection.execute(_CONCERNED, (known, None)).fetchone()
            if row[1]:
                reservations.closed.add(known)
    return reservations


def _store(connection: Connection, buckets: Buckets, decided: Reservations, expires_at_us: int) -> None:
    connection.executemany(
        "UPDATE email_claims SET expires_at_us = ? WHERE subject = ? AND reservation_id = ?",
        [(expires_at_us, claim.subject, claim.reservation_id.bytes) for claim in decided.extended],
    )
    minted = list(decided.minted.values())
    blocks = dict(zip(minted, buckets.places(minted), strict=True))
    claims.add(connection, buckets, list(decided.claimed.items()), blocks, expires_at_us)
    before = connection.total_changes()
    connection.executemany(
        "INSERT OR IGNORE INTO data_keys VALUES(?, ?, 0, ?, ?)",
        [
            (subject, command_id.bytes, blocks[subject], buckets.wrapped(blocks[subject], subject))
            for command_id, subject in decided.minted.items()
        ],
    )
    if connection.total_changes() - before != len(minted):
        raise key_minted_twice()


def _destroy(connection: Connection, buckets: Buckets, destruction: Destruction, now_us: int) -> None:
    subject = destruction.subject
    block = claims.block_of(connection, buckets, subject)
    connection.execute(
        """INSERT INTO data_keys VALUES(?, NULL, 1, ?, ?)
           ON CONFLICT(subject) DO UPDATE SET destroyed = 1, wrapped = excluded.wrapped""",
        (subject, block, BLANK),
    )
    event_id = destruction.event_id and destruction.event_id.bytes
    connection.execute(
        "INSERT OR IGNORE INTO tombstones VALUES(?, ?, ?, ?)", (subject, destruction.reason, event_id, now_us)
    )
    freed = claims.free(connection, buckets, claims.of_subject(connection, subject))
    if destruction.reason is Reason.ABANDONED:
        # Keep the tombstone: a subject never gets a second key. Forget the command: it may register again.
        connection.execute("UPDATE data_keys SET command_id = NULL WHERE subject = ?", (subject,))
    elif connection.execute("SELECT EXISTS(SELECT 1 FROM owed_erasures WHERE subject = ?)", (subject,)).get:
        seal = buckets.of(block).seal_tags
        connection.executemany(
            "INSERT OR IGNORE INTO owed_tags VALUES(?, ?, ?, ?)",
            [(subject, seal(tag), 0, block) for tag in freed]
            + [(subject, seal(owed.tag), owed.words, block) for owed in destruction.tags],
        )
        connection.execute(
            "UPDATE owed_erasures SET state = ?, last_error = '' WHERE subject = ? AND state = ?",
            (OwedState.KEY_DESTROYED, subject, OwedState.DECIDED),
        )
