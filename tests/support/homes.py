"""Homes for tests: copies of them, and the system ids of their parts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from uuid import UUID

import apsw

from adapters import wiring
from adapters.settings import Settings

FILES = {"ES_STORE": "events.db", "ES_VAULT": "vault.db", "ES_DATABASE": "read.db"}


def copy(file: Path, to: Path) -> None:
    """Copy a database through SQLite."""
    with (
        closing(apsw.Connection(str(file))) as source,
        closing(apsw.Connection(str(to))) as target,
        target.backup("main", source, "main") as copying,
    ):
        while not copying.done:
            copying.step()
    to.chmod(0o600)


def copied_home(settings: Settings, to: Settings) -> None:
    """Copy a home whose workers are stopped."""
    for name in FILES.values():
        if (settings.home / name).exists():
            copy(settings.home / name, to.home / name)
    if settings.kek_file.exists():
        to.kek_file.parent.mkdir(mode=0o700, exist_ok=True)
        to.kek_file.write_bytes(settings.kek_file.read_bytes())
        to.kek_file.chmod(0o600)


def without_id(settings: Settings, *names: str) -> None:
    """Make files those of an earlier version, which had no ids."""
    for name in names:
        with closing(apsw.Connection(str(settings.home / FILES[name]))) as connection:
            connection.execute("DELETE FROM system")


def ids_of(settings: Settings) -> set[UUID | None]:
    with (
        closing(wiring.open_store(settings.store)) as store,
        closing(wiring.open_vault(settings)) as vault,
        closing(wiring.open_read_model(settings)) as read_model,
    ):
        return {part.system_id() for part in (store, vault, read_model)}
