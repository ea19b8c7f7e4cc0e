"""The vault in one schema of PostgreSQL: wrapped data keys and e-mail claims. `owed.py` has owed erasures and checkpoints.

Promise: a data key is created once, with its registration; a destroyed key leaves a tombstone for ever.
Refusal: no address and no unwrapped key is ever sent to the server.

PostgreSQL keeps deleted and overwritten data in its files: in dead rows until VACUUM, and after that in the free
space of a page until it is used again. Keys and claims are therefore partitioned by hash, and VACUUM FULL
rewrites each partition that holds residue, and the tags of owed erasures. This module cannot reach the write-ahead log, its archive, standbys,
backups and freed disk blocks: replace the key-encryption key for those.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from adapters.crypto.sealing import unwrap, wrap
from adapters.postgres import statements
from adapters.postgres.connection import Connection
from adapters.postgres.database import ConcurrentChange, Database, migration_files
from adapters.postgres.owed import OwedErasures
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
    Reason,
)
from domain.users.reservations import RESERVATION_LIFE_US, Held, Reservations, key_minted_twice

_PURGE_WAIT_MS = 1_000
"""The time that a rewrite waits for readers of its partition. Sessions behind it wait as long."""
_BLANK = bytes(60)
_INDEX_KEY = "email-index-key"


class PostgresVault(OwedErasures):
    def __init__(self, url: str, *, kek: bytes, may_be_new: Callable[[], bool] = lambda: True) -> None:
        """Open the vault with its 256-bit key-encryption key. `may_be_new` is called if the vault is empty.

        Raises KeyUnavailable if the key does not fit this vault, or the vault is empty and must not be.
        """
        self._kek = kek
        self._may_be_new = may_be_new
        steps = migration_files("vault")
        self._database = Database(url, part="vault", migrations=steps)
        self.schema_version = len(steps)
        try:
            self._index_key = self._secret(_INDEX_KEY)
        except BaseException:
            self._database.close()
            raise

    def _secret(self, name: str) -> bytes:
        """A secret of the vault itself, created on first use: by one process, if several do so at once."""
        find = "SELECT wrapped FROM {schema}.secrets WHERE name = %s"
        stored = self._one(find, name)
        if stored is None:
            # Ask before reading again: a process that has registered users since then created the secret first.
            may_be_new = self._may_be_new()
            stored = self._one(find, name)
            if stored is None and not may_be_new:
                raise vault_emptied()
        if stored is None:
            fresh = wrap(self._kek, os.urandom(32), name)
            self._write("INSERT INTO {schema}.secrets VALUES(%s, %s) ON CONFLICT DO NOTHING", (name, fresh))
            stored = self._one(find, name)
        return unwrap(self._kek, stored, name)

    def _tag(self, email: str) -> bytes:
        return hmac.digest(self._index_key, email.encode(), "sha256")

    # --- e-mail claims -------------------------------------------------------------------------

    def reserve(self, requests: Sequence[ClaimRequest], *, now_us: int) -> list[ClaimAnswer]:
        tagged = [(self._tag(request.email), request) for request in requests]

        def attempt(connection: Connection) -> list[ClaimAnswer]:
            reservations = self._load(connection, tagged)
            answers = [reservations.answer(tag, request) for tag, request in tagged]
            self._store(connection, reservations, now_us + RESERVATION_LIFE_US)
            return answers

        return self._database.write(attempt)

    def _load(self, connection: Connection, tagged: Sequence[tuple[bytes, ClaimRequest]]) -> Reservations:
        tags = list({tag for tag, _ in tagged})
        subjects = [request.subject for _, request in tagged]
        commands = [request.command_id for _, request in tagged if request.registers]
        closed = connection.execute(self._database.sql(statements.FIND_CLOSED), (subjects, commands))
        claims = connection.execute(self._database.sql(statements.FIND_CLAIMS), (tags,))
        registrations = connection.execute(self._database.sql(statements.FIND_REGISTRATIONS), (commands,))
        return Reservations(
            {tag: Held(*claim) for tag, *claim in claims},
            dict(registrations.fetchall()),
            {subject for (subject,) in closed},
        )

    def _store(self, connection: Connection, decided: Reservations, expires_at_us: int) -> None:
        """Write the decisions. Raises ConcurrentChange if the rows that they depend on have changed."""
        sql = self._database.sql
        commands, subjects = list(decided.minted), list(decided.minted.values())
        wrapped = [wrap(self._kek, os.urandom(32), str(subject)) for subject in subjects]
        # Constraints decide between two batches that insert the same row: the later one waits, then inserts nothing.
        with connection.pipeline():
            written = []
            if decided.extended:
                extended = connection.execute(sql(statements.EXTEND), (list(decided.extended), expires_at_us))
                written.append((extended, len(decided.extended)))
            if decided.claimed:
                claims = decided.claimed.values()
                columns = (
                    list(decided.claimed),
                    [claim.subject for claim in claims],
                    [claim.command_id for claim in claims],
                    [claim.reservation_id for claim in claims],
                )
                claimed = connection.execute(sql(statements.CLAIM), (expires_at_us, *columns))
                written.append((claimed, len(claims)))
            if decided.minted:
                written.append(
                    (connection.execute(sql(statements.REGISTER), (commands, subjects)), len(subjects))
                )
                minted = connection.execute(sql(statements.MINT), (subjects, wrapped))
        if any(cursor.rowcount != expected for cursor, expected in written):
            raise ConcurrentChange
        if decided.minted and minted.rowcount != len(subjects):
            raise key_minted_twice()

    def confirm(self, reservation_ids: Sequence[UUID]) -> None:
        self._write(statements.CONFIRM, (list(reservation_ids),))

    def release(self, reservation_ids: Sequence[UUID]) -> None:
        self._write(statements.RELEASE_RESERVATIONS, (list(reservation_ids),))

    def claims_of(self, subject: int, *, now_us: int) -> list[Claim]:
        return self._claims("WHERE subject = %s ORDER BY tag", (subject,), now_us)

    def expired_claims(self, *, now_us: int, limit: int) -> list[Claim]:
        condition = "WHERE NOT confirmed AND expires_at_us <= %s ORDER BY expires_at_us LIMIT %s"
        return self._claims(condition, (now_us, limit), now_us)

    def _claims(self, condition: str, arguments: tuple[int, ...], now_us: int) -> list[Claim]:
        columns = (
            "SELECT subject, command_id, reservation_id, confirmed, expires_at_us FROM {schema}.email_claims"
        )
        return [
            Claim(
                subject,
                command_id,
                reservation_id,
                ClaimState.CONFIRMED if confirmed else ClaimState.RESERVED,
                not confirmed and expires_at_us <= now_us,
            )
            for subject, command_id, reservation_id, confirmed, expires_at_us in self._all(
                f"{columns} {condition}", arguments
            )
        ]

    def holder(self, email: str) -> int | None:
        subject = self._one("SELECT subject FROM {schema}.email_claims WHERE tag = %s", self._tag(email))
        return None if subject is None else int(subject)

    def registered_by(self, command_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        return dict(self._all(statements.FIND_REGISTRATIONS, (list(command_ids),)))

    # --- keys ----------------------------------------------------------------------------------

    def data_keys(self, subjects: Sequence[int], *, even_owed: bool = False) -> Mapping[int, DataKey]:
        keys: dict[int, DataKey] = {}
        for subject, wrapped, destroyed, reason, event, destroyed_at_us, owed, decided_by in self._all(
            statements.FIND_KEYS, (list(set(subjects)),)
        ):
            if destroyed:
                why = Reason.UNKNOWN if reason is None else Reason(reason)
                keys[subject] = DestroyedKey(why, event, destroyed_at_us)
            elif owed is not None and not even_owed:
                keys[subject] = DestroyedKey(Reason.ERASURE, decided_by)
            elif wrapped is not None:
                # The key-encryption key fits the vault, so a data key that it cannot unwrap is damaged.
                keys[subject] = DamagedKey()
                with contextlib.suppress(KeyUnavailable):
                    keys[subject] = LivingKey(unwrap(self._kek, wrapped, str(subject)))
        return keys

    def subjects(self, *, after: int, limit: int) -> list[int]:
        found = self._all(statements.SUBJECTS, (after, limit, after, limit, limit))
        return [subject for (subject,) in found]

    def tags(self, texts: Sequence[str]) -> list[bytes]:
        return [self._tag(text) for text in texts]

    def destroy(self, destructions: Sequence[Destruction], *, now_us: int) -> None:
        erased = [d for d in destructions if d.reason is not Reason.ABANDONED]
        abandoned = [d.subject for d in destructions if d.reason is Reason.ABANDONED]
        kept = [(d.subject, tag.tag, tag.words) for d in erased for tag in d.tags]
        subjects = [d.subject for d in destructions]

        def attempt(connection: Connection) -> None:
            sql = self._database.sql
            connection.execute(sql(statements.DESTROY_KEYS), (_BLANK, subjects))
            reasons, events = [str(d.reason) for d in destructions], [d.event_id for d in destructions]
            connection.execute(sql(statements.LEAVE_TOMBSTONES), (now_us, subjects, reasons, events))
            if erased:
                listed = [d.subject for d in erased]
                connection.execute(sql(statements.KEEP_TAGS_OF_CLAIMS), (listed,))
                if kept:
                    connection.execute(sql(statements.KEEP_TAGS), tuple(map(list, zip(*kept, strict=True))))
                connection.execute(sql(statements.KEY_DESTROYED), (listed,))
            connection.execute(sql(statements.RELEASE_CLAIMS_OF), (subjects,))
            if abandoned:
                # The tombstone stays: a subject never gets a second key. The command may register again.
                connection.execute(sql(statements.FORGET_REGISTRATIONS), (abandoned,))

        if destructions:
            self._database.write(attempt)

    def remove_residue(self) -> None:
        # A reader, or a transaction older than a deletion, keeps a partition on the list.
        for partition, made_by in self._all(statements.PURGEABLE, ()):
            if self._database.rewrite(partition, lock_wait_ms=_PURGE_WAIT_MS):
                # Deletions since then have recorded a later number: their partition stays on the list.
                done = "DELETE FROM {schema}.residue WHERE partition = %s AND made_by = %s::xid8"
                self._write(done, (partition, made_by))
        if self._one("SELECT EXISTS(SELECT FROM {schema}.residue)"):
            raise residue_left()

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()
