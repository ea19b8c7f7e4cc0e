"""The vault in one SQLite file: wrapped data keys and e-mail claims. `owed.py` has its owed erasures and checkpoints.

Promise: a data key is created once, with its registration; a destroyed key leaves a tombstone for ever.
Refusal: no address and no unwrapped key is ever written.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.crypto.sealing import unwrap, wrap
from adapters.sqlite.database import Connection, Database, migration_files
from adapters.sqlite.owed import OwedErasures, uuid_or_none
from domain.kernel.errors import KeyUnavailable, residue_left, vault_emptied
from domain.kernel.ports.vault import (
    Claim,
    ClaimAnswer,
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
from domain.users.reservations import RESERVATION_LIFE_US, Held, Reservations, key_minted_twice

_BLANK = bytes(60)
_INDEX_KEY = "email-index-key"
# A limit for each table: otherwise every page would read both to their ends.
_SUBJECTS = """
    SELECT subject FROM (SELECT subject FROM data_keys WHERE subject > :after ORDER BY subject LIMIT :limit)
    UNION
    SELECT subject FROM (SELECT DISTINCT subject FROM email_claims WHERE subject > :after ORDER BY subject LIMIT :limit)
    ORDER BY subject LIMIT :limit"""
_KEY = """
    SELECT k.wrapped, k.destroyed, t.reason, t.event_id, t.destroyed_at_us, o.subject, o.event_id
    FROM (SELECT ? AS subject) wanted
    LEFT JOIN data_keys k ON k.subject = wanted.subject
    LEFT JOIN tombstones t ON t.subject = wanted.subject
    LEFT JOIN owed_erasures o ON o.subject = wanted.subject"""
_CLOSED = """
    SELECT EXISTS(SELECT 1 FROM data_keys WHERE subject = :subject AND destroyed)
        OR EXISTS(SELECT 1 FROM owed_erasures WHERE subject = :subject)"""


class SqliteVault(OwedErasures):
    def __init__(self, path: Path, *, kek: bytes, may_be_new: Callable[[], bool] = lambda: True) -> None:
        """Open the vault with its 256-bit key-encryption key. `may_be_new` is called if the vault is empty.

        Raises KeyUnavailable if the key does not fit this vault, or the vault is empty and must not be.
        """
        self._kek = kek
        self._may_be_new = may_be_new
        steps = migration_files("vault")
        self._database = Database(path, part="vault", migrations=steps)
        self.schema_version = len(steps)
        try:
            self._index_key = self._secret(_INDEX_KEY)
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
        return unwrap(self._kek, stored, name)

    def _tag(self, email: str) -> bytes:
        return hmac.digest(self._index_key, email.encode(), "sha256")

    # --- e-mail claims -------------------------------------------------------------------------

    def reserve(self, requests: Sequence[ClaimRequest], *, now_us: int) -> list[ClaimAnswer]:
        tagged = [(self._tag(request.email), request) for request in requests]
        with self._database.writing() as connection:
            reservations = _load(connection, tagged)
            answers = [reservations.answer(tag, request) for tag, request in tagged]
            self._store(connection, reservations, now_us + RESERVATION_LIFE_US)
            return answers

    def _store(self, connection: Connection, decided: Reservations, expires_at_us: int) -> None:
        connection.executemany(
            "UPDATE email_claims SET expires_at_us = ? WHERE reservation_id = ?",
            [(expires_at_us, reservation_id.bytes) for reservation_id in decided.extended],
        )
        connection.executemany(
            "INSERT INTO email_claims VALUES(?, ?, ?, ?, 0, ?)",
            [
                (tag, claim.subject, claim.command_id.bytes, claim.reservation_id.bytes, expires_at_us)
                for tag, claim in decided.claimed.items()
            ],
        )
        before = connection.total_changes()
        connection.executemany(
            "INSERT OR IGNORE INTO data_keys VALUES(?, ?, 0, ?)",
            [
                (subject, command_id.bytes, wrap(self._kek, os.urandom(32), str(subject)))
                for command_id, subject in decided.minted.items()
            ],
        )
        if connection.total_changes() - before != len(decided.minted):
            raise key_minted_twice()

    def confirm(self, reservation_ids: Sequence[UUID]) -> None:
        confirmed = "UPDATE email_claims SET confirmed = 1 WHERE reservation_id = ?"
        self._each(confirmed, [(id_.bytes,) for id_ in reservation_ids])

    def release(self, reservation_ids: Sequence[UUID]) -> None:
        released = "DELETE FROM email_claims WHERE reservation_id = ?"
        self._each(released, [(id_.bytes,) for id_ in reservation_ids])

    def claims_of(self, subject: int, *, now_us: int) -> list[Claim]:
        return self._claims("WHERE subject = ?", (subject,), now_us)

    def expired_claims(self, *, now_us: int, limit: int) -> list[Claim]:
        condition = "WHERE confirmed = 0 AND expires_at_us <= ? ORDER BY expires_at_us LIMIT ?"
        return self._claims(condition, (now_us, limit), now_us)

    def _claims(self, condition: str, arguments: tuple[int, ...], now_us: int) -> list[Claim]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                "SELECT subject, command_id, reservation_id, confirmed, expires_at_us FROM email_claims "
                + condition,
                arguments,
            ).fetchall()
        return [
            Claim(
                subject,
                UUID(bytes=command),
                UUID(bytes=reservation),
                ClaimState.CONFIRMED if confirmed else ClaimState.RESERVED,
                not confirmed and expires_at_us <= now_us,
            )
            for subject, command, reservation, confirmed, expires_at_us in rows
        ]

    def holder(self, email: str) -> int | None:
        with self._database.reading() as connection:
            subject = connection.execute(
                "SELECT subject FROM email_claims WHERE tag = ?", (self._tag(email),)
            ).get
            return None if subject is None else int(subject)

    def registered_by(self, command_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        find = "SELECT subject FROM data_keys WHERE command_id = ?"
        with self._database.reading() as connection:
            found = {id_: connection.execute(find, (id_.bytes,)).get for id_ in command_ids}
        return {id_: subject for id_, subject in found.items() if subject is not None}

    # --- keys ----------------------------------------------------------------------------------

    def data_keys(self, subjects: Sequence[int], *, even_owed: bool = False) -> Mapping[int, DataKey]:
        keys: dict[int, DataKey] = {}
        with self._database.reading() as connection:
            for subject in subjects:
                row: Any = connection.execute(_KEY, (subject,)).fetchone()
                wrapped, destroyed, reason, event, destroyed_at_us, owed, decided_by = row
                if destroyed:
                    why = Reason.UNKNOWN if reason is None else Reason(reason)
                    keys[subject] = DestroyedKey(why, uuid_or_none(event), destroyed_at_us)
                elif owed is not None and not even_owed:
                    keys[subject] = DestroyedKey(Reason.ERASURE, uuid_or_none(decided_by))
                elif wrapped is not None:
                    # The key-encryption key fits the vault, so a data key that it cannot unwrap is damaged.
                    keys[subject] = DamagedKey()
                    with contextlib.suppress(KeyUnavailable):
                        keys[subject] = LivingKey(unwrap(self._kek, wrapped, str(subject)))
        return keys

    def subjects(self, *, after: int, limit: int) -> list[int]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(_SUBJECTS, {"after": after, "limit": limit}).fetchall()
        return [subject for (subject,) in rows]

    def tags(self, texts: Sequence[str]) -> list[bytes]:
        return [self._tag(text) for text in texts]

    def destroy(self, destructions: Sequence[Destruction], *, now_us: int) -> None:
        with self._database.writing() as connection:
            for destruction in destructions:
                _destroy(connection, destruction, now_us)

    def remove_residue(self) -> None:
        if not self._database.remove_residue():
            raise residue_left()

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()


def _load(connection: Connection, tagged: Sequence[tuple[bytes, ClaimRequest]]) -> Reservations:
    reservations = Reservations({}, {})
    for tag, request in tagged:
        claim = connection.execute(
            "SELECT subject, command_id, reservation_id, confirmed FROM email_claims WHERE tag = ?", (tag,)
        ).fetchone()
        if claim is not None:
            subject, command, reservation, confirmed = claim
            reservations.held[tag] = Held(
                subject, UUID(bytes=command), UUID(bytes=reservation), bool(confirmed)
            )
        concerned = {request.subject}
        if request.registers:
            command = request.command_id.bytes
            known = connection.execute("SELECT subject FROM data_keys WHERE command_id = ?", (command,)).get
            if known is not None:
                reservations.registered[request.command_id] = known
                concerned.add(known)
        for subject in concerned:
            if connection.execute(_CLOSED, {"subject": subject}).get:
                reservations.closed.add(subject)
    return reservations


def _destroy(connection: Connection, destruction: Destruction, now_us: int) -> None:
    subject = destruction.subject
    connection.execute(
        """INSERT INTO data_keys VALUES(?, NULL, 1, ?)
           ON CONFLICT(subject) DO UPDATE SET destroyed = 1, wrapped = excluded.wrapped""",
        (subject, _BLANK),
    )
    event_id = destruction.event_id and destruction.event_id.bytes
    connection.execute(
        "INSERT OR IGNORE INTO tombstones VALUES(?, ?, ?, ?)", (subject, destruction.reason, event_id, now_us)
    )
    if destruction.reason is Reason.ABANDONED:
        # Keep the tombstone: a subject never gets a second key. Forget the command: it may register again.
        connection.execute("UPDATE data_keys SET command_id = NULL WHERE subject = ?", (subject,))
    elif connection.execute("SELECT EXISTS(SELECT 1 FROM owed_erasures WHERE subject = ?)", (subject,)).get:
        # The tags of the claims first: the claims are deleted below.
        connection.execute(
            "INSERT OR IGNORE INTO owed_tags SELECT subject, tag, 0 FROM email_claims WHERE subject = ?",
            (subject,),
        )
        connection.executemany(
            "INSERT OR IGNORE INTO owed_tags VALUES(?, ?, ?)",
            [(subject, owed.tag, owed.words) for owed in destruction.tags],
        )
        connection.execute(
            "UPDATE owed_erasures SET state = ?, last_error = '' WHERE subject = ? AND state = ?",
            (OwedState.KEY_DESTROYED, subject, OwedState.DECIDED),
        )
    connection.execute("DELETE FROM email_claims WHERE subject = ?", (subject,))
