"""Open the service of the `relay` role. Its checkpoint is in the vault, which is as durable as the store."""

from __future__ import annotations

from adapters.wiring import open_publisher
from workers.relay.process import RelayProcess
from workers.relay.service import RelayService
from workers.runtime.worker import Worker


def open_service(worker: Worker) -> RelayService:
    store = worker.store()
    process = RelayProcess(
        store=store,
        codec=worker.codec,
        checkpoints=worker.vault(),
        publisher=worker.keep(open_publisher(worker.settings, log=worker.log, system_id=worker.system_id())),
        log=worker.log,
    )
    worker.follow("relay", process.run)
    return RelayService(store=store, process=process)
