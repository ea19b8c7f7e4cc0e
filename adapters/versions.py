"""The version, licence and clock of each configured part, and the damage of its file, for `es doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.clock import now_us
from adapters.settings import EVENTSTOREDB, Settings

if TYPE_CHECKING:
    from domain.kernel.ports.event_store import EventStore
    from domain.kernel.ports.read_model import ReadModel
    from domain.kernel.ports.vault import Vault


@dataclass(frozen=True, slots=True)
class Version:
    """The version of a part. `clock_offset_us` is the time by which its clock is ahead of this machine's."""

    name: str
    licence: str = ""
    """Set for parts whose licence restricts their use."""
    warning: str = ""
    next: str = ""
    clock_offset_us: int | None = None


def broker_version(settings: Settings) -> Version:
    from adapters.rabbitmq.connection import server_version

    return Version(server_version(settings.broker))


def store_version(settings: Settings) -> Version:
    if not settings.store.startswith(EVENTSTOREDB):
        return database_version(settings.store)
    from adapters.eventstoredb.server_info import server_facts

    version, offset_us = server_facts(settings.store, now_us=now_us)
    if version is None:
        return Version(
            "EventStoreDB (it doesn't say its version)",
            "BSD-3-Clause up to 23.10, then Event Store License v2, from 25 on Kurrent License v1",
        )
    if version >= (25, 0):
        licence = "Kurrent License v1: free to use, not open source by the OSI's definition"
    elif version >= (24, 10):
        licence = "Event Store License v2: some features need a licence key"
    else:
        licence = "BSD-3-Clause"
    name = "KurrentDB" if version >= (25, 0) else "EventStoreDB"
    return Version(f"{name} {'.'.join(map(str, version))}", licence, clock_offset_us=offset_us)


def database_version(url: str) -> Version:
    if url.startswith("postgres"):
        from adapters.postgres.connection import server_facts

        name, offset_us = server_facts(url, now_us=now_us)
        return Version(name, clock_offset_us=offset_us)
    from adapters.sqlite.database import sqlite_facts

    name, is_affected = sqlite_facts()
    if is_affected:
        return Version(
            name,
            warning="this SQLite can corrupt a WAL database (fixed in 3.51.3)",
            next="Install a newer apsw: `pip install --upgrade apsw`.",
        )
    return Version(name)


def damage(url: str) -> list[str]:
    """The damage that SQLite finds in a file. A server looks after its own files: it has none to tell."""
    if not url.startswith("sqlite:"):
        return []
    from adapters.sqlite.database import damage_of

    return damage_of(Path(url.removeprefix("sqlite:")).expanduser())


def schema_version(part: EventStore | Vault | ReadModel) -> int | None:
    """The schema version of a part; None for a part without tables."""
    return getattr(part, "schema_version", None)
