"""Open the service of the `projections` role: projectors, rebuilds, and the queries of every feature."""

from __future__ import annotations

import time

from adapters.clock import now_us
from adapters.wiring import erased_keyring, keyring_of
from domain.kernel.behaviour import behaviour_of
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Vault
from domain.kernel.projection import Projection
from workers.projections.filling import Filling
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuild, Rebuilds, unfinished
from workers.projections.service import QueriesService, queries_of
from workers.runtime.queries import Sources, Waiting
from workers.runtime.shared_tail import SharedTail
from workers.runtime.worker import Worker
from workers.users.owed import Listing

_LISTING_S = 2.0
"""How long one attempt to list erasures takes. Then the requests that came meanwhile are answered."""


def open_service(worker: Worker) -> QueriesService:
    store, vault = worker.store(), worker.vault()
    # Before anything can be shown: a restored vault may hold keys again that erasures have destroyed.
    _list_owed_erasures(worker, store, vault)
    read_model = worker.read_model()
    projections = worker.registry.projections
    codes = {each.name: behaviour_of(each, worker.registry.aggregates) for each in projections}

    def filling(projection: Projection) -> Filling:
        return Filling(
            projection,
            store=store,
            codec=worker.codec,
            read_model=read_model,
            now_us=now_us,
            log=worker.log,
            code=codes[projection.name],
            home=worker.settings.home,
        )

    rebuilds = Rebuilds(
        lambda projection: Rebuild(filling(projection)),
        worker.stopping.is_set,
        log=worker.log,
        now_us=now_us,
        report=worker.report,
    )
    worker.on_close(rebuilds.join)
    projectors: dict[str, Projector] = {}
    tail = SharedTail(store)
    waiting = Waiting(worker.wake)
    for projection in projections:
        read_model.prepare(projection, now_us=now_us(), code=codes[projection.name])
        projectors[projection.name] = projector = Projector(
            filling(projection), rebuilds.ensure, tail, rebuilds.resume, waiting.retry
        )
        worker.follow(f"projector-{projection.name}", projector.run)
    for projection in unfinished(read_model, projections):
        rebuilds.resume(projection)
    sources = Sources(
        store=store,
        codec=worker.codec,
        vault=vault,
        keyring=keyring_of(vault),
        erased_keyring=erased_keyring(),
        read_model=read_model,
        projections=projections,
        reached=lambda projection: projectors[projection.name].reached,
        last_error=lambda projection: projectors[projection.name].last_error.body,
        ensure_rebuild=rebuilds.resume,
        rebuild_error=rebuilds.last_error,
        now_us=now_us,
        code_of=lambda projection: codes[projection.name],
        log=worker.log,
        waiting=waiting,
    )
    return QueriesService(queries_of(worker.registry, sources))


def _list_owed_erasures(worker: Worker, store: EventStore, vault: Vault) -> None:
    """List every erasure that was decided: from then on the keys of these persons open nothing.

    Raises PartUnavailable with the progress if that takes long, as over the first store of an earlier version; the next
    attempt goes on from there. Meanwhile the worker is `waiting`, and answers every request with the error.
    """
    end_s = time.monotonic() + _LISTING_S
    head = store.head()
    reached = Listing(store=store, codec=worker.codec, vault=vault, now_us=now_us, log=worker.log).up_to_head(
        lambda: worker.stopping.is_set() or time.monotonic() > end_s
    )
    if reached < head:
        raise PartUnavailable(
            "the projections worker",
            f"it looks for erasures that the vault does not know, and is at position {reached} of {head}",
            "Wait until `es status` shows it as ready, then retry.",
        )
