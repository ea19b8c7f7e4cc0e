"""What each role is made of. The one place where a new service is registered with the workers."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from uuid import uuid4

from adapters.log import Log
from adapters.settings import Settings, without_password
from adapters.wiring import (
    erased_keyring,
    keyring_of,
    open_caller,
    open_codec,
    open_publisher,
    open_read_model,
    open_server,
    open_store,
    open_vault,
    prepare_home,
)
from domain.errors import PartUnavailable
from domain.handling import CommandHandler
from domain.messages import Service
from domain.ports import EventStore
from domain.projections import PROJECTIONS, Projection
from workers.control import Control
from workers.followers import Follower
from workers.runtime import serve

ID_TIMEOUT_S = 5.0
"""How long a block of ids is waited for: less than whoever asked waits, so that the answer says what is away."""


class _Worker:
    """The parts that a role's service is built from, opened on demand and closed in reverse order."""

    def __init__(self, settings: Settings, stopping: threading.Event, control: Control, log: Log) -> None:
        self.settings = settings
        self.stopping = stopping
        self.control = control
        self.log = log
        self.codec = open_codec()
        self.followers: list[Follower] = []
        self.closing = ExitStack()

    def store(self) -> EventStore:
        store = open_store(self.settings.store)
        self.closing.callback(store.close)
        return store

    def follow(self, name: str, run: Callable[[Callable[[], bool]], None]) -> None:
        self.followers.append(
            Follower(name, run, stopping=self.stopping, on_wait=self.control.waits, log=self.log)
        )

    @property
    def crashed(self) -> bool:
        return any(follower.crashed for follower in self.followers)


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
        on_serving=control.ready,
        on_away=control.away,
        describe=control.describe,
    )
    worker = _Worker(settings, stopping, control, log)

    def has_to_stop() -> bool:
        # A worker doesn't outlive its supervisor: the next one starts its own.
        return stopping.is_set() or worker.crashed or control.is_gone

    try:
        service = _SERVICES[role](worker)
        log.info("ready", role=role, store=without_password(settings.store))
        if settings.is_local:
            control.ready()
        serve(service, server, stopping=has_to_stop, on_trouble=control.waits, log=log)
        crashed = worker.crashed
        service.close()
    finally:
        stopping.set()
        for follower in worker.followers:
            follower.join()
        worker.closing.close()
    if crashed:
        raise PartUnavailable(f"the {role} worker", "a follower crashed")
    log.info("stopped", role=role)


def _now_us() -> int:
    return time.time_ns() // 1000


# --- the roles -------------------------------------------------------------------------------


def _ids(worker: _Worker) -> Service:
    from workers.ids import IdsService

    return IdsService(
        worker.store(),
        worker.codec,
        host=socket.gethostname(),
        pid=os.getpid(),
        store_name=without_password(worker.settings.store),
    )


def _users(worker: _Worker) -> Service:
    from workers.users import IdBlocks, UsersService

    vault = open_vault(worker.settings)
    worker.closing.callback(vault.close)
    caller = open_caller(worker.settings)
    worker.closing.callback(caller.close)

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
        now_us=_now_us,
        new_id=uuid4,
        pause=time.sleep,
    )


def _projections(worker: _Worker) -> Service:
    from workers.projections import Projector, Rebuild, Rebuilds, unfinished
    from workers.queries import QueriesService

    store, vault, read_model = worker.store(), open_vault(worker.settings), open_read_model(worker.settings)
    worker.closing.callback(vault.close)
    worker.closing.callback(read_model.close)
    projectors: dict[str, Projector] = {}
    for projection in PROJECTIONS:
        read_model.prepare(projection, now_us=_now_us())
        projector = projectors[projection.name] = Projector(
            projection,
            store=store,
            codec=worker.codec,
            read_model=read_model,
            now_us=_now_us,
            log=worker.log,
        )
        worker.follow(f"projector-{projection.name}", projector.run)

    def rebuild(projection: Projection) -> Rebuild:
        return Rebuild(
            projection,
            store=store,
            codec=worker.codec,
            read_model=read_model,
            now_us=_now_us,
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
        now_us=_now_us,
    )


def _erasures(worker: _Worker) -> Service:
    from workers.claims import Claims
    from workers.erasures import ErasureProcess, ErasuresService
    from workers.users import USER

    store, vault = worker.store(), open_vault(worker.settings)
    worker.closing.callback(vault.close)
    claims = Claims(
        store=store, codec=worker.codec, vault=vault, now_us=_now_us, new_id=uuid4, pause=time.sleep
    )
    handler = CommandHandler(
        USER, store=store, codec=worker.codec, keyring=keyring_of(vault), pause=time.sleep
    )
    process = ErasureProcess(
        store=store, codec=worker.codec, vault=vault, claims=claims, handler=handler, log=worker.log
    )
    worker.follow("erasures", process.run)
    return ErasuresService(store=store, codec=worker.codec, process=process)


def _relay(worker: _Worker) -> Service:
    from workers.relay import RelayProcess, RelayService

    store, vault = worker.store(), open_vault(worker.settings)
    worker.closing.callback(vault.close)
    publisher = open_publisher(worker.settings, log=worker.log)
    worker.closing.callback(publisher.close)
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
