"""The vault in one schema of PostgreSQL: wrapped data keys and e-mail claims.

Promise: a key is minted once, with its registration, and a destroyed one leaves a tombstone for ever.
Refusal: neither an address nor a clear key is ever sent to the server.

What is deleted or overwritten stays in PostgreSQL's files: in dead rows until VACUUM, and even then in a
page's free space until something else lands there. So keys and claims lie in partitions by hash, and those
that hold residue are rewritten as a whole by VACUUM FULL. Out of this module's reach, until the
key-encryption key is replaced: the write-ahead log, its archive, standbys, backups and freed disk blocks.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from adapters.crypto.sealing import unwrap, wrap
from adapters.postgres.database import Connection, Database, Raced, one
from domain.kernel.errors import KeyUnavailable, residue_left, vault_emptied
from domain.kernel.events import Position
from domain.kernel.ports.vault import (
    Claim,
    ClaimAnswer,
    ClaimRequest,
    ClaimState,
    DataKey,
    DestroyedKey,
    LivingKey,
)
from domain.users.reservations import RESERVATION_LIFE_US, Held, Reservations, key_minted_twice

PARTITIONS = 16
"""An erasure locks and rewrites one of this many parts of the keys and of the claims."""
_PURGE_WAIT_MS = 1_000
"""How long a rewrite waits for readers of its part; whoever comes after it waits as long."""

# What was released doesn't change: add a step. No statistics on what is
# secret: ANALYZE would copy samples of it into the catalogue. PLAIN: no second table for long values.
_MIGRATIONS = (
    f"""
    CREATE TABLE {{schema}}.registrations(
        command_id uuid PRIMARY KEY,
        subject bigint NOT NULL
    );
    CREATE INDEX ON {{schema}}.registrations(subject);
    CREATE TABLE {{schema}}.data_keys(
        subject bigint PRIMARY KEY,
        destroyed boolean NOT NULL,
        wrapped bytea NOT NULL CHECK (octet_length(wrapped) = 60)
    ) PARTITION BY HASH (subject);
    CREATE TABLE {{schema}}.email_claims(
        tag bytea PRIMARY KEY CHECK (octet_length(tag) = 32),
        subject bigint NOT NULL,
        command_id uuid NOT NULL,
        reservation_id uuid NOT NULL,
        confirmed boolean NOT NULL,
        expires_at_us bigint NOT NULL
    ) PARTITION BY HASH (tag);
    CREATE INDEX ON {{schema}}.email_claims(reservation_id);
    CREATE INDEX ON {{schema}}.email_claims(subject);
    CREATE INDEX ON {{schema}}.email_claims(expires_at_us) WHERE NOT confirmed;
    ALTER TABLE {{schema}}.data_keys ALTER wrapped SET STORAGE PLAIN, ALTER wrapped SET STATISTICS 0;
    ALTER TABLE {{schema}}.email_claims ALTER tag SET STORAGE PLAIN, ALTER tag SET STATISTICS 0;
    DO $$
    BEGIN
        FOR n IN 0 .. {PARTITIONS - 1} LOOP
            EXECUTE format('CREATE TABLE {{schema}}.data_keys_%s PARTITION OF {{schema}}.data_keys
                FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER %s)', n, n);
            EXECUTE format('ALTER TABLE {{schema}}.data_keys_%s ALTER wrapped SET STATISTICS 0', n);
            EXECUTE format('CREATE TABLE {{schema}}.email_claims_%s PARTITION OF {{schema}}.email_claims
                FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER %s)', n, n);
            EXECUTE format('ALTER TABLE {{schema}}.email_claims_%s ALTER tag SET STATISTICS 0', n);
        END LOOP;
    END $$;
    CREATE TABLE {{schema}}.residue(partition name PRIMARY KEY, made_by xid8 NOT NULL);
    CREATE TABLE {{schema}}.secrets(name text PRIMARY KEY, wrapped bytea NOT NULL);
    CREATE TABLE {{schema}}.checkpoints(process text PRIMARY KEY, position bigint NOT NULL);
    """,
)
_BLANK = bytes(60)
_INDEX_KEY = "email-index-key"

# Claims are locked in order of tag wherever they are locked, so that two batches can't wait for each other.
_UNCONFIRMED = """WITH locked AS (SELECT tag FROM {schema}.email_claims
    WHERE reservation_id = ANY(%b::uuid[]) AND NOT confirmed ORDER BY tag FOR UPDATE)"""
_CONFIRM = (
    _UNCONFIRMED + "UPDATE {schema}.email_claims c SET confirmed = true FROM locked WHERE c.tag = locked.tag"
)
_EXTEND = (
    _UNCONFIRMED
    + "UPDATE {schema}.email_claims c SET expires_at_us = %s FROM locked WHERE c.tag = locked.tag"
)
# A join, not `= ANY`: each value is then looked for in its own partition only.
_FIND_CLAIMS = """
    SELECT tag, subject, command_id, reservation_id, confirmed
    FROM unnest(%b::bytea[]) AS wanted(tag) JOIN {schema}.email_claims USING (tag)"""
_FIND_REGISTRATIONS = (
    "SELECT command_id, subject FROM {schema}.registrations WHERE command_id = ANY(%b::uuid[])"
)
_FIND_KEYS = """
    SELECT subject, destroyed, wrapped
    FROM unnest(%b::bigint[]) AS wanted(subject) JOIN {schema}.data_keys USING (subject)"""
_CLAIM = """
    INSERT INTO {schema}.email_claims(expires_at_us, tag, subject, command_id, reservation_id, confirmed)
    SELECT %s, claim.*, false FROM unnest(%b::bytea[], %b::bigint[], %b::uuid[], %b::uuid[])
        AS claim(tag, subject, command_id, reservation_id)
    ORDER BY tag ON CONFLICT DO NOTHING"""
_REGISTER = """
    INSERT INTO {schema}.registrations(command_id, subject)
    SELECT * FROM unnest(%b::uuid[], %b::bigint[]) AS registration(command_id, subject)
    ORDER BY command_id ON CONFLICT DO NOTHING"""
_MINT = """
    INSERT INTO {schema}.data_keys(subject, destroyed, wrapped)
    SELECT subject, false, wrapped FROM unnest(%b::bigint[], %b::bytea[]) AS minted(subject, wrapped)
    ORDER BY subject ON CONFLICT DO NOTHING"""

# Whatever deletes or overwrites notes the partition, in the same transaction.
_RESIDUE = """
    INSERT INTO {schema}.residue SELECT relname, pg_current_xact_id()
    FROM pg_class WHERE oid IN (SELECT tableoid FROM gone) ORDER BY relname
    ON CONFLICT (partition) DO UPDATE SET made_by = excluded.made_by"""
_FREE = """WITH locked AS (SELECT tag FROM {schema}.email_claims WHERE CONDITION ORDER BY tag FOR UPDATE),
    gone AS (DELETE FROM {schema}.email_claims c USING locked WHERE c.tag = locked.tag RETURNING c.tableoid)"""
_FREE_RESERVATIONS = _FREE.replace("CONDITION", "reservation_id = ANY(%b::uuid[])") + _RESIDUE
_FREE_RESERVATION_OF = _FREE.replace("CONDITION", "reservation_id = %s AND subject = %s") + _RESIDUE
_FREE_SUBJECT = _FREE.replace("CONDITION", "subject = %s") + _RESIDUE
_BURY = (
    """WITH gone AS (
    INSERT INTO {schema}.data_keys(wrapped, subject, destroyed) VALUES(%s, %s, true)
    ON CONFLICT (subject) DO UPDATE SET destroyed = true, wrapped = excluded.wrapped
    WHERE NOT data_keys.destroyed RETURNING tableoid)"""
    + _RESIDUE
)
_BURY_KNOWN = (
    """WITH gone AS (
    UPDATE {schema}.data_keys SET wrapped = %s, destroyed = true
    WHERE subject = %s AND NOT destroyed RETURNING tableoid)"""
    + _RESIDUE
)
# Rows that a transaction as old as the deletion may still see are copied even by VACUUM FULL, so such a
# partition has to wait. Transactions in other databases don't matter, those of standbys and slots do.
_PURGEABLE = """
    SELECT partition, made_by::text FROM {schema}.residue WHERE NOT EXISTS (
        SELECT FROM (
            SELECT greatest(age(backend_xid), age(backend_xmin)) FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND (datname = current_database() OR datname IS NULL)
            UNION ALL SELECT age(xmin) FROM pg_replication_slots
            UNION ALL SELECT age(transaction) FROM pg_prepared_xacts WHERE database = current_database()
        ) AS others(age) WHERE age >= age(made_by::xid)
    ) ORDER BY partition"""
_SAVE_CHECKPOINT = """
    INSERT INTO {schema}.checkpoints AS stored VALUES(%s, %s)
    ON CONFLICT (process) DO UPDATE SET position = greatest(stored.position, excluded.position)"""


class PostgresVault:
    def __init__(self, url: str, *, kek: bytes, may_be_new: Callable[[], bool] = lambda: True) -> None:
        """`kek` is the 256-bit key-encryption key; `may_be_new` is asked before a new vault is begun.

        Raises KeyUnavailable when the key is not this vault's, or the vault is empty and may not be.
        """
        self._kek = kek
        self._may_be_new = may_be_new
        self._database = Database(url, part="vault", migrations=_MIGRATIONS)
        self.schema_version = len(_MIGRATIONS)
        try:
            self._index_key = self._secret(_INDEX_KEY)
        except BaseException:
            self._database.close()
            raise

    def _secret(self, name: str) -> bytes:
        """A secret of the vault's own, made on first use. Of two processes that make it at once one wins."""
        find = "SELECT wrapped FROM {schema}.secrets WHERE name = %s"
        stored = self._one(find, name)
        if stored is None:
            # Asked before the second look: whoever has people by then has made the vault before.
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
        commands = [request.command_id for _, request in tagged if request.registers]
        claims = connection.execute(self._database.sql(_FIND_CLAIMS), (tags,))
        registrations = connection.execute(self._database.sql(_FIND_REGISTRATIONS), (commands,))
        return Reservations({tag: Held(*claim) for tag, *claim in claims}, dict(registrations.fetchall()))

    def _store(self, connection: Connection, decided: Reservations, expires_at_us: int) -> None:
        """Write what was decided. Raises Raced when what it was decided on isn't so any more."""
        sql = self._database.sql
        commands, subjects = list(decided.minted), list(decided.minted.values())
        wrapped = [wrap(self._kek, os.urandom(32), str(subject)) for subject in subjects]
        # The constraints decide between batches: of two that insert the same the later waits, then finds it.
        with connection.pipeline():
            written = []
            if decided.extended:
                extended = connection.execute(sql(_EXTEND), (list(decided.extended), expires_at_us))
                written.append((extended, len(decided.extended)))
            if decided.claimed:
                claims = decided.claimed.values()
                columns = (
                    list(decided.claimed),
                    [claim.subject for claim in claims],
                    [claim.command_id for claim in claims],
                    [claim.reservation_id for claim in claims],
                )
                claimed = connection.execute(sql(_CLAIM), (expires_at_us, *columns))
                written.append((claimed, len(claims)))
            if decided.minted:
                written.append((connection.execute(sql(_REGISTER), (commands, subjects)), len(subjects)))
                minted = connection.execute(sql(_MINT), (subjects, wrapped))
        if any(cursor.rowcount != expected for cursor, expected in written):
            raise Raced
        if decided.minted and minted.rowcount != len(subjects):
            raise key_minted_twice()

    def confirm(self, reservation_ids: Sequence[UUID]) -> None:
        self._write(_CONFIRM, (list(reservation_ids),))

    def release(self, reservation_ids: Sequence[UUID]) -> None:
        self._write(_FREE_RESERVATIONS, (list(reservation_ids),))

    def abandon_registration(self, subject: int, reservation_id: UUID) -> None:
        def abandon(connection: Connection) -> None:
            sql = self._database.sql
            connection.execute(sql(_FREE_RESERVATION_OF), (reservation_id, subject))
            connection.execute(sql("DELETE FROM {schema}.registrations WHERE subject = %s"), (subject,))
            # The tombstone stays: a subject is never given a second key. Its command may register anew.
            connection.execute(sql(_BURY_KNOWN), (_BLANK, subject))

        self._database.write(abandon)

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

    # --- keys ----------------------------------------------------------------------------------

    def data_keys(self, subjects: Sequence[int]) -> Mapping[int, DataKey]:
        keys: dict[int, DataKey] = {}
        for subject, destroyed, wrapped in self._all(_FIND_KEYS, (list(set(subjects)),)):
            # The vault's own secret fitted, so a key that doesn't is one damaged row: others go on.
            with contextlib.suppress(KeyUnavailable):
                keys[subject] = (
                    DestroyedKey() if destroyed else LivingKey(unwrap(self._kek, wrapped, str(subject)))
                )
        return keys

    def destroy_key(self, subject: int, *, process: str, position: Position) -> None:
        def destroy(connection: Connection) -> None:
            sql = self._database.sql
            connection.execute(sql(_FREE_SUBJECT), (subject,))
            connection.execute(sql(_BURY), (_BLANK, subject))
            connection.execute(sql(_SAVE_CHECKPOINT), (process, position))

        self._database.write(destroy)
        # An old transaction or a reader may prevent it.
        if not self.purge():
            raise residue_left()

    def purge(self) -> bool:
        """Rewrite every partition in which something was deleted, so that no file of the tables holds it.

        False when a transaction older than a deletion or a reader prevented it: call again later.
        """
        for partition, made_by in self._all(_PURGEABLE, ()):
            if self._database.rewrite(partition, lock_wait_ms=_PURGE_WAIT_MS):
                # What was deleted since then has a later number and stays on the list.
                done = "DELETE FROM {schema}.residue WHERE partition = %s AND made_by = %s::xid8"
                self._write(done, (partition, made_by))
        return not self._one("SELECT EXISTS(SELECT FROM {schema}.residue)")

    # --- checkpoints ---------------------------------------------------------------------------

    def checkpoint(self, process: str) -> Position:
        found = self._one("SELECT position FROM {schema}.checkpoints WHERE process = %s", process)
        return int(found or 0)

    def save_checkpoint(self, process: str, position: Position) -> None:
        self._write(_SAVE_CHECKPOINT, (process, position))

    def rewind_checkpoint(self, process: str, position: Position) -> None:
        rewind = "UPDATE {schema}.checkpoints SET position = least(position, %s) WHERE process = %s"
        self._write(rewind, (position, process))

    def close(self) -> None:
        self._database.close()

    # --- one statement -------------------------------------------------------------------------

    def _one(self, template: str, *arguments: object) -> Any:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: one(connection, statement, *arguments))

    def _all(self, template: str, arguments: Sequence[object]) -> list[tuple[Any, ...]]:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: connection.execute(statement, arguments).fetchall())

    def _write(self, template: str, arguments: Sequence[object]) -> None:
        statement = self._database.sql(template)
        self._database.write(lambda connection: connection.execute(statement, arguments))
