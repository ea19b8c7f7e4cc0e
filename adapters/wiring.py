"""The one module that sees all adapters and picks them by URL.

Imports are inside the functions: a short-lived command must not pay for parts it doesn't use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapters.settings import Settings
from domain.errors import InvalidSetting, KeyUnavailable, PartUnavailable
from domain.events import BEGINNING
from domain.messages import ROLES

if TYPE_CHECKING:
    from pathlib import Path

    from adapters.log import Log
    from adapters.rabbitmq_dead import DeadLetters
    from adapters.rabbitmq_publisher import RabbitPublisher
    from adapters.sealing import AllErased, Keyring
    from domain.errors import EsError
    from domain.messages import Body, Caller, Server
    from domain.ports import Codec, EventStore, ReadModel, Vault


def prepare_home(settings: Settings) -> None:
    """Make the home and its folders, for its owner alone. Raises PartUnavailable when it can't be used."""
    try:
        for folder in (settings.home, settings.run, settings.log):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PartUnavailable(
            "the home",
            f"{settings.home}: {error.strerror}",
            "Make it a folder that this user can write to, or choose another with --home or ES_HOME.",
        ) from error


def open_caller(settings: Settings, *, on_absent: Callable[[], bool] | None = None) -> Caller:
    """The asking end of the transport. `on_absent` is for the local one: called when no worker is there."""
    if settings.is_local:
        return open_local_caller(settings, on_absent=on_absent)
    from adapters.rabbitmq_caller import RabbitCaller

    return RabbitCaller(settings.broker)


def open_local_caller(settings: Settings, *, on_absent: Callable[[], bool] | None = None) -> Caller:
    """Asks on the sockets of the home, whatever the broker is: the supervisor is always there."""
    from adapters.local import LocalCaller

    return LocalCaller(settings.run, on_absent=on_absent)


def open_server(
    settings: Settings,
    role: str,
    *,
    listen_fd: int | None,
    log: Log,
    on_serving: Callable[[], None],
    on_away: Callable[[EsError], None],
    describe: Callable[[], Body],
) -> Server:
    """The answering end of the transport, for one role. `listen_fd` is the supervisor's socket, if there is one.

    Once it is received from, `on_serving` and `on_away` are told whether requests can come; a socket is always there.
    `describe` is what a roll call over a broker answers; on this machine the supervisor knows.
    """
    if not settings.is_local:
        from adapters.rabbitmq_server import RabbitServer

        return RabbitServer(
            settings.broker, role, log=log, on_serving=on_serving, on_away=on_away, describe=describe
        )
    import socket

    from adapters.local import LocalServer, is_served, listen, socket_path

    if listen_fd is not None:
        return LocalServer(socket.socket(fileno=listen_fd))
    path = socket_path(settings.run, role)
    if is_served(path):
        raise PartUnavailable(
            f"the {role} worker",
            f"another one serves {settings.home}",
            "Stop it first (`es down`), or use another --home.",
        )
    return LocalServer(listen(path))


def open_publisher(settings: Settings, *, log: Log) -> RabbitPublisher:
    """Where the relay publishes. Raises InvalidSetting when the transport is no broker."""
    _need_broker(settings, "the relay publishes events")
    from adapters.rabbitmq_publisher import RabbitPublisher

    return RabbitPublisher(settings.broker, log=log)


def open_dead_letters(settings: Settings, roles: Sequence[str]) -> DeadLetters:
    """The dead-letter queues. Raises InvalidSetting when the transport is no broker."""
    _need_broker(settings, "dead letters are kept")
    from adapters.rabbitmq_dead import DeadLetters

    return DeadLetters(settings.broker, roles)


def workers_everywhere(settings: Settings, *, expected: int, wait_s: float) -> list[Body]:
    """What the workers behind the broker say of themselves, see `rabbitmq_roll_call`."""
    from adapters.rabbitmq_roll_call import roll_call

    return roll_call(settings.broker, expected=expected, wait_s=wait_s)


def _need_broker(settings: Settings, what: str) -> None:
    if settings.is_local:
        raise InvalidSetting(
            "broker", f"is local:, and {what} in RabbitMQ only; set ES_BROKER to an amqp:// URL"
        )


def open_codec() -> Codec:
    from adapters.codec import JsonCodec
    from domain import lanes, users

    return JsonCodec([*users.EVENTS, *lanes.EVENTS])


def open_store(url: str) -> EventStore:
    """The event store of a URL: `sqlite:PATH`, `esdb://…` or `memory:`."""
    if url == "memory:":
        from adapters.memory import MemoryStore

        return MemoryStore()
    if url.startswith("esdb"):
        from adapters.eventstoredb import EventStoreDbStore

        return EventStoreDbStore(url)
    if url.startswith("sqlite:"):
        from adapters.sqlite_store import SqliteStore

        return SqliteStore(_path(url))
    raise InvalidSetting("store", "is not a URL of an event store")


def open_vault(settings: Settings) -> Vault:
    """The vault. Its key-encryption key is made here only together with a new vault in the home."""
    from adapters.kek import load_kek, make_kek

    def may_be_new() -> bool:
        return not _knows_people(settings)

    if settings.vault.startswith("postgres"):
        from adapters.vault_postgres import PostgresVault

        return PostgresVault(settings.vault, kek=load_kek(settings.kek_file), may_be_new=may_be_new)
    from adapters.vault_sqlite import SqliteVault

    path = _path(settings.vault)
    if not path.exists():
        if not may_be_new():
            raise KeyUnavailable(f"the vault {path} is missing, but the event store knows people")
        if settings.kek_is_ours:
            make_kek(settings.kek_file)
    return SqliteVault(path, kek=load_kek(settings.kek_file), may_be_new=may_be_new)


def _knows_people(settings: Settings) -> bool:
    """Then a new vault would start without their keys and claims: addresses could be given away twice."""
    from domain.users import STREAM_PREFIX

    if settings.store.startswith("sqlite:") and not _path(settings.store).exists():
        return False
    store = open_store(settings.store)
    try:
        return any(True for _ in store.read_all(BEGINNING, 1, prefixes=[STREAM_PREFIX]))
    finally:
        store.close()


def open_read_model(settings: Settings) -> ReadModel:
    if settings.database.startswith("postgres"):
        from adapters.read_postgres import PostgresReadModel

        return PostgresReadModel(settings.database)
    from adapters.read_sqlite import SqliteReadModel

    return SqliteReadModel(_path(settings.database))


@dataclass(frozen=True, slots=True)
class Version:
    """What a part is, for `es doctor`. `clock_offset_us` is how far its clock is ahead of this machine's."""

    name: str
    licence: str = ""
    """Where a team has to know it."""
    warning: str = ""
    next: str = ""
    clock_offset_us: int | None = None


def usual_roles(settings: Settings) -> list[str]:
    """The roles that run unless somebody says otherwise: without a broker the relay has nobody to tell."""
    return [role for role in ROLES if role != "relay" or not settings.is_local]


def broker_version(settings: Settings) -> Version:
    from adapters.rabbitmq import server_version

    return Version(server_version(settings.broker))


def store_version(settings: Settings) -> Version:
    if not settings.store.startswith("esdb"):
        return database_version(settings.store)
    from adapters.eventstoredb import server_facts

    version, offset_us = server_facts(settings.store, now_us=_now_us)
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
        from adapters.postgres import server_facts

        name, offset_us = server_facts(url, now_us=_now_us)
        return Version(name, clock_offset_us=offset_us)
    from adapters.sqlite import sqlite_facts

    name, is_affected = sqlite_facts()
    if is_affected:
        return Version(
            name,
            warning="this SQLite can corrupt a WAL database (fixed in 3.51.3)",
            next="Install a newer apsw: `pip install --upgrade apsw`.",
        )
    return Version(name)


def _now_us() -> int:
    import time

    return time.time_ns() // 1000


def schema_version(part: EventStore | Vault | ReadModel) -> int | None:
    """The version of the tables that a part keeps; None for one that keeps no tables."""
    return getattr(part, "schema_version", None)


def keyring_of(vault: Vault) -> Callable[[Sequence[int]], Keyring]:
    """A function that fetches the keys of some people, once, into something that opens and seals."""
    from adapters.sealing import Keyring

    return lambda subjects: Keyring(vault.data_keys(subjects))


def erased_keyring() -> AllErased:
    from adapters.sealing import AllErased

    return AllErased()


def _path(url: str) -> Path:
    from pathlib import Path

    return Path(url.removeprefix("sqlite:")).expanduser()
