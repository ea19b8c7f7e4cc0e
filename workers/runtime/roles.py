"""What each role is made of. The one place where a new service is registered with the workers."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol, TypeVar
from uuid import uuid4

from adapters.clock import now_us
from adapters.log import Log
from adapters.settings import Settings, without_password
from adapters.wiring import (
    erased_keyring,
    keyring_of,
    open_caller,
    open_codec,
    open_dead_letters,
    open_publisher,
    open_read_model,
    open_server,
    open_store,
    open_vault,
    prepare_home,
)
from domain.features import PROJECTIONS, ROLES
from domain.kernel.command_handler import CommandHandler
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.transport import Service
from domain.kernel.ports.vault import Vault
from domain.kernel.projection import Projection
from workers.runtime.control import Control
from workers.runtime.followers import Follower
from workers.runtime.loop import opened, serve

ID_TIMEOUT_S = 5.0
"""How long a block of ids is waited for: less than whoever asked waits, so that the answer says what is away."""


class _Part(Protocol):
    def close(self) -> None: ...


P = TypeVar("P", bound=_Part)


class _Worker:
    """The parts that a role's service is built from, opened on demand and closed in reverse order."""

    def __init__(self, settings: Settings, stopping: threading.Event, control: Control, log: Log) -> None:
        self.settings = settings
        self.stopping = stopping
        self.control = control
        self.log = log
        self.codec = open_codec()
        self.closing = ExitStack()
        self._to_follow: list[tuple[str, Callable[[Callable[[], bool]], None]]] = []
        self._followers: list[Follower] = []

    def open(self, role: str) -> Service:
        """Raises PartUnavailable with nothing left open."""
        self._to_follow = []
        try:
            service = _SERVICES[role](self)
        except BaseException:
            self.closing.close()
            raise
        self.log.info("ready", role=role, store=without_password(self.settings.store))
        self.control.opened()
        # Only now, because a thread of a service that could not be opened would have to be ended again.
        self._followers = [
            Follower(name, run, stopping=self.stopping, on_wait=self.control.waits, log=self.log)
            for name, run in self._to_follow
        ]
        return service

    def close(self) -> None:
        self.stopping.set()
        for follower in self._followers:
            follower.join()
        self.closing.close()

    def store(self) -> EventStore:
        return self.keep(open_store(self.settings.store))

    def vault(self) -> Vault:
        return self.keep(open_vault(self.settings))

    def keep(self, part: P) -> P:
        """The part, which is closed in its turn."""
        self.closing.callback(part.close)
        return part

    def follow(self, name: str, run: Callable[[Callable[[], bool]], None]) -> None:
        self._to_follow.append((name, run))

    @property
    def crashed(self) -> bool:
        return any(follower.crashed for follower in self._followers)


def run_role(
    role: str,
    settings: Settings,
    *,
    listen_fd: int | None,
    control: Control,
    stopping: threading.Event,
    log: Log,
) -> None:
    """Serve a role until `stopping` is set, the supervisor is gone, or a follower crashed (then it raises)."""
    prepare_home(settings)
    server = open_server(
        settings,
        role,
        listen_fd=listen_fd,
        log=log,
        on_serving=control.serving,
        on_away=control.away,
        describe=control.describe,
    )
    worker = _Worker(settings, stopping, control, log)

    def has_to_stop() -> bool:
        # A worker doesn't outlive its supervisor: the next one starts its own.
        return stopping.is_set() or worker.crashed or control.is_gone

    if settings.is_local:
        control.serving()
    try:
        service = opened(
            lambda: worker.open(role),
            server,
            stopping=has_to_stop,
            log=log,
            on_missing=control.cannot_open,
        )
        serve(service, server, stopping=has_to_stop, on_trouble=control.waits, log=log)
        crashed = worker.crashed
        service.close()
    finally:
        worker.close()
    if crashed:
        raise PartUnavailable(f"the {role} worker", "a follower crashed")
    log.info("stopped", role=role)


# --- the roles -------------------------------------------------------------------------------


def _ids(worker: _Worker) -> Service:
    from workers.ids.service import IdsService

    return IdsService(
        worker.store(),
        worker.codec,
        host=socket.gethostname(),
        pid=os.getpid(),
        store_name=without_password(worker.settings.store),
    )


def _users(worker: _Worker) -> Service:
    from workers.users.id_blocks import IdBlocks
    from workers.users.service import UsersService

    vault = worker.vault()
    caller = worker.keep(open_caller(worker.settings))

    def ask(count: int) -> list[int]:
        answer = caller.ask("ids", "ids.next", {"count": count}, timeout_s=ID_TIMEOUT_S)
        return [
            id_
            for part in answer["ranges"]
            for id_ in range(
                int(part["first"]), int(part["first"]) + part["count"] * part["step"], part["step"]
            )
        ]

    return UsersService(
        store=worker.store(),
        codec=worker.codec,
        vault=vault,
        keyring=keyring_of(vault),
        take_ids=IdBlocks(ask, monotonic_s=time.monotonic).take,
        now_us=now_us,
        new_id=uuid4,
        pause=time.sleep,
    )


def _projections(worker: _Worker) -> Service:
    from workers.projections.projector import Projector
    from workers.projections.queries import QueriesService
    from workers.projections.rebuild import Rebuild, Rebuilds, unfinished

    store, vault = worker.store(), worker.vault()
    read_model = worker.keep(open_read_model(worker.settings))
    projectors: dict[str, Projector] = {}
    for projection in PROJECTIONS:
        read_model.prepare(projection, now_us=now_us())
        projector = projectors[projection.name] = Projector(
            projection,
            store=store,
            codec=worker.codec,
            read_model=read_model,
            now_us=now_us,
            log=worker.log,
        )
        worker.follow(f"projector-{projection.name}", projector.run)

    def rebuild(projection: Projection) -> Rebuild:
        return Rebuild(
            projection,
            store=store,
            codec=worker.codec,
            read_model=read_model,
            now_us=now_us,
            log=worker.log,
        )

    rebuilds = Rebuilds(rebuild, worker.stopping.is_set, worker.log)
    worker.closing.callback(rebuilds.join)
    for projection in unfinished(read_model, PROJECTIONS):
        rebuilds.ensure(projection)
    return QueriesService(
        store=store,
        codec=worker.codec,
        vault=vault,
        keyring=keyring_of(vault),
        erased_keyring=erased_keyring(),
        read_model=read_model,
        projectors=projectors,
        rebuilds=rebuilds,
        now_us=now_us,
    )


def _erasures(worker: _Worker) -> Service:
    from workers.erasures.process import ErasureProcess
    from workers.erasures.service import ErasuresService
    from workers.users.claims import Claims
    from workers.users.service import USER

    store, vault = worker.store(), worker.vault()
    claims = Claims(
        store=store, codec=worker.codec, vault=vault, now_us=now_us, new_id=uuid4, pause=time.sleep
    )
    handler = CommandHandler(
        USER, store=store, codec=worker.codec, keyring=keyring_of(vault), pause=time.sleep
    )
    process = ErasureProcess(
        store=store,
        codec=worker.codec,
        vault=vault,
        claims=claims,
        handler=handler,
        keyring=keyring_of(vault),
        log=worker.log,
        # The local transport keeps none.
        purge_dead_letters=None
        if worker.settings.is_local
        else open_dead_letters(worker.settings, ROLES).purge_person,
    )
    worker.follow("erasures", process.run)
    return ErasuresService(store=store, codec=worker.codec, process=process)


def _relay(worker: _Worker) -> Service:
    from workers.relay.process import RelayProcess
    from workers.relay.service import RelayService

    store, vault = worker.store(), worker.vault()
    publisher = worker.keep(open_publisher(worker.settings, log=worker.log))
    # Its checkpoint is in the vault, which is as durable as the store.
    process = RelayProcess(
        store=store, codec=worker.codec, checkpoints=vault, publisher=publisher, log=worker.log
    )
    worker.follow("relay", process.run)
    return RelayService(store=store, process=process)


_SERVICES: dict[str, Callable[[_Worker], Service]] = {
    "ids": _ids,
    "users": _users,
    "projections": _projections,
    "erasures": _erasures,
    "relay": _relay,
}
