"""Ask every worker behind a broker for its state.

Promise: busy workers reply too, because their I/O threads do. Refusal: no worker is waited for beyond the
given time, and a missing reply is not interpreted: the caller compares with the number of consumers.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import REPLY_QUEUE, ROLL_CALL, Properties, declare_roll_call
from domain.kernel.messages import Body, parse_json


def roll_call(url: str, *, expected: int, wait_s: float) -> list[Body]:
    """Collect the states of workers until `expected` have replied or `wait_s` seconds have passed.

    Each is `{"role", "instance", "host", "pid", "state", "uptime_s", "last_error"}`. Raises PartUnavailable.
    """
    states: list[Body] = []

    def on_reply(channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        with contextlib.suppress(ValueError):  # not a worker of this program
            states.append(parse_json(raw))

    with open_channel(url) as channel:
        declare_roll_call(channel)
        channel.basic_consume(REPLY_QUEUE, on_reply, auto_ack=True)
        channel.basic_publish(ROLL_CALL, "", b"", Properties(reply_to=REPLY_QUEUE))
        deadline = time.monotonic() + wait_s
        while len(states) < expected and (left_s := deadline - time.monotonic()) > 0:
            channel.connection.process_data_events(left_s)
    return states
