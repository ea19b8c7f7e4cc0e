"""Asks every worker behind a broker how it is, wherever it runs.

Promise: a worker that is busy answers too, because its I/O thread does. Refusal: nobody is waited for beyond
the time given, and who didn't answer isn't guessed at: the caller compares with how many there are.
"""

from __future__ import annotations

import json
import time
from typing import Any

from adapters.rabbitmq.connection import REPLY_QUEUE, ROLL_CALL, Properties, declare_roll_call, open_channel
from domain.kernel.messages import Body


def roll_call(url: str, *, expected: int, wait_s: float) -> list[Body]:
    """What workers say of themselves, once `expected` have answered or after `wait_s` seconds.

    Each: `{"role", "instance", "host", "pid", "state", "uptime_s", "last_error"}`. Raises PartUnavailable.
    """
    answers: list[Body] = []

    def on_answer(channel: Any, method: Any, properties: Any, raw: bytes) -> None:
        answers.append(json.loads(raw))

    with open_channel(url) as channel:
        declare_roll_call(channel)
        channel.basic_consume(REPLY_QUEUE, on_answer, auto_ack=True)
        channel.basic_publish(ROLL_CALL, "", b"", Properties(reply_to=REPLY_QUEUE))
        deadline = time.monotonic() + wait_s
        while len(answers) < expected and (left_s := deadline - time.monotonic()) > 0:
            channel.connection.process_data_events(left_s)
    return answers
