"""Threads that follow the store: run, wait while a part is unavailable, run again, stop when asked.

Promise: what a follower does continues from its checkpoint, so running it again loses nothing and, with idempotent
reactions, repeats nothing. Refusal: a follower never passes an event over because of an outage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from adapters.log import Log
from domain.kernel.errors import EsError
from domain.kernel.events import Position, Recorded
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import CaughtUp, EventStore

_SAVE_INTERVAL_S = 1.0
"""How often a checkpoint is saved. After a crash the events since the last save are reacted to once more."""


class Follower:
    """One thread. It waits out an outage (`EsError`); anything else is a bug and stops the worker."""

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
            sleep=self._sleep,
            before_sleep=self._report,
        )
        try:
            patiently(self._run, self._stopping.is_set)
        except BaseException as error:
            self.crashed = error
            self._log.error("follower-crashed", error, follower=self._thread.name)

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _report(self, state: RetryCallState) -> None:
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


class CheckpointedFollowing:
    """Follow the store from a checkpoint, react, save the checkpoint: the loop of every process."""

    def __init__(
        self,
        process: str,
        *,
        store: EventStore,
        checkpoints: Checkpoints,
        log: Log,
        monotonic_s: Callable[[], float] = time.monotonic,
        prefixes: Sequence[str] | None = None,
        batch_limit: int = 1,
    ) -> None:
        """`process` names the checkpoint; only streams with one of `prefixes` are followed."""
        self._process = process
        self._store = store
        self._checkpoints = checkpoints
        self._log = log
        self._monotonic_s = monotonic_s
        self._prefixes = prefixes
        self._batch_limit = batch_limit
        self.reached = Position(0)
        """Every event up to here was reacted to."""

    def run(
        self,
        react: Callable[[Sequence[Recorded]], None],
        stopped: Callable[[], bool],
        *,
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        """Hand every event to `react`, in runs of at most `batch_limit`, until `stopped()`.

        `after_each` runs after each reaction and, while the store is idle, several times a second. What they raise
        ends the run; the next one starts from the checkpoint.
        """
        self.reached = saved = self._start()
        saved_at_s = self._monotonic_s()
        self._log.info("following", process=self._process, position=saved)
        batch: list[Recorded] = []
        for item in self._store.follow(saved, stopped=stopped, prefixes=self._prefixes):
            if not isinstance(item, CaughtUp):
                batch.append(item)
                if len(batch) < self._batch_limit:
                    continue
            if batch:
                react(batch)
            batch = []
            self.reached = max(self.reached, item.position)
            after_each()
            # After the reaction: a crash in between reacts once more, never not at all.
            if self.reached > saved and self._monotonic_s() - saved_at_s > _SAVE_INTERVAL_S:
                self._checkpoints.save_checkpoint(self._process, self.reached)
                saved, saved_at_s = self.reached, self._monotonic_s()
        if self.reached > saved:
            self._checkpoints.save_checkpoint(self._process, self.reached)

    def _start(self) -> Position:
        """The checkpoint, or the head of a store that was restored from an older copy.

        What such a store holds was seen before. New events take the positions of the lost ones: a follower that waited
        until the store has grown up to its checkpoint would pass them over.
        """
        saved, head = self._checkpoints.checkpoint(self._process), self._store.head()
        if head >= saved:
            return saved
        self._log.warning("store-went-back", process=self._process, seen=saved, head=head)
        self._checkpoints.rewind_checkpoint(self._process, head)
        return head


def progress(store: EventStore, reached: Position) -> Body:
    """How far a follower is: `{"position", "head", "lag"}`. Positions are not dense, so a lag is no count of events."""
    head = store.head()
    return {"position": reached, "head": head, "lag": max(head - reached, 0)}
