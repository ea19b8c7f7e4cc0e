"""The vault in one schema of PostgreSQL: wrapped data keys and claims. `owed.py` has owed erasures and checkpoints.

Promise: a data key is created once, with its registration; a destroyed key leaves a tombstone for ever.
Refusal: no address, no tag and no unwrapped key is ever sent to the server.

Data keys and tags are stored under bucket keys (`buckets.py`), and `rotation.py` removes what was destroyed.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from adapters.crypto.bucket_keys import bucket_of
from adapters.crypto.sealing import unwrap, wrap
from adapters.postgres import statements
from adapters.postgres.buckets import Bucket, Buckets
from adapters.postgres.connection import Connection, Cursor
from adapters.postgres.database import Database, migration_files
from adapters.postgres.migrations import Migration
from adapters.postgres.owed import OwedErasures
from adapters.postgres.rewrapping import Rewrapping
from adapters.postgres.rotation import Rotation
from domain.kernel.errors import Damaged, KeyUnavailable
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
    OwedTag,
    Reason,
)
from domain.kernel.vault_errors import vault_emptied
from domain.users.reservations import RESERVATION_LIFE_US, Held, Reservations

_BLANK = bytes(60)
_INDEX_KEY = "email-index-key"


@dataclass(slots=True)
class _Stored:
    """The bucket keys of one attempt to store reservations. Its commit makes them known."""

    fresh: list[Bucket] = field(default_factory=list)
    filled: tuple[int, int] | None = None


class PostgresVault(OwedErasures):
    def __init__(self, url: str, *, kek: bytes, may_be_new: Callable[[], bool] = lambda: True) -> None:
        """Open the vault with its 256-bit key-encryption key. `may_be_new` is called if the vault is empty.

        Raises KeyUnavailable if the key does not fit this vault, or the vault is empty and must not be.
        """
        self._kek = kek
        self._may_be_new = may_be_new
        files = migration_files("vault")
        steps: list[Migration] = [*files[:3], Rewrapping(kek, _INDEX_KEY), *files[3:]]
        self._database = Database(url, part="vault", migrations=steps)
        self.schema_version = len(steps)
        try:
            self._index_key = self._secret(_INDEX_KEY)
            self._buckets = Buckets(self._database, kek)
            self._rotation = Rotation(self._database, self._buckets)
        except BaseException:
            self._database.close()
            raise

    def _secret(self, name: str) -> bytes:
        """A secret of the vault itself, created on first use: by one process, if several do so at once."""
        stored = self._one(statements.FIND_OWN, name)
        if stored is None:
            # Ask before reading again: a process that has registered users since then created the secret first.
            may_be_new = self._may_be_new()
            stored = self._one(statements.FIND_OWN, name)
            if stored is None and not may_be_new:
                raise vault_emptied()
        if stored is None:
            fresh = wrap(self._kek, os.urandom(32), name)
            self._write(statements.KEEP_OWN, (name, fresh))
            stored = self._one(statements.FIND_OWN, name)
        return unwrap(self._kek, stored, name)

    def _tag(self, email: str) -> bytes:
        return hmac.digest(self._index_key, email.encode(), "sha256")

    # --- claims --------------------------------------------------------------------------------

    def reserve(
        self, requests: Sequence[ClaimRequest], *, confirmed: Sequence[ClaimId] = (), now_us: int
    ) -> list[ClaimAnswer]:
        tagged = [(self._tag(request.text), request) for request in requests]
        confirming = [claim.reservation_id for claim in confirmed]
        stored = _Stored()

        def decide(connection: Connection) -> tuple[list[ClaimAnswer], Callable[[Connection], None] | None]:
            nonlocal stored
            stored = _Stored()
            decided = self._load(connection, tagged, confirming)
            answers = [decided.answer(tag, request) for tag, request in tagged]
            if not decided.extended and not decided.claimed and not confirming:
                return answers, None
            return answers, lambda c: self._store(
                c, decided, confirming, now_us + RESERVATION_LIFE_US, stored
            )

        answers = self._database.read_then_write(decide)
        self._buckets.know(stored.fresh)
        if stored.filled is not None:
            self._buckets.give_back(stored.filled)
        return answers

    def _load(
        self, connection: Connection, tagged: Sequence[tuple[bytes, ClaimRequest]], confirming: Sequence[UUID]
    ) -> Reservations:
        """What the answers depend on, as it is once the claims are confirmed."""
        sql = self._database.sql
        tags = {tag for tag, _ in tagged}
        stored, used = self._buckets.stored(tags), self._buckets.versions(tags)
        commands = {request.command_id: request.subject for _, request in tagged if request.registers}
        with connection.pipeline():
            claims = connection.execute(sql(statements.FIND_CLAIMS), ([*stored],))
            # After the claims: those that were found under keys of another version count for nothing.
            changed = connection.execute(sql(statements.CHANGED), used)
            registrations = connection.execute(sql(statements.FIND_REGISTRATIONS), ([*commands],))
            wanted = [request.subject for _, request in tagged], [*commands]
            subjects = connection.execute(sql(statements.FIND_SUBJECTS), wanted)
        self._buckets.refresh(connection, [id_ for (id_,) in changed])
        held = {stored[tag]: Held(*claim) for tag, *claim in claims}
        confirmed = {*confirming}
        for tag, claim in held.items():
            if claim.reservation_id in confirmed:
                held[tag] = replace(claim, confirmed=True)
        registered = dict(registrations.fetchall())
        # No key is minted for a subject that has one.
        new = {subject for command, subject in commands.items() if command not in registered}
        return Reservations(held, registered, {s for s, is_closed in subjects if is_closed or s in new})

    def _store(
        self,
        connection: Connection,
        decided: Reservations,
        confirming: Sequence[UUID],
        expires_at_us: int,
        stored: _Stored,
    ) -> None:
        """Write the decisions, if the rows that they depend on have not changed."""
        sql = self._database.sql
        self._buckets.exclude_rotations(connection)
        if confirming and decided.extended:
            locked = [*confirming, *(claim.reservation_id for claim in decided.extended)]
            connection.execute(sql(statements.LOCK_CLAIMS), (locked, []))
        if confirming:
            connection.execute(sql(statements.CONFIRM), (confirming,))
        tagging, wrapping = self._keys_for(connection, decided, stored)
        # Constraints decide between two batches that insert the same row: the later one waits, then inserts nothing.
        claims = decided.claimed.values()
        if changing := [claim.subject for claim in claims if claim.command_id not in decided.minted]:
            connection.execute(sql(statements.STILL_OPEN), (changing, changing))
        if decided.extended:
            extended = [claim.reservation_id for claim in decided.extended]
            connection.execute(sql(statements.EXTEND), (extended, expires_at_us, len(extended)))
        if claims:
            columns = (
                [bucket.stored(tag) for tag, bucket in tagging.items()],
                [claim.subject for claim in claims],
                [claim.command_id for claim in claims],
                [claim.reservation_id for claim in claims],
                [claim.stream for claim in claims],
                [claim.rule for claim in claims],
            )
            connection.execute(sql(statements.CLAIM), (expires_at_us, *columns, len(claims)))
        if wrapping:
            subjects, blocks = list(decided.minted.values()), [block.id for block in wrapping]
            connection.execute(sql(statements.REGISTER), (list(decided.minted), subjects, len(subjects)))
            wrapped = [
                wrap(block.key.secret, os.urandom(32), str(subject))
                for subject, block in zip(subjects, wrapping, strict=True)
            ]
            connection.execute(sql(statements.MINT), (subjects, blocks, wrapped, len(subjects)))

    def _keys_for(
        self, connection: Connection, decided: Reservations, stored: _Stored
    ) -> tuple[dict[bytes, Bucket], list[Bucket]]:
        """The bucket keys for new tags, and those for new data keys. Those that are missing are created."""
        fresh: dict[int, Bucket] = {}
        tagging = {}
        for tag in decided.claimed:
            bucket = self._buckets.of_tag(tag) or fresh.get(bucket_of(tag))
            tagging[tag] = bucket or fresh.setdefault(bucket_of(tag), self._buckets.new(bucket_of(tag)))
        wrapping: list[Bucket] = []
        if decided.minted:
            wrapping, blocks, stored.filled = self._buckets.take_blocks(list(decided.minted.values()))
            fresh |= {block.id: block for block in blocks}
        stored.fresh = list(fresh.values())
        used = [bucket for bucket in (*tagging.values(), *wrapping) if bucket.id not in fresh]
        self._buckets.need_present(connection, used)
        self._buckets.create(connection, stored.fresh)
        return tagging, wrapping

    def settle_claims(
        self,
        *,
        confirmed: Sequence[ClaimId] = (),
        released: Sequence[ClaimId] = (),
        abandoned: Sequence[int] = (),
        now_us: int,
    ) -> None:
        def attempt(connection: Connection) -> None:
            sql = self._database.sql
            self._buckets.exclude_rotations(connection)
            if abandoned:
                self._destroy_keys(connection, [Destruction(s, Reason.ABANDONED) for s in abandoned], now_us)
            if sum(map(bool, (confirmed, released, abandoned))) > 1:
                concerned = [claim.reservation_id for claim in (*confirmed, *released)], list(abandoned)
                connection.execute(sql(statements.LOCK_CLAIMS), concerned)
            if confirmed:
                connection.execute(sql(statements.CONFIRM), ([claim.reservation_id for claim in confirmed],))
            if released:
                connection.execute(
                    sql(statements.RELEASE_RESERVATIONS), ([claim.reservation_id for claim in released],)
                )
            if abandoned:
                self._remove_claims(connection, abandoned, abandoned)

        if confirmed or released or abandoned:
            self._database.write(attempt)

    def claims_of(self, subjects: Sequence[int], *, now_us: int) -> list[Claim]:
        return self._claims(statements.CLAIMS_OF, (list(set(subjects)),), now_us)

    def claims_on(self, streams: Sequence[str], *, now_us: int) -> list[Claim]:
        return self._claims(statements.CLAIMS_ON, (list(set(streams)),), now_us)

    def expired_claims(self, *, now_us: int, limit: int) -> list[Claim]:
        return self._claims(statements.EXPIRED_CLAIMS, (now_us, limit), now_us)

    def _claims(self, statement: str, arguments: Sequence[object], now_us: int) -> list[Claim]:
        return [
            Claim(
                subject,
                command_id,
                reservation_id,
                ClaimState.CONFIRMED if confirmed else ClaimState.RESERVED,
                not confirmed and expires_at_us <= now_us,
                *decided_by,
            )
            for subject, command_id, reservation_id, confirmed, expires_at_us, *decided_by in self._all(
                statement, arguments
            )
        ]

    def holders(self, emails: Sequence[str]) -> Mapping[str, int]:
        by_tag = {self._tag(email): email for email in emails}
        sql = self._database.sql

        def find(connection: Connection) -> dict[str, int]:
            stored = self._buckets.stored(by_tag)
            with connection.pipeline():
                claims = connection.execute(sql(statements.FIND_CLAIMS), ([*stored],))
                changed = connection.execute(sql(statements.CHANGED), self._buckets.versions(by_tag))
            self._buckets.refresh(connection, [id_ for (id_,) in changed])
            return {by_tag[stored[tag]]: subject for tag, subject, *_ in claims}

        return self._database.read(find)

    def registered_by(self, command_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        return dict(self._all(statements.FIND_REGISTRATIONS, (list(command_ids),)))

    # --- keys ----------------------------------------------------------------------------------

    def data_keys(self, subjects: Sequence[int], *, even_owed: bool = False) -> Mapping[int, DataKey]:
        def find(connection: Connection) -> dict[int, DataKey]:
            rows = connection.execute(self._database.sql(statements.FIND_KEYS), (list(set(subjects)),))
            keys: dict[int, DataKey] = {}
            wrapped: dict[int, tuple[bytes, int, int | None]] = {}
            for subject, secret, destroyed, block, version, reason, event, at_us, owed, decided_by in rows:
                if destroyed:
                    why = Reason.UNKNOWN if reason is None else Reason(reason)
                    keys[subject] = DestroyedKey(why, event, at_us)
                elif owed is not None and not even_owed:
                    keys[subject] = DestroyedKey(Reason.ERASURE, decided_by)
                elif secret is not None:
                    wrapped[subject] = secret, block, version
            return keys | self._unwrapped(connection, wrapped)

        return self._database.read(find)

    def _unwrapped(
        self, connection: Connection, wrapped: Mapping[int, tuple[bytes, int, int | None]]
    ) -> dict[int, DataKey]:
        """Data keys, from each one's wrapped form, its block and the version of its block's key."""
        versions = {block: version for _, block, version in wrapped.values() if version is not None}
        blocks = self._buckets.blocks(connection, versions)
        # The key-encryption key fits the vault, so a key that it cannot unwrap is damaged.
        keys: dict[int, DataKey] = dict.fromkeys(wrapped, DamagedKey())
        for subject, (secret, id_, _) in wrapped.items():
            if (block := blocks.get(id_)) is not None:
                with contextlib.suppress(KeyUnavailable):
                    keys[subject] = LivingKey(unwrap(block.key.secret, secret, str(subject)))
        return keys

    def subjects(self, *, after: int, limit: int) -> list[int]:
        found = self._all(statements.SUBJECTS, {"after": after, "limit": limit})
        return [subject for (subject,) in found]

    def tags(self, texts: Sequence[str]) -> list[bytes]:
        return [self._tag(text) for text in texts]

    def destroy(self, destructions: Sequence[Destruction], *, now_us: int) -> None:
        erased = {d.subject: d.tags for d in destructions if d.reason is not Reason.ABANDONED}
        abandoned = [d.subject for d in destructions if d.reason is Reason.ABANDONED]

        def attempt(connection: Connection) -> None:
            self._buckets.exclude_rotations(connection)
            self._destroy_keys(connection, destructions, now_us)
            removed = self._remove_claims(connection, [d.subject for d in destructions], abandoned)
            if erased:
                self._keep_tags(connection, erased, removed)
                connection.execute(self._database.sql(statements.KEY_DESTROYED), (list(erased),))

        if destructions:
            self._database.write(attempt)

    def _destroy_keys(self, connection: Connection, destructions: Sequence[Destruction], now_us: int) -> None:
        sql = self._database.sql
        subjects = [d.subject for d in destructions]
        connection.execute(sql(statements.DESTROY_KEYS), (_BLANK, subjects))
        reasons, events = [str(d.reason) for d in destructions], [d.event_id for d in destructions]
        connection.execute(sql(statements.LEAVE_TOMBSTONES), (now_us, subjects, reasons, events))

    def _remove_claims(
        self, connection: Connection, subjects: Sequence[int], abandoned: Sequence[int]
    ) -> Cursor:
        """Remove the claims of these subjects: the result has their subjects and tags."""
        sql = self._database.sql
        removed = connection.execute(sql(statements.RELEASE_CLAIMS_OF), (list(set(subjects)),))
        if abandoned:
            # The tombstone stays: a subject never gets a second key. The command may register again.
            connection.execute(sql(statements.FORGET_REGISTRATIONS), (list(abandoned),))
        return removed

    def _keep_tags(
        self, connection: Connection, erased: Mapping[int, Sequence[OwedTag]], removed: Cursor
    ) -> None:
        """Keep tags with the owed erasures among these, under the keys of their blocks."""
        blocks_of = self._blocks_of_owed(connection, list(erased))
        kept = {subject: list(erased[subject]) for subject in blocks_of}
        for subject, tag in self._opened(connection, [row for row in removed if row[0] in blocks_of]):
            kept[subject].append(OwedTag(tag, 0))
        rows = [
            (subject, blocks_of[subject].id, blocks_of[subject].sound_key.seal_tags(tag.tag), tag.words)
            for subject, tags in kept.items()
            for tag in tags
        ]
        if rows:
            connection.execute(
                self._database.sql(statements.KEEP_TAGS), tuple(map(list, zip(*rows, strict=True)))
            )

    def _blocks_of_owed(self, connection: Connection, subjects: list[int]) -> dict[int, Bucket]:
        found = connection.execute(self._database.sql(statements.BLOCKS_OF_OWED), (subjects,)).fetchall()
        blocks = self._buckets.blocks(connection, {block: version for _, block, version in found})
        return {subject: blocks[block] for subject, block, _ in found}

    def _opened(
        self, connection: Connection, claims: Sequence[tuple[int, bytes]]
    ) -> Iterator[tuple[int, bytes]]:
        """Subjects and tags of claims as they are stored. Rotations are excluded, so that their labels are the present ones."""
        if any(self._buckets.of_label(stored) is None for _, stored in claims):
            self._buckets.refresh_tags(connection)
        for subject, stored in claims:
            bucket = self._buckets.of_label(stored)
            if bucket is None:
                raise Damaged("vault", "a claim lies under the key of no bucket")
            yield subject, bucket.tag(stored)

    def remove_residue(self, subjects: Sequence[int]) -> None:
        self._rotation.remove(list(set(subjects)))

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()
