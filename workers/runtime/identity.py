"""Which parts belong together: each carries the id of one system, which is minted with its event store.

Promise: a part of another system is refused by name before anything is read from it or written to it. Refusal: no part
changes its id here; `es adopt` does that. It costs a few reads when a part is opened, and nothing per request.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable
from uuid import UUID, uuid4

from adapters.place import Place
from adapters.settings import Settings, without_password
from adapters.wiring import contains_users, sqlite_path
from domain.kernel.errors import CopiedStore, ForeignPart
from domain.kernel.events import BEGINNING
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.ports.vault import Vault
from domain.kernel.projection import Projection


@runtime_checkable
class _Placed(Protocol):
    """A store that is a file. Of a server nothing tells whether it was copied."""

    def place(self) -> str: ...

    def record_place(self, place: str) -> None: ...


# --- what a worker does with a part that it has opened ---------------------------------------


def join_store(store: EventStore, settings: Settings) -> UUID:
    """The system of a store. A new store gets an id. Raises CopiedStore."""
    system_id = store.system_id() or store.claim_system(uuid4())
    if (copied := copied_store(store, settings)) is not None:
        raise copied
    _keep_place(store, settings)
    return system_id


def join_vault(vault: Vault, store: EventStore, system_id: UUID) -> None:
    """Let a vault without an id join a system. Raises ForeignPart."""
    if (foreign := foreign_vault(vault, store, system_id)) is not None:
        raise foreign
    _need(system_id, vault.claim_system(system_id), "vault")


def join_read_model(
    read_model: ReadModel, projections: Iterable[Projection], store: EventStore, system_id: UUID
) -> None:
    """Let a read model without an id join a system. Raises ForeignPart."""
    if (foreign := foreign_read_model(read_model, projections, store, system_id)) is not None:
        raise foreign
    _need(system_id, read_model.claim_system(system_id), "read models")


def _need(expected: UUID, found: UUID, part: str) -> None:
    """Raise ForeignPart if a worker of another system has claimed a part in the same moment."""
    if found != expected:
        raise ForeignPart(part, str(found), str(expected))


# --- what does not belong to a store ---------------------------------------------------------


def foreign_vault(vault: Vault, store: EventStore, system_id: UUID) -> ForeignPart | None:
    """The error if a vault belongs to another system.

    One without an id is new, or of an earlier version. If it knows people, the store of its system contains users.
    """
    found = vault.system_id()
    if found == system_id:
        return None
    if found is None and (not vault.subjects(after=0, limit=1) or contains_users(store)):
        return None
    return ForeignPart("vault", str(found or ""), str(system_id))


def foreign_read_model(
    read_model: ReadModel, projections: Iterable[Projection], store: EventStore, system_id: UUID
) -> ForeignPart | None:
    """The error if a read model belongs to another system. One without an id is new, or of an earlier version."""
    found = read_model.system_id()
    if found == system_id:
        return None
    if found is None:
        generations = (each for projection in projections for each in read_model.generations(projection))
        if store.head() > BEGINNING or not any(generation.events for generation in generations):
            return None
    return ForeignPart("read models", str(found or ""), str(system_id))


def copied_store(store: EventStore, settings: Settings) -> CopiedStore | None:
    """The error if a store is a copy, or was moved, and parts outside the home may belong to its original.

    A copy whose parts are all in its home harms nothing: they were copied with it.
    """
    if not isinstance(store, _Placed) or (recorded := Place.from_text(store.place())) is None:
        return None
    outside = [f"{name} {shown}" for name, shown in outside_parts(settings).items() if name != "store"]
    if not outside or recorded.is_same(_place(settings)):
        return None
    return CopiedStore(str(recorded), ", ".join(outside))


def _keep_place(store: EventStore, settings: Settings) -> None:
    """Record the place of a store that has none, and what has changed of it without a copy."""
    if isinstance(store, _Placed):
        recorded, now = Place.from_text(store.place()), _place(settings)
        if recorded is None or (recorded != now and recorded.is_same(now)):
            store.record_place(now.to_text())


def recorded_place(store: EventStore) -> str:
    """Where a store was made or adopted, as it is shown; empty if that is unknown."""
    return str(Place.from_text(store.place()) or "") if isinstance(store, _Placed) else ""


def record_place(store: EventStore, settings: Settings) -> None:
    """Record where a store lies now: an operator said so."""
    if isinstance(store, _Placed):
        store.record_place(_place(settings).to_text())


def outside_parts(settings: Settings) -> dict[str, str]:
    """The parts that do not lie in the home, by the name of their setting, as they are shown."""
    urls = {
        "store": settings.store,
        "vault": settings.vault,
        "database": settings.database,
        "broker": settings.broker,
    }
    return {name: without_password(url) for name, url in urls.items() if not _is_inside(url, settings.home)}


def _is_inside(url: str, home: Path) -> bool:
    if url.startswith("sqlite:"):
        return sqlite_path(url).resolve().is_relative_to(home.resolve())
    return url.startswith("local:")


def _place(settings: Settings) -> Place:
    return Place.of(sqlite_path(settings.store))
