"""SQLite files that may not grow."""

from __future__ import annotations

from typing import TypeVar

from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from adapters.sqlite.vault import SqliteVault

Part = TypeVar("Part", SqliteStore, SqliteVault, SqliteReadModel)


def limited(part: Part, pages: int = 40) -> Part:
    """The part, with a limit of 4 KiB pages for this thread: beyond it SQLite reports a full disk."""
    part._database.connection.pragma("max_page_count", pages)
    return part
