"""Requests to the supervisor of a home.

Promise: a supervisor that is starting, or whose socket was removed, is waited for. Refusal: none is started here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from adapters.local.caller import ask_once
from adapters.local.home_lock import find_holder
from adapters.settings import Settings
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body

POLL_S = 0.05
STOP = "supervisor.stop"
_REPLY_WAIT_S = 8.0
"""Longer than a supervisor needs to notice that its socket was removed, and to listen again."""


def ask_supervisor(settings: Settings, kind: str, body: Mapping[str, Any] | None = None) -> Body | None:
    """The supervisor's reply, or None if no supervisor lives.

    Raises PartUnavailable with its process id if it is stopping, or does not reply in time. A stop of one that is stopping
    succeeds.
    """
    deadline = time.monotonic() + _REPLY_WAIT_S
    while holder := find_holder(settings.home):
        if holder.state == "stopping":
            if kind == STOP:
                return {"pid": holder.pid}
            raise PartUnavailable(
                "the supervisor",
                f"process {holder.pid} is stopping",
                "`es down` waits for its end; then retry.",
            )
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise PartUnavailable(
                "the supervisor",
                f"process {holder.pid or '(unknown)'} lives and does not reply",
                f"If it is suspended, continue it (`kill -CONT {holder.pid or 'PID'}`). See `es logs supervisor`.",
            )
        try:
            return ask_once(settings.run, "supervisor", kind, body or {}, timeout_s=left_s)
        except OSError:
            # It is starting, stopping, or its socket was removed: then it binds another one.
            time.sleep(POLL_S)
    return None
