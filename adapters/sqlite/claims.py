"""The rows of claims in the SQLite file of a vault: a claim, and its tag in the tag's bucket.

Promise: nobody without the bucket keys learns from a row which address or bucket a person has. Refusal: no claim is deleted
without a row in `freed_tags`, which leads `remove_residue` to its bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from adapters.crypto.bucket_keys import TAG_BYTES, bucket_of
from adapters.sqlite.buckets import Buckets
from adapters.sqlite.database import Connection
from domain.kernel.ports.vault import ClaimId
from domain.users.reservations import Held

_INSERT = "INSERT INTO email_claims VALUES(?, ?, ?, ?, ?, ?, ?, ?)"
# A claim or a freed tag tells the block of a subject without a data key: each has one place in a block.
_BLOCK = """
    SELECT block FROM data_keys WHERE subject = :subject
    UNION ALL SELECT block FROM email_claims WHERE subject = :subject
    UNION ALL SELECT block FROM freed_tags WHERE subject = :subject LIMIT 1"""
Freed = tuple[int, bytes, int, int]
"""Subject, reservation id, block and masked bucket of a claim."""


def _name(subject: int, reservation_id: bytes) -> bytes:
    """16 bytes that name a claim: random bits of its reservation are enough among those of one person."""
    return subject.to_bytes(8, "big", signed=True) + reservation_id[8:]


def find(connection: Connection, buckets: Buckets, tag: bytes) -> Held | None:
    """The claim on the value with this tag."""
    bucket = bucket_of(tag)
    key = buckets.of(bucket)
    sealed: Any = connection.execute(
        "SELECT claim FROM claim_tags WHERE bucket = ? AND tag = ?", (bucket, key.seal_tags(tag))
    ).get
    if sealed is None:
        return None
    name = key.open_tags(sealed)
    subject = int.from_bytes(name[:8], "big", signed=True)
    for reservation_id, command_id, confirmed, stream, rule in connection.execute(
        """SELECT reservation_id, command_id, expires_at_us IS NULL, stream, rule
           FROM email_claims WHERE subject = ?""",
        (subject,),
    ):
        if reservation_id[8:] == name[8:]:
            ids = UUID(bytes=command_id), UUID(bytes=reservation_id)
            return Held(subject, *ids, bool(confirmed), stream or "", rule or "")
    return None  # the row of the claim was lost: the value is free


def confirm(connection: Connection, confirmed: Sequence[ClaimId]) -> None:
    connection.executemany(
        "UPDATE email_claims SET expires_at_us = NULL WHERE subject = ? AND reservation_id = ?",
        [(claim.subject, claim.reservation_id.bytes) for claim in confirmed],
    )


def add(
    connection: Connection,
    buckets: Buckets,
    claims: Sequence[tuple[bytes, Held]],
    blocks: dict[int, int],
    expires_at_us: int,
) -> None:
    """Store new claims with their tags. `blocks` are those of the new people among their subjects."""
    rows, tags = [], []
    for tag, claim in claims:
        subject, reservation_id = claim.subject, claim.reservation_id.bytes
        block = blocks.get(subject)
        if block is None:
            block = blocks[subject] = block_of(connection, buckets, subject)
        masked = buckets.masked(block, reservation_id, bucket_of(tag))
        decided_by = claim.stream or None, claim.rule or None
        rows.append(
            (subject, reservation_id, claim.command_id.bytes, expires_at_us, block, masked, *decided_by)
        )
        tags.append(tag_row(buckets, tag, subject, reservation_id))
    connection.executemany(_INSERT, rows)
    # Replaced: a tag whose claim was lost.
    connection.executemany("INSERT OR REPLACE INTO claim_tags VALUES(?, ?, ?)", tags)


def tag_row(buckets: Buckets, tag: bytes, subject: int, reservation_id: bytes) -> tuple[int, bytes, bytes]:
    bucket = bucket_of(tag)
    sealed = buckets.of(bucket).seal_tags(tag + _name(subject, reservation_id))
    return bucket, sealed[:TAG_BYTES], sealed[TAG_BYTES:]


def block_of(connection: Connection, buckets: Buckets, subject: int) -> int:
    """The block of a subject: also of one without a data key, which gets a place."""
    found: Any = connection.execute(_BLOCK, {"subject": subject}).get
    return buckets.places([subject])[0] if found is None else int(found)


def of_subject(connection: Connection, subject: int) -> list[Freed]:
    """The claims of a person, to be deleted."""
    return _claims(connection, "subject = ?", (subject,))


def of_reservation(connection: Connection, claim: ClaimId) -> list[Freed]:
    """The claim, to be deleted; none if it is unknown."""
    condition = "subject = ? AND reservation_id = ?"
    return _claims(connection, condition, (claim.subject, claim.reservation_id.bytes))


def _claims(connection: Connection, condition: str, arguments: tuple[Any, ...]) -> list[Freed]:
    rows: list[Any] = connection.execute(
        f"SELECT subject, reservation_id, block, bucket FROM email_claims WHERE {condition}", arguments
    ).fetchall()
    return rows


def free(connection: Connection, buckets: Buckets, claims: Sequence[Freed]) -> list[bytes]:
    """Delete claims with their tags, and return the tags."""
    tags: list[bytes] = []
    for subject, reservation_id, block, masked in claims:
        bucket = buckets.masked(block, reservation_id, masked)
        key = buckets.of(bucket)
        name = key.seal_tags(_name(subject, reservation_id))
        # A scan of one bucket: an index would tell whose tags lie in it.
        sealed: Any = connection.execute(
            "DELETE FROM claim_tags WHERE bucket = ? AND claim = ? RETURNING tag", (bucket, name)
        ).get
        if subject > 0:  # no residue is ever removed of what belongs to no person
            connection.execute(
                "INSERT OR REPLACE INTO freed_tags VALUES(?, ?, ?, ?)",
                (subject, reservation_id, block, masked),
            )
        connection.execute(
            "DELETE FROM email_claims WHERE subject = ? AND reservation_id = ?", (subject, reservation_id)
        )
        if sealed is not None:
            tags.append(key.open_tags(sealed))
    return tags


def residue_of(connection: Connection, buckets: Buckets, subject: int) -> set[int]:
    """The blocks and tag buckets whose pages may hold what was destroyed or deleted of a person."""
    found: set[int] = set()
    rows: list[Any] = connection.execute(
        """SELECT block, NULL, NULL FROM data_keys WHERE subject = :subject
           UNION ALL SELECT block, NULL, NULL FROM owed_tags WHERE subject = :subject
           UNION ALL SELECT block, reservation_id, bucket FROM freed_tags WHERE subject = :subject""",
        {"subject": subject},
    ).fetchall()
    for block, reservation_id, masked in rows:
        found.add(block)
        if reservation_id is not None:
            found.add(buckets.masked(block, reservation_id, masked))
    return found
