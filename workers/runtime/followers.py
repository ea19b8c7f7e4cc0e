"""Threads that follow the store: run, wait and run again while a part is down, stop when asked.

A follower's work continues from a checkpoint, so running it again loses and repeats nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from adapters.log import Log
from domain.kernel.errors import EsError
from domain.kernel.events import Position
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import EventStore


class Follower:
    """One thread. An outage (`EsError`) is waited out; anything else is a bug and stops the worker."""

    def __init__(
        self,
        name: str,
        run: Callable[[Callable[[], bool]], None],
        *,
        stopping: threading.Event,
        on_wait: Callable[[EsError], None],
        log: Log,
    ) -> None:
        self.crashed: BaseException | None = None
        self._run = run
        self._stopping = stopping
        self._on_wait = on_wait
        self._log = log
        self._thread = threading.Thread(target=self._supervise, name=name)
        self._thread.start()

    def _supervise(self) -> None:
        patiently = Retrying(
            retry=retry_if_exception_type(EsError),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0),
            sleep=lambda seconds: void(self._stopping.wait(seconds)),
            before_sleep=self._tell,
        )
        try:
            patiently(self._run, self._stopping.is_set)
        except BaseException as error:
            self.crashed = error
            self._log.error("follower-crashed", error, follower=self._thread.name)

    def _tell(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, EsError):
            self._on_wait(error)
            self._log.error("follower-waits", error, follower=self._thread.name, attempt=state.attempt_number)

    def join(self) -> None:
        self._thread.join()


class Checkpoints(Protocol):
    """The vault's part that followers use: it is as durable as the store."""

    def checkpoint(self, process: str) -> Position: ...
    def save_checkpoint(self, process: str, position: Position) -> None: ...
    def rewind_checkpoint(self, process: str, position: Position) -> None: ...


def start_of(process: str, *, store: EventStore, checkpoints: Checkpoints, log: Log) -> Position:
    """Where a follower goes on: its checkpoint, or the end of a store that was restored from an older copy.

    What is left of such a store was seen before, and new events take the positions of those that are lost: who
    waited until the store has grown up to the checkpoint would pass them over.
    """
    saved, head = checkpoints.checkpoint(process), store.head()
    if head >= saved:
        return saved
    log.warning("store-went-back", process=process, seen=saved, head=head)
    checkpoints.rewind_checkpoint(process, head)
    return head


def progress(store: EventStore, reached: Position) -> Body:
    """How far a follower is: `{"position", "head", "lag"}`. Positions aren't dense, so a lag is no count of events."""
    head = store.head()
    return {"position": reached, "head": head, "lag": max(head - reached, 0)}


def void(_: object) -> None:
    """Drop a result that isn't wanted."""
