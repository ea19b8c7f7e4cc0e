"""Open the parts that the settings choose. No other module but `versions` imports every adapter.

Imports are inside the functions: an `es` command must not pay for parts that it does not use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from adapters.settings import EVENTSTOREDB, NotPrivate, Settings, check_private, quoted
from domain.features import registry
from domain.kernel.errors import InvalidSetting, KeyUnavailable, PartUnavailable

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from adapters.crypto.sealing import AllErased, Keyring
    from adapters.log import Log
    from adapters.rabbitmq.dead_letters import DeadLetters
    from adapters.rabbitmq.publisher import RabbitPublisher
    from domain.kernel.errors import EsError
    from domain.kernel.feature import Role
    from domain.kernel.messages import Body
    from domain.kernel.ports.codec import Codec
    from domain.kernel.ports.event_store import EventStore
    from domain.kernel.ports.read_model import ReadModel
    from domain.kernel.ports.transport import Caller, Server
    from domain.kernel.ports.vault import Vault
    from domain.kernel.ports.worklist import Worklist


def prepare_home(settings: Settings) -> None:
    """Create the home and its folders, accessible to their owner only. Raises PartUnavailable if that fails.

    Raises NotPrivate for a folder or log file that another user can change, or could have made.
    """
    try:
        for folder in (settings.home, settings.run, settings.log):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PartUnavailable(
            "the home",
            f"{settings.home}: {error.strerror}",
            "Make it a folder that this user can write to, or choose another one with `--home` or ES_HOME.",
        ) from error
    check_private("the home", settings.home)
    check_private("the run folder", settings.run)
    check_private("the log folder", settings.log)
    for path in settings.log.glob("*.log*"):
        if path.is_symlink():
            raise NotPrivate(
                f"the log file {path}",
                "is a symbolic link, through which a worker would write into another file",
                f"Run `rm {quoted(path)}`. To keep logs elsewhere, link their folder {settings.log}.",
            )
        check_private("the log file", path)


def place_temporary_files(settings: Settings) -> None:
    """Let SQLite write its temporary files beside the vault, unless SQLITE_TMPDIR names another folder.

    The migration of a vault copies it into such a file: a full /tmp must not stop that.
    """
    beside = settings.home if settings.vault.startswith("postgres") else sqlite_path(settings.vault).parent
    os.environ.setdefault("SQLITE_TMPDIR", str(beside))


_EXTRAS = {
    **dict.fromkeys(EVENTSTOREDB, ("eventstoredb", ("kurrentdbclient", "esdbclient"))),
    "postgres": ("postgres", ("psycopg",)),
}
"""The extra of this package for a scheme, and the libraries of which one suffices."""


def check_extras(settings: Settings) -> None:
    """Raise InvalidSetting if a URL needs an extra of this package that is not installed."""
    for name in ("store", "vault", "database"):
        _need_extra(name, getattr(settings, name))


def _need_extra(setting: str, url: str) -> None:
    from importlib.util import find_spec

    for scheme, (extra, libraries) in _EXTRAS.items():
        if url.startswith(scheme) and not any(map(find_spec, libraries)):
            raise InvalidSetting(
                setting,
                f"begins with {scheme}, which needs the extra {extra}; it is not installed",
                how_to_install(extra),
            )


def how_to_install(extra: str) -> str:
    """The hint of an error about a missing extra of this package: the command for this interpreter."""
    import sys

    python, wanted = quoted(sys.executable), f"'es[{extra}]'"
    return (
        f"Install it. With pip or pipx: `{python} -m pip install {wanted}`. "
        f"With uv: `uv pip install --python {python} {wanted}`. In a checkout: `make install`."
    )


def open_caller(settings: Settings, *, on_absent: Callable[[], bool] | None = None) -> Caller:
    """A caller of the workers. Sockets only: `on_absent` is called if no worker listens."""
    if settings.is_local:
        return open_local_caller(settings, on_absent=on_absent)
    from adapters.rabbitmq.caller import RabbitCaller

    return RabbitCaller(settings.broker)


def open_local_caller(settings: Settings, *, on_absent: Callable[[], bool] | None = None) -> Caller:
    """A caller over the sockets of the home. The supervisor listens there, also in a profile with a broker."""
    from adapters.local.caller import LocalCaller

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
    system_id: Callable[[], UUID | None] = lambda: None,
) -> Server:
    """The server of a role. `listen_fd` is the socket on which it listens; None with a broker.

    Broker only: `on_serving` and `on_away` are called when requests can be received and no longer can; `describe`
    returns the reply to a roll call; of a broker that belongs to another system than `system_id` returns, if it
    returns one, no request is received. Over sockets the supervisor reports the state of its workers.
    """
    if not settings.is_local:
        from adapters.rabbitmq.server import RabbitServer

        return RabbitServer(
            settings.broker,
            role,
            log=log,
            on_serving=on_serving,
            on_away=on_away,
            describe=describe,
            system_id=system_id,
        )
    import socket

    from adapters.local.server import LocalServer

    assert listen_fd is not None
    return LocalServer(socket.socket(fileno=listen_fd))


def open_publisher(settings: Settings, *, log: Log, system_id: UUID | None) -> RabbitPublisher:
    """The relay's publisher, to the broker of this system. Raises InvalidSetting without a broker."""
    _need_broker(settings, "the relay publishes events")
    from adapters.rabbitmq.publisher import RabbitPublisher

    return RabbitPublisher(settings.broker, log=log, system_id=system_id)


def open_dead_letters(settings: Settings, roles: Sequence[str]) -> DeadLetters:
    """The dead-letter queues of these roles. Raises InvalidSetting without a broker."""
    _need_broker(settings, "dead letters are kept")
    from adapters.rabbitmq.dead_letters import DeadLetters

    return DeadLetters(settings.broker, roles)


def workers_everywhere(settings: Settings, *, expected: int, wait_s: float) -> list[Body]:
    """The states of `expected` workers on all machines, see `adapters.rabbitmq.roll_call`."""
    from adapters.rabbitmq.roll_call import roll_call

    return roll_call(settings.broker, expected=expected, wait_s=wait_s)


def claim_broker(settings: Settings, system_id: UUID) -> None:
    """Mark the broker as that of a system. Raises ForeignPart if it belongs to another one, or PartUnavailable."""
    from adapters.rabbitmq.connection import open_channel
    from adapters.rabbitmq.messages import declare_system

    with open_channel(settings.broker) as channel:
        declare_system(channel, system_id)


def check_broker(settings: Settings, system_id: UUID) -> None:
    """Raise ForeignPart if the broker is marked as that of another system, or PartUnavailable. Nothing is marked."""
    from adapters.rabbitmq.connection import exists, open_channel
    from adapters.rabbitmq.messages import SYSTEM, declare_system

    with open_channel(settings.broker) as channel:
        if exists(channel, SYSTEM):
            declare_system(channel, system_id)


def _need_broker(settings: Settings, what: str) -> None:
    if settings.is_local:
        raise InvalidSetting(
            "broker", f"is `local:`, but {what} in RabbitMQ only; set ES_BROKER to an amqp:// URL"
        )


def open_codec(outside: tuple[str, ...] = ()) -> Codec:
    """The codec for the events of the built-in features and of the modules `outside` (`Settings.features`)."""
    from adapters.codec import JsonCodec

    known = registry(outside)
    return JsonCodec(known.events, known.upcasters)


def open_store(url: str) -> EventStore:
    """The event store of a URL: `sqlite:PATH`, `esdb://…`, `kurrentdb://…` or `memory:`."""
    if url == "memory:":
        from adapters.memory.event_store import MemoryStore

        return MemoryStore()
    _need_extra("store", url)
    if url.startswith(EVENTSTOREDB):
        from adapters.eventstoredb.event_store import EventStoreDbStore

        return EventStoreDbStore(url)
    if url.startswith("sqlite:"):
        from adapters.sqlite.event_store import SqliteStore

        return SqliteStore(sqlite_path(url))
    raise InvalidSetting("store", "is not a URL of an event store")


def open_vault(settings: Settings, *, system: UUID | None = None) -> Vault:
    """The vault. A key-encryption key is created only together with a new vault in the home.

    Raises KeyUnavailable if the vault is missing or empty, but the event store contains users; and if the
    key-encryption key belongs to another system than the given one.
    """
    from adapters.crypto.kek import make_kek

    _need_extra("vault", settings.vault)

    def may_be_new() -> bool:
        if settings.store.startswith("sqlite:") and not sqlite_path(settings.store).exists():
            return True
        with closing(open_store(settings.store)) as store:
            return not contains_users(store)

    if settings.vault.startswith("postgres"):
        from adapters.postgres.vault import PostgresVault

        return PostgresVault(settings.vault, kek=_kek(settings.kek_file, system), may_be_new=may_be_new)
    from adapters.sqlite.vault import SqliteVault

    path = sqlite_path(settings.vault)
    if not path.exists():
        if not may_be_new():
            raise KeyUnavailable(f"the vault {path} is missing, but the event store contains users")
        if settings.kek_is_ours:
            make_kek(settings.kek_file, system=system)
    return SqliteVault(path, kek=_kek(settings.kek_file, system), may_be_new=may_be_new)


def _kek(path: Path, system: UUID | None) -> bytes:
    """The key-encryption key. Raises KeyUnavailable, also if another user could have written it."""
    from adapters.crypto.kek import load_kek

    try:
        check_private("the folder of the key-encryption key", path.parent, sticky=True)
        check_private("the key-encryption key", path)
    except NotPrivate as error:
        raise KeyUnavailable(str(error), error.hint) from error
    return load_kek(path, system=system)


def key_owner(settings: Settings) -> UUID | None:
    """The system that the file of the key-encryption key names. Raises KeyUnavailable."""
    from adapters.crypto.kek import read_kek

    return read_kek(settings.kek_file)[1]


def give_key(settings: Settings, system_id: UUID) -> None:
    """Write a system into the file of the key-encryption key. Raises KeyUnavailable or PartUnavailable."""
    from adapters.crypto.kek import give_kek

    give_kek(settings.kek_file, system_id)


def contains_users(store: EventStore) -> bool:
    """Whether the event store contains users. A new vault would lack their keys and e-mail claims: it is refused."""
    from domain.kernel.events import BEGINNING
    from domain.users.account import USER

    return any(True for _ in store.read_all(BEGINNING, 1, prefixes=[USER.prefix]))


def open_read_model(settings: Settings) -> ReadModel:
    _need_extra("database", settings.database)
    if settings.database.startswith("postgres"):
        from adapters.postgres.read_model import PostgresReadModel

        return PostgresReadModel(settings.database)
    from adapters.sqlite.read_model import SqliteReadModel

    return SqliteReadModel(sqlite_path(settings.database))


def open_worklist(settings: Settings) -> Worklist:
    """The worklist of process managers, in the database of the read models."""
    _need_extra("database", settings.database)
    if settings.database.startswith("postgres"):
        from adapters.postgres.worklist import PostgresWorklist

        return PostgresWorklist(settings.database)
    from adapters.sqlite.worklist import SqliteWorklist

    return SqliteWorklist(sqlite_path(settings.database))


def usual_roles(settings: Settings) -> list[Role]:
    """The roles that run unless the operator chooses others: not those that lack a broker or a process manager."""
    known = registry(settings.features)
    # Only outside features have processes: without one, no model is imported.
    has_processes = bool(known.modules) and bool(known.processes)
    return [
        role
        for role in known.roles
        if not (role.needs_broker and settings.is_local) and (has_processes or not role.needs_process)
    ]


def keyring_of(vault: Vault, *, even_owed: bool = False) -> Callable[[Sequence[int]], Keyring]:
    """Return a function that loads the data keys of the given subjects and returns a keyring of them.

    The keyring fetches the keys of further subjects when it needs them.
    `even_owed` is for the process that destroys the keys of owed erasures.
    """
    from adapters.crypto.sealing import Keyring

    def opened(subjects: Sequence[int]) -> Keyring:
        keyring = Keyring({}, lambda wanted: vault.data_keys(wanted, even_owed=even_owed))
        keyring.load(subjects)
        return keyring

    return opened


def erased_keyring() -> AllErased:
    from adapters.crypto.sealing import AllErased

    return AllErased()


def sqlite_path(url: str) -> Path:
    """The file of a `sqlite:` URL."""
    from pathlib import Path

    return Path(url.removeprefix("sqlite:")).expanduser()
