"""Open the service of the `processes` role: a manager for each process of the registered features.

Without a process nothing is opened beside the store, and nothing runs.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from adapters.clock import now_us
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.worklist import Worklist
from domain.kernel.process import Process
from workers.processes.instances import Instances
from workers.processes.manager import Manager
from workers.processes.noting import Noting
from workers.processes.sending import Sender
from workers.processes.service import ProcessesService
from workers.runtime.worker import Worker


def open_service(worker: Worker) -> ProcessesService:
    store, processes = worker.store(), worker.registry.processes
    worklist = worker.worklist()
    managers = [_manager(worker, process, store, worklist) for process in processes]
    for manager in managers:
        worker.follow(f"process-{manager.name}", manager.run)
    return ProcessesService(
        managers,
        store=store,
        codec=worker.codec,
        worklist=worklist,
        # Of its own: the managers use theirs in other threads.
        instances={process.name: _instances(worker, process, store) for process in processes},
        now_us=now_us,
    )


def _manager(worker: Worker, process: Process[Any], store: EventStore, worklist: Worklist) -> Manager:
    instances = _instances(worker, process, store)
    return Manager(
        process,
        store=store,
        # Events of an earlier version become those that the process knows.
        types=(*process.types, *worker.registry.upcasters),
        worklist=worklist,
        instances=instances,
        noting=Noting(
            process, instances=instances, store=store, codec=worker.codec, worklist=worklist, now_us=now_us
        ),
        sender=Sender(f"process:{process.name}", caller=worker.caller(), registry=worker.registry),
        # The same after a restart: it has not to wait for the end of its own lease.
        owner=f"{socket.gethostname()} {worker.settings.home} {worker.instance}",
        log=worker.log,
        now_us=now_us,
    )


def _instances(worker: Worker, process: Process[Any], store: EventStore) -> Instances:
    return Instances(process, store=store, codec=worker.codec, pause=time.sleep)
