"""Send a request to an `ids` worker in this process and retry while it replies LATER, as the runtime does."""

from __future__ import annotations

import time
from typing import Any

from domain.kernel.errors import EsError
from domain.kernel.messages import LATER, Request
from workers.ids.service import IdsService


def ask(worker: IdsService, kind: str = "ids.next", **body: Any) -> dict[str, Any]:
    """The body of the reply. A reply that is an `EsError` is raised."""
    (reply,) = worker.handle([Request(kind, body)])
    while reply is LATER:
        time.sleep(0.005)
        (reply,) = worker.handle([Request(kind, body)])
    if isinstance(reply, EsError):
        raise reply
    assert isinstance(reply, dict)
    return reply
