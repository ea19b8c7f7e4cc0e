"""Open the service of the `ids` role."""

from __future__ import annotations

import os
import socket

from adapters.settings import without_password
from workers.ids.service import IdsService
from workers.runtime.worker import Worker


def open_service(worker: Worker) -> IdsService:
    return IdsService(
        worker.store(),
        worker.codec,
        host=socket.gethostname(),
        pid=os.getpid(),
        store_name=without_password(worker.settings.store),
    )
