"""Open the service of the `erasures` role."""

from __future__ import annotations

import time
from uuid import uuid4

from adapters.clock import now_us
from adapters.wiring import keyring_of, open_dead_letters
from domain.kernel.command_handler import CommandHandler
from domain.users.account import USER
from workers.erasures.process import ErasureProcess
from workers.erasures.service import ErasuresService
from workers.runtime.worker import Worker
from workers.users.claims import Claims


def open_service(worker: Worker) -> ErasuresService:
    store, vault = worker.store(), worker.vault()
    keyring = keyring_of(vault)
    claims = Claims(
        store=store, codec=worker.codec, vault=vault, now_us=now_us, new_id=uuid4, pause=time.sleep
    )
    handler = CommandHandler(USER, store=store, codec=worker.codec, keyring=keyring, pause=time.sleep)
    purge = None  # the local transport has no dead letters
    if not worker.settings.is_local:
        purge = open_dead_letters(worker.settings, worker.registry.role_names).purge
    process = ErasureProcess(
        store=store,
        codec=worker.codec,
        vault=vault,
        claims=claims,
        handler=handler,
        keyring=keyring,
        log=worker.log,
        purge_dead_letters=purge,
    )
    worker.follow("erasures", process.run)
    return ErasuresService(store=store, codec=worker.codec, process=process)
