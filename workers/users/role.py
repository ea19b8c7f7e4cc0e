"""Open the service of the `users` role."""

from __future__ import annotations

import os
import time

from adapters.clock import now_us
from adapters.wiring import keyring_of
from domain.kernel.uuid7 import Uuid7s
from workers.runtime.worker import Worker
from workers.users.service import UsersService


def open_service(worker: Worker) -> UsersService:
    vault = worker.vault()
    return UsersService(
        store=worker.store(),
        codec=worker.codec,
        vault=vault,
        keyring=keyring_of(vault),
        take_ids=worker.id_source(),
        now_us=now_us,
        new_id=Uuid7s(now_us, os.urandom),
        pause=time.sleep,
    )
