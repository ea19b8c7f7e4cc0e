"""Everything that the files of a SQLite vault give away to a reader who has the key-encryption key too.

The reader searches raw bytes: rows in use, rows that moved or were deleted, and the write-ahead log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from adapters.crypto.bucket_keys import TAG_BUCKETS, BucketKey
from adapters.crypto.sealing import unwrap
from domain.kernel.errors import KeyUnavailable
from tests.support.processes import raw_bytes
from tests.support.vaults import KEK

_ROW_OF_A_KEY = re.compile(rb"(?s)(?=(...)\x04\x00\x81\x04(.{60}))")
"""A row of `bucket_keys` in SQLite's record format: its number ends in the three bytes before the header."""


Found = tuple[int, BucketKey]
"""A bucket key with its number."""


def files_of(path: Path) -> dict[str, bytes]:
    """The bytes of the vault's files: the database, its write-ahead log and its index."""
    return {file.name: raw_bytes(file) for file in path.parent.iterdir()}


def keys_in(path: Path, kek: bytes = KEK) -> list[Found]:
    """Every bucket key of which any file holds a copy that the key-encryption key opens, old ones included."""
    found: set[tuple[int, bytes]] = set()
    for content in files_of(path).values():
        for match in _ROW_OF_A_KEY.finditer(content):
            found.update(_opened(kek, *match.groups()))
    return [(bucket, BucketKey(secret)) for bucket, secret in found]


def _opened(kek: bytes, number: bytes, wrapped: bytes) -> list[tuple[int, bytes]]:
    secrets = []
    for size in (1, 2, 3):  # a varint: seven bits in each byte
        bucket = 0
        for byte in number[3 - size :]:
            bucket = bucket << 7 | byte & 0x7F
        try:
            secrets.append((bucket, unwrap(kek, wrapped, f"bucket-{bucket}")))
        except KeyUnavailable:
            continue
    return secrets


@dataclass
class Notes:
    """What a reader noted of the rows while people lived: it may lie in any gap of any page."""

    keys: set[tuple[int, bytes]] = field(default_factory=set)
    """Subjects with their wrapped data keys."""
    tags: set[bytes] = field(default_factory=set)
    """Enciphered tags, of claims and of owed erasures."""
    bucket_keys: set[bytes] = field(default_factory=set)
    """Wrapped bucket keys."""

    def add(self, path: Path) -> None:
        """Note all rows of now."""
        with closing(apsw.Connection(str(path))) as other:
            rows: Any = other.execute("SELECT subject, wrapped FROM data_keys WHERE NOT destroyed")
            self.keys.update(rows)
            for table, column, target in (
                ("claim_tags", "tag", self.tags),
                ("owed_tags", "tag", self.tags),
                ("bucket_keys", "wrapped", self.bucket_keys),
            ):
                target.update(value for (value,) in other.execute(f"SELECT {column} FROM {table}"))

    def opened_keys(self, keys: list[Found]) -> set[int]:
        """The subjects whose data key one of these opens. Data keys were under keys of blocks alone."""
        blocks = [key for bucket, key in keys if bucket >= TAG_BUCKETS]
        return {
            subject
            for subject, wrapped in self.keys
            if any(key.unwrap(wrapped, subject) is not None for key in blocks)
        }

    def opened_tags(self, keys: list[Found], tags: Sequence[bytes]) -> set[bytes]:
        """Which of these tags were noted under one of these bucket keys."""
        every = b"".join(tags)
        return {
            tag
            for sealed in (key.seal_tags(every) for _, key in keys)
            for at, tag in zip(range(0, len(sealed), 32), tags, strict=True)
            if sealed[at : at + 32] in self.tags
        }


def tags_in(notes: Notes, path: Path, tags: Sequence[bytes]) -> set[bytes]:
    """Which of these tags the files tell a reader who has the key-encryption key and noted every row."""
    content = b"".join(files_of(path).values())
    raw = {tag for tag in tags if tag in content or tag[:16] in content or tag[16:] in content}
    return raw | notes.opened_tags(keys_in(path), tags)
