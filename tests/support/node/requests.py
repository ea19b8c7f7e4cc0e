"""Requests of BatchAppend, for tests that call it without a client."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from adapters.eventstoredb.driver import StreamsService
from tests.support.node.protos import NewEvent, StreamState
from tests.support.waiting import DEADLINE_S


def request(stream: str, *, size: int = 2) -> Any:
    return StreamsService._construct_batch_append_req(
        stream_name=stream,
        current_version=StreamState.NO_STREAM,
        events=[NewEvent(type="a", data=b"x" * size)],
        timeout=DEADLINE_S,
        correlation_id=uuid4(),
    )


class OpenRequests:
    """Requests of a call whose client side stays open until `close`."""

    def __init__(self) -> None:
        self._sent = queue.SimpleQueue[Any]()

    def send(self, stream: str, *, size: int = 2) -> None:
        self._sent.put(request(stream, size=size))

    def close(self) -> None:
        self._sent.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._sent.get, None)
