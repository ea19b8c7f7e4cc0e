"""Open the service of the `projections` role: projectors, rebuilds, and the queries of every feature."""

from __future__ import annotations

from functools import partial

from adapters.clock import now_us
from adapters.wiring import erased_keyring, keyring_of, open_read_model
from workers.projections.erasures_first import ErasuresFirst
from workers.projections.filling import Filling
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuild, Rebuilds, unfinished
from workers.projections.service import QueriesService, queries_of
from workers.runtime.queries import Sources
from workers.runtime.worker import Worker
from workers.users.owed import Listing


def open_service(worker: Worker) -> QueriesService:
    store, vault = worker.store(), worker.vault()
    read_model = worker.keep(open_read_model(worker.settings))
    projections = worker.registry.projections

    filling = partial(
        Filling, store=store, codec=worker.codec, read_model=read_model, now_us=now_us, log=worker.log
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
    for projection in projections:
        read_model.prepare(projection, now_us=now_us())
        projectors[projection.name] = projector = Projector(filling(projection), rebuilds.ensure)
        worker.follow(f"projector-{projection.name}", projector.run)
    for projection in unfinished(read_model, projections):
        rebuilds.ensure(projection)
    erasures_first = ErasuresFirst(
        Listing(store=store, codec=worker.codec, vault=vault, now_us=now_us, log=worker.log),
        log=worker.log,
        report=partial(worker.report, "listing of erasures"),
    )
    worker.follow("listing of erasures", erasures_first.run)
    sources = Sources(
        store=store,
        codec=worker.codec,
        vault=vault,
        keyring=erasures_first.guarded(keyring_of(vault)),
        erased_keyring=erased_keyring(),
        read_model=read_model,
        projections=projections,
        reached=lambda projection: projectors[projection.name].reached,
        doubt=lambda projection: projectors[projection.name].doubt,
        last_error=lambda projection: projectors[projection.name].last_error.body,
        ensure_rebuild=rebuilds.ensure,
        rebuild_error=rebuilds.last_error,
        now_us=now_us,
    )
    return QueriesService(queries_of(worker.registry, sources))
