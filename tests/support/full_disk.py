"""SQLite files that may not grow."""

from __future__ import annotations

from typing import TypeVar

from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from adapters.sqlite.vault import SqliteVault

Part = TypeVar("Part", SqliteStore, SqliteVault, SqliteReadModel)


def limited(part: Part, pages: int = 40) -> Part:
    """The part, with so many 4 KiB pages left for this thread: beyond them SQLite reports a full disk."""
    connection = part._database.connection
    connection.pragma("max_page_count", connection.pragma("page_count") + pages)
    return part
