"""`es adopt`: make the parts of a home one system, after the home was copied or moved, or parts were exchanged.

Promise: what changes is shown before, and nothing changes while workers use the home. A kill in the middle leaves parts
of different systems, which workers refuse by name; the same command finishes it. Refusal: a part outside the home
changes only if it is named, because it may belong to the original; the broker never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID, uuid4

from adapters import wiring
from adapters.local.address import is_served, socket_path
from adapters.settings import Settings, without_password
from domain.features import registry
from domain.kernel.errors import EsError, InvalidInput, PartUnavailable
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.identity import Identified
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.ports.vault import Vault
from workers.runtime.identity import outside_parts, record_place, recorded_place
from workers.runtime.supervisor import AlreadyRunning, take_lock

STORE, VAULT, DATABASE, KEY = "store", "vault", "database", "key"
NAMED = (STORE, VAULT, DATABASE)
"""The parts that can be named with `--with`: those that may lie outside the home and carry an id."""


@dataclass(frozen=True)
class _Part:
    """A part that exists. `changes` says whether the command may give it another id."""

    name: str
    shown: str
    is_outside: bool
    changes: bool
    system_id: UUID | None

    def body(self, becomes: UUID | None) -> Body:
        return {
            "part": self.name,
            "place": self.shown,
            "outside": self.is_outside,
            "system": str(self.system_id or ""),
            "becomes": "" if becomes == self.system_id or not self.changes else str(becomes or "a new id"),
        }


def adopt(settings: Settings, *, moved: bool, named: Sequence[str], apply: bool) -> Body:
    """`{"original", "moved", "system", "parts": [{"part", "place", "outside", "system", "becomes"}]}`.

    `becomes` is empty for a part that keeps its id. Without `apply` nothing is changed. With `moved` no id changes, and
    the store's place is recorded. Raises PartUnavailable while workers use the home.
    """
    _check(settings, named)
    with _stopped(settings), closing(wiring.open_store(settings.store)) as store:
        parts = list(_parts(settings, store, named))
        present = parts[0].system_id
        # The store of another home keeps its id: the parts of this home join it.
        system_id = present if moved or not parts[0].changes else None
        done: Body = {
            "original": recorded_place(store),
            "moved": moved,
            "system": str(system_id or ""),
            "parts": [part.body(part.system_id if moved else system_id) for part in parts],
        }
        if apply:
            done["system"] = str(_apply(settings, store, parts, moved=moved, system_id=system_id))
        return done


def _check(settings: Settings, named: Sequence[str]) -> None:
    outside = outside_parts(settings)
    for name in named:
        if name not in NAMED:
            raise InvalidInput("--with", f"must be one of {', '.join(NAMED)}")
        if name not in outside:
            raise InvalidInput("--with", f"is for parts outside the home; {name} is inside it")
    if settings.store.startswith("sqlite:") and not wiring.sqlite_path(settings.store).exists():
        raise PartUnavailable(
            "event store",
            f"{settings.store.removeprefix('sqlite:')} is missing",
            "Nothing is to be adopted: a new home gets its id with `es up`.",
        )


@contextmanager
def _stopped(settings: Settings) -> Iterator[None]:
    """Hold the lock of the home, so that no worker starts. Raises PartUnavailable if one runs."""
    stop = "Run `es down`, and end workers that run in the foreground or on other machines."
    try:
        lock = take_lock(settings)
    except AlreadyRunning:
        raise PartUnavailable("the home", f"workers use {settings.home}", stop) from None
    with closing(lock):
        for role in registry(settings.features).role_names if settings.is_local else ():
            if is_served(socket_path(settings.run, role)):
                raise PartUnavailable("the home", f"a {role} worker uses {settings.home}", stop)
        yield


# --- what there is ---------------------------------------------------------------------------


def _parts(settings: Settings, store: EventStore, named: Sequence[str]) -> Iterator[_Part]:
    """The store first. A file that does not exist yet is no part."""
    outside = outside_parts(settings)

    def part(name: str, url: str, read: Callable[[], UUID | None]) -> _Part:
        changes = name not in outside or name in named
        # A part that stays as it is need not be available.
        found = read() if changes else _if_available(read)
        return _Part(name, without_password(url), name in outside, changes, found)

    yield part(STORE, settings.store, store.system_id)
    for name, (url, open_part) in _others(settings).items():
        if not url.startswith("sqlite:") or wiring.sqlite_path(url).exists():
            yield part(name, url, partial(_id_of, open_part))
    if settings.kek_is_ours and settings.kek_file.exists():
        owner = wiring.key_owner(settings)
        yield _Part(KEY, str(settings.kek_file), is_outside=False, changes=True, system_id=owner)


def _others(settings: Settings) -> dict[str, tuple[str, Callable[[], Vault | ReadModel]]]:
    return {
        VAULT: (settings.vault, partial(wiring.open_vault, settings)),
        DATABASE: (settings.database, partial(wiring.open_read_model, settings)),
    }


def _id_of(open_part: Callable[[], Vault | ReadModel]) -> UUID | None:
    with closing(open_part()) as part:
        return part.system_id()


def _if_available(read: Callable[[], UUID | None]) -> UUID | None:
    with suppress(EsError):
        return read()
    return None


# --- what changes ----------------------------------------------------------------------------


def _apply(
    settings: Settings, store: EventStore, parts: Sequence[_Part], *, moved: bool, system_id: UUID | None
) -> UUID | None:
    """Give each part that changes the id, the store last: until then its place says that it is a copy."""
    if not moved:
        system_id = system_id or uuid4()
        for part in parts[1:]:
            if part.changes:
                _give(settings, part, system_id)
        if parts[0].changes:
            _claim(store, parts[0], system_id)
    record_place(store, settings)
    vault = next((part for part in parts if part.name == VAULT), None)
    if vault is not None and (vault.changes or (moved and vault.system_id == system_id)):
        with closing(wiring.open_vault(settings)) as opened:
            opened.forget_findings()  # an operator has seen them
    return system_id


def _give(settings: Settings, part: _Part, system_id: UUID) -> None:
    if part.name == KEY:
        wiring.give_key(settings, system_id)
        return
    with closing(_others(settings)[part.name][1]()) as opened:
        _claim(opened, part, system_id)


def _claim(opened: Identified, part: _Part, system_id: UUID) -> None:
    if part.system_id != system_id and opened.claim_system(system_id, instead_of=part.system_id) != system_id:
        reason = "another program gave it an id at the same time"
        raise PartUnavailable(f"the {part.name}", reason, "Stop all workers, then repeat `es adopt`.")
