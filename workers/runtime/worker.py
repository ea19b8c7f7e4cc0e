"""One worker: opens the service of its role and its parts, runs followers beside it, closes all in reverse order.

Promise: while a part is unavailable every request is answered with that error, and the worker recovers when the part
does. Refusal: no role is named here; the registry knows the module that opens the service of a role.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import cached_property, partial
from importlib import import_module
from typing import Protocol, TypeVar
from uuid import UUID

from adapters import wiring
from adapters.local.address import Listening, is_served, socket_path
from adapters.local.home_lock import OpenedHome
from adapters.log import Log
from adapters.settings import Settings, without_password
from domain.features import Registry, registry
from domain.kernel.errors import EsError, InvalidInput, OtherSystem, PartUnavailable
from domain.kernel.feature import Feature
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.ports.transport import Caller, Server, Service
from domain.kernel.ports.vault import Vault
from domain.kernel.ports.worklist import Worklist
from workers.runtime import garbage
from workers.runtime.control import Control
from workers.runtime.followers import Follower
from workers.runtime.id_blocks import IdBlocks, draw_ids
from workers.runtime.identity import join_read_model, join_store, join_vault
from workers.runtime.loop import opened, serve

_LOOK_INTERVAL_S = 0.5
"""The interval between two looks whether the home and the socket are where they were."""


class _Part(Protocol):
    def close(self) -> None: ...


P = TypeVar("P", bound=_Part)


class Worker:
    """The parts from which `open_service` of a role builds its service."""

    def __init__(
        self, role: str, settings: Settings, stopping: threading.Event, control: Control, log: Log
    ) -> None:
        self.settings = settings
        self.stopping = stopping
        self.log = log
        self.role = role
        self._control = control
        self._parts = ExitStack()
        self._store: EventStore | None = None
        self._system_id: UUID | None = None
        self._to_follow: list[tuple[str, Callable[[Callable[[], bool]], None]]] = []
        self._followers: list[Follower] = []
        self._wake: Callable[[], None] = lambda: None

    @cached_property
    def registry(self) -> Registry:
        return registry(self.settings.features)

    @cached_property
    def feature(self) -> Feature:
        """The feature that the worker's role belongs to."""
        return self.registry.feature_of(self.role)

    @cached_property
    def codec(self) -> Codec:
        return wiring.open_codec(self.settings.features)

    def store(self) -> EventStore:
        """The event store, opened once. Its system is that of all parts. Raises OtherSystem."""
        if self._store is None:
            store = self.keep(wiring.open_store(self.settings.store))
            self._system_id = system_id = join_store(store, self.settings)
            if not self.settings.is_local:
                with suppress(PartUnavailable):  # the server asks again before it receives a request
                    wiring.claim_broker(self.settings, system_id)
            self._store = store
        return self._store

    def system_id(self) -> UUID | None:
        """The id of the system; None until the store was opened."""
        return self._system_id

    def vault(self) -> Vault:
        """The vault. Raises ForeignPart."""
        store, system_id = self._system()
        vault = self.keep(wiring.open_vault(self.settings, system=system_id))
        join_vault(vault, store, system_id)
        return vault

    def read_model(self) -> ReadModel:
        """The read model. Raises ForeignPart."""
        store, system_id = self._system()
        read_model = self.keep(wiring.open_read_model(self.settings))
        join_read_model(read_model, self.registry.projections, store, system_id)
        return read_model

    def worklist(self) -> Worklist:
        """The worklist of process managers. Raises ForeignPart."""
        self.read_model()  # it lies in the same database, which must be of this system
        return self.keep(wiring.open_worklist(self.settings))

    @property
    def instance(self) -> int:
        """Its number among the workers of its role in this home."""
        return self._control.instance

    def _system(self) -> tuple[EventStore, UUID]:
        store = self.store()
        assert self._system_id is not None
        return store, self._system_id

    def caller(self) -> Caller:
        return self.keep(wiring.open_caller(self.settings))

    def id_source(self) -> Callable[[int], list[int]]:
        """A function that issues n new ids, or raises `PartUnavailable`."""
        return IdBlocks(partial(draw_ids, self.caller()), monotonic_s=time.monotonic).take

    def keep(self, part: P) -> P:
        """Return the part. It is closed after the parts that are kept later."""
        self._parts.callback(part.close)
        return part

    def on_close(self, step: Callable[[], None]) -> None:
        """Run a step before the parts that are kept by now are closed."""
        self._parts.callback(step)

    def follow(self, name: str, run: Callable[[Callable[[], bool]], None]) -> None:
        """Run a follower in its own thread once the service is open."""
        self._to_follow.append((name, run))

    def wake(self) -> None:
        """Let the loop hand waiting requests over again. Any thread may call it."""
        self._wake()

    def wakes(self, wake: Callable[[], None]) -> None:
        """`wake` is the call that does it."""
        self._wake = wake

    def report(self, source: str, error: EsError | None) -> None:
        """Report that work in the background waits for a part, or works again. `es status` shows the error."""
        if error is None:
            self._control.works(source)
        else:
            self._control.waits(source, error)

    # --- life --------------------------------------------------------------------------------

    def open(self) -> Service:
        """Open the service of the role. If that fails, no part stays open."""
        role = self.registry.role(self.role)
        if role is None:
            raise InvalidInput("role", f"must be one of {', '.join(self.registry.role_names)}")
        self._to_follow = []
        try:
            self.store()  # first, whatever the role needs: the broker of another system is refused with it
            service: Service = import_module(role.service).open_service(self)
        except BaseException:
            self._parts.close()
            self._store = None
            raise
        self.log.info("ready", role=self.role, store=without_password(self.settings.store))
        self._control.opened()
        # Start the threads last: a failure above would have to stop them.
        self._followers = [
            Follower(
                name,
                run,
                stopping=self.stopping,
                on_wait=self._control.waits,
                on_work=self._control.works,
                log=self.log,
            )
            for name, run in self._to_follow
        ]
        return service

    @property
    def crashed(self) -> bool:
        return any(follower.crashed for follower in self._followers)

    def close(self) -> None:
        self.stopping.set()
        for follower in self._followers:
            follower.join()
        self._parts.close()


class _Place:
    """The home of a worker, and its socket if it has no supervisor: without them no caller finds the worker."""

    def __init__(self, settings: Settings, role: str, listen_fd: int | None) -> None:
        """Raises PartUnavailable if another worker without a supervisor serves the role, or if the home is gone."""
        wiring.prepare_home(settings)
        self._settings = settings
        self._looked_at_s, self._seen_missing = float("-inf"), False
        try:
            self._home = OpenedHome(settings.home)
        except FileNotFoundError as error:  # since it was prepared
            raise _lost(settings.home) from error
        self._socket: Listening | None = None
        self.listen_fd = listen_fd
        if not settings.is_local or listen_fd is not None:
            return
        if is_served(socket_path(settings.run, role)):
            raise PartUnavailable(
                f"the {role} worker",
                f"another one serves {settings.home}",
                "Stop it first (`es down`), or use another `--home`.",
            )
        self._socket = Listening(settings.run, role)
        self.listen_fd = self._socket.socket.detach()

    @property
    def missing(self) -> str | None:
        """What was moved or removed, if anything was."""
        if self._home.is_lost():
            return str(self._settings.home)
        if self._socket is not None and not self._socket.is_reachable:
            return str(self._socket.path)
        return None

    def is_seen_missing(self) -> bool:
        """Whether something is missing, as of half a second ago: a worker asks after every batch."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s > _LOOK_INTERVAL_S:
            self._looked_at_s, self._seen_missing = now_s, self.missing is not None
        return self._seen_missing

    def close(self) -> None:
        self._home.close()
        if self._socket is not None:
            self._socket.close()


def run_role(
    role: str,
    settings: Settings,
    *,
    listen_fd: int | None,
    control: Control,
    stopping: threading.Event,
    log: Log,
) -> None:
    """Serve a role until `stopping` is set or the supervisor has ended.

    Raises PartUnavailable if a follower crashed, or if the home or the worker's own socket was moved or removed; with
    a broker OtherSystem if the parts do not belong together.
    """
    with closing(_Place(settings, role, listen_fd)) as place:
        worker = Worker(role, settings, stopping, control, log)
        server = _open_server(worker, settings, place, control, log)
        worker.wakes(server.wake)

        def has_to_stop() -> bool:
            control.alive()
            # A worker must not outlive its supervisor: the next supervisor starts its own workers.
            return stopping.is_set() or worker.crashed or control.supervisor_ended or place.is_seen_missing()

        if settings.is_local:
            control.serving()
        try:
            service = _opened(worker, server, has_to_stop, control)
            garbage.collect_seldom()
            serve(
                service,
                server,
                stopping=has_to_stop,
                on_reply=control.replied,
                log=log,
                overlaps=settings.waits_for_servers,
            )
            crashed, missing = worker.crashed, place.missing
            service.close()
        except OtherSystem:
            server.close()  # the broker gives what was received to the rightful workers
            raise
        finally:
            worker.close()
    _need_sound_end(role, crashed, missing)
    if control.supervisor_ended:
        log.warning("supervisor-ended", role=role)
    log.info("stopped", role=role)


def _opened(worker: Worker, server: Server, stopping: Callable[[], bool], control: Control) -> Service:
    return opened(
        worker.open,
        server,
        stopping=stopping,
        log=worker.log,
        on_missing=control.cannot_open,
        # The requests in the queues of a broker are those of its rightful system: take none of them.
        ends_with=() if worker.settings.is_local else (OtherSystem,),
    )


def _open_server(worker: Worker, settings: Settings, place: _Place, control: Control, log: Log) -> Server:
    return wiring.open_server(
        settings,
        worker.role,
        listen_fd=place.listen_fd,
        log=log,
        on_serving=control.serving,
        on_away=control.not_serving,
        describe=control.describe,
        system_id=worker.system_id,
    )


def _need_sound_end(role: str, crashed: bool, missing: str | None) -> None:
    if crashed:
        raise PartUnavailable(f"the {role} worker", "a follower crashed")
    if missing is not None:
        raise _lost(missing)


def _lost(missing: object) -> PartUnavailable:
    return PartUnavailable("the home", f"{missing} was moved or removed", "Start the workers with `es up`.")
